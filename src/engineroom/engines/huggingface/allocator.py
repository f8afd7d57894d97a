"""How the C library's allocator treats the memory of a step, on a CPU.

glibc gives large blocks back to the system as soon as they are free, and each step asks for the same ones again. Fresh
memory comes page by page, each with a fault: about a tenth of the time of a step that reads a prompt
(``benchmarks/README.md``).
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_LARGEST_BLOCK = 32 << 20
"""Bytes; the most that glibc takes for this. Larger blocks come from the system each time."""

_KEPT = 256 << 20
"""Bytes of free memory that a process keeps at most at the end of its heap."""

_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Who has set one of these has an allocator, or thoughts of their own."""


def keep_freed_memory() -> None:
    """Free memory of large blocks stays with this process. Called when the weights are in place, which are larger."""
    libc = _glibc()
    if libc is not None and not any(os.environ.get(name) for name in _SETTINGS):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def give_back() -> None:
    """All free memory goes back to the system: a model's weights were in it."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> Any | None:
    if not sys.platform.startswith("linux"):
        return None
    libc: Any = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
