"""The Transformers engine, with the experts of sparse models computed on the CPU by kt-kernel, KTransformers' library."""

from engineroom.engines.ktransformers.engine import KTransformersEngine

__all__ = ["KTransformersEngine"]
