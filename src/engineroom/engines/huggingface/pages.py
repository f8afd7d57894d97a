"""Memory for weights in huge pages. A token reads every weight once; with pages of 4 KiB the processor looks up addresses
for a good part of that time. Linux gives pages of 2 MiB to whoever asks (``madvise``, transparent_hugepage.rst)."""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

_ADVICE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)
_ALIGNMENT = 64
"""Bytes: a cache line, and what vector instructions like best."""


class Pages:
    """Room for tensors of so many bytes each. Memory is taken as it is written, and freed with the last of them.

    Where there are no huge pages (another system, or a kernel without them), it is common memory.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        size = max(1, sum(map(_aligned, sizes)))
        if sys.platform == "win32" or _ADVICE is None:
            room = mmap.mmap(-1, size)
        else:
            room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with contextlib.suppress(OSError):
                room.madvise(_ADVICE)
        self._left = torch.frombuffer(room, dtype=torch.uint8)

    def put(self, tensor: Tensor) -> Tensor:
        """A contiguous copy of it in here."""
        size = tensor.numel() * tensor.element_size()
        place, self._left = self._left[:size], self._left[_aligned(size) :]
        return place.view(tensor.dtype).view(tensor.shape).copy_(tensor)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
