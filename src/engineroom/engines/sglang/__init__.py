"""SGLang: its own server, a child process in an environment of its own or one that runs already; driven in token ids."""

from engineroom.engines.sglang.engine import SglangEngine

__all__ = ["SglangEngine"]
