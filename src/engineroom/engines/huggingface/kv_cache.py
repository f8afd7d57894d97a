"""The keys and values of all live requests, in one memory of a fixed size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from engineroom import machine
from engineroom.engines.huggingface.extents import GRANULE, Extent, Extents, rounded


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer's keys and values of one token: [heads, key_size] and [heads, value_size].

    Attributes:
        window: tokens that the layer's attention sees; None is all.
    """

    heads: int
    key_size: int
    value_size: int
    dtype: torch.dtype
    window: int | None = None

    @property
    def bytes_per_token(self) -> int:
        return self.heads * (self.key_size + self.value_size) * self.dtype.itemsize


class KVCache:
    """Memory for ``size`` tokens: keys[layer] is [size, heads, key_size], values[layer] [size, heads, value_size].

    What was never written is zero, and what a failed request wrote is made zero again: attention over several requests
    at once multiplies what it masks out by nothing, and nothing times a NaN would be a NaN.
    """

    def __init__(self, layers: Sequence[LayerShape], size: int, device: torch.device) -> None:
        self.layers = tuple(layers)
        self.extents = Extents(size)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._device = device
        self.take_memory()

    def take_memory(self) -> None:
        """Makes the tensors, all zeros."""
        size, device = self.size, self._device
        self.keys = [_zeros((size, s.heads, s.key_size), s.dtype, device) for s in self.layers]
        self.values = [_zeros((size, s.heads, s.value_size), s.dtype, device) for s in self.layers]

    def give_memory_back(self) -> None:
        """Lets go of the tensors. No range may be taken."""
        assert not len(self.extents)
        self.keys, self.values = [], []

    @property
    def size(self) -> int:
        """Tokens."""
        return self.extents.size

    def allocate(self, tokens: int) -> Extent | None:
        """A range for so many tokens; None if so many are not free. Ranges are moved together where none is long enough."""
        if rounded(tokens) > self.extents.free:
            return None
        extent = self.extents.allocate(tokens)
        if extent is None:
            self.extents.compact(self._move)
            extent = self.extents.allocate(tokens)
        return extent

    def release(self, extent: Extent, *, wipe: bool) -> None:
        """Gives the range back; ``wipe`` if what is in it may not be a number."""
        if wipe:
            for store in (*self.keys, *self.values):
                store[extent.start : extent.end].zero_()
        self.extents.release(extent)

    def copy(self, source: Extent, target: Extent, count: int) -> None:
        """The first ``count`` tokens of one range to another."""
        self._move(source.start, target.start, count)

    def _move(self, source: int, target: int, count: int) -> None:
        for store in (*self.keys, *self.values):
            taken = store[source : source + count]
            overlaps = abs(source - target) < count
            store[target : target + count] = taken.clone() if overlaps else taken


def default_budget(device: torch.device) -> int:
    """Bytes for keys and values where nobody said how many: a quarter of the main memory that is free now, the model
    being loaded, or half of a GPU's.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    memory = machine.memory()
    return memory.free // 4 if memory is not None else _UNKNOWN


_UNKNOWN = 1 << 30
"""Bytes, on a system that does not tell how much is free."""


def tokens_within(budget: int, layers: Sequence[LayerShape], most: int) -> int:
    """How many tokens' keys and values fit into ``budget`` bytes, ``most`` at most; a multiple of a range's grain."""
    return min(budget // sum(shape.bytes_per_token for shape in layers), rounded(most)) // GRANULE * GRANULE


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros. In main memory they take no room before they are written: numpy asks the system for pages of zeros."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    count = dtype.itemsize
    for length in shape:
        count *= length
    return torch.from_numpy(numpy.zeros(count, numpy.uint8)).view(dtype).view(shape)  # pyright: ignore[reportUnknownMemberType]
