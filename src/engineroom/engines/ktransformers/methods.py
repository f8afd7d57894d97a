"""The ways in which kt-kernel keeps experts, as data: which of its classes computes each, and on what sizes it does."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch

from engineroom.errors import ArgumentError, ModelLoadError, nearest

KTMethod = Literal["BF16", "AMXINT8", "AMXINT4", "FP8", "LLAMAFILE"]


def _import() -> Any:
    """kt-kernel is built with ``-ffast-math``: loading it turns off subnormal numbers for the thread that does."""
    tiny = sys.float_info.min
    off_before = tiny / 2 == 0.0
    import kt_kernel

    torch.set_flush_denormal(off_before)
    return kt_kernel


_package = _import()
library: Any = _package.kt_kernel_ext
"""The C++ module that kt-kernel chose for this processor."""


@dataclass(frozen=True, slots=True)
class Method:
    """
    Attributes:
        classes: kt-kernel's, best first. Which of them there are depends on the processor.
        hidden: the model's width must be a multiple of this.
        inner: each thread pool's part of an expert's width must be a multiple of this. What breaks either rule crashes
            the process, or (LLAMAFILE, of more than ten tokens) comes out as zeros: seen with kt-kernel 0.7.2.
        converts: ``engineroom convert-experts`` writes it.
        likeness: the cosine that its output must reach at least against the layer that it replaces.
    """

    name: KTMethod
    classes: tuple[str, ...]
    hidden: int
    inner: int
    converts: bool
    likeness: float

    @property
    def kernel(self) -> Any:
        """kt-kernel's class on this processor; None if there is none."""
        found = (getattr(library.moe, name, None) for name in self.classes)
        return next((kernel for kernel in found if kernel is not None), None)

    def check_sizes(self, hidden: int, inner: int, pools: int) -> None:
        """
        Raises:
            ModelLoadError: kt-kernel does not compute experts of this size so.
        """
        if hidden % self.hidden == 0 and inner % (self.inner * pools) == 0:
            return
        others = [
            name
            for name in available()
            if hidden % METHODS[name].hidden == 0 and inner % (METHODS[name].inner * pools) == 0
        ]
        by_pools = f" in each of {pools} thread pools" if pools > 1 else ""
        raise ModelLoadError(
            f"kt_method={self.name} does not take experts of {hidden} × {inner}",
            why=f"kt-kernel needs multiples of {self.hidden} and {self.inner}{by_pools}",
            fix=f"kt_method={others[0]} does"
            if others
            else "lower kt_threadpool_count"
            if pools > 1
            else "use infer_backend=huggingface",
        )


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("BF16", ("AMXBF16_MOE", "AVX2BF16_MOE"), 32, 32, converts=False, likeness=0.999),
            Method("AMXINT8", ("AMXInt8_MOE",), 64, 64, converts=True, likeness=0.99),
            Method("AMXINT4", ("AMXInt4_MOE",), 128, 128, converts=True, likeness=0.85),
            Method("FP8", ("AMXFP8_MOE", "AVX2FP8_MOE"), 128, 128, converts=False, likeness=0.99),
            Method("LLAMAFILE", ("MOE",), 256, 256, converts=True, likeness=0.99),
        )
    }
)


def variant() -> str:
    """Which build of kt-kernel runs here: amx, avx512_bf16, …, avx2."""
    return str(_package.__cpu_variant__)


def available() -> tuple[str, ...]:
    """The methods that this processor and this build of kt-kernel have."""
    return tuple(name for name, method in METHODS.items() if method.kernel is not None)


def method_called(name: str) -> Method:
    """
    Raises:
        ArgumentError: there is no such method, or not here.
    """
    method = METHODS.get(name)
    if method is None:
        guess = nearest(name, METHODS)
        raise ArgumentError(
            f"unknown kt_method={name}",
            why=f"methods: {', '.join(METHODS)}",
            fix=f"did you mean kt_method={guess}?" if guess else f"choose one of {', '.join(available())}",
            argument="kt_method",
        )
    if method.kernel is None:
        raise ArgumentError(
            f"kt_method={name} is not available here",
            why=f"kt-kernel runs its {variant()} build on this processor, and that has no {' or '.join(method.classes)}",
            fix=f"choose one of {', '.join(available())}",
            argument="kt_method",
        )
    return method


def weight_dtype(method: Method, computed_in: torch.dtype) -> torch.dtype:
    """In what a checkpoint's weights are handed to ``method``, in a model that computes in a dtype.

    Raises:
        ArgumentError: LLAMAFILE has no arithmetic for it (its bfloat16 gives NaN, seen with 0.7.2).
    """
    if method.name != "LLAMAFILE":
        return torch.bfloat16
    if computed_in not in (torch.float32, torch.float16):
        raise ArgumentError(
            f"kt_method=LLAMAFILE does not take the checkpoint's own weights in {str(computed_in).removeprefix('torch.')}",
            why="it has kernels for float32, float16, and the formats of GGUF files",
            fix="give kt_weight_path a folder that engineroom convert-experts made, or add infer_dtype=float32",
            argument="kt_method",
        )
    return computed_in
