"""Who owns which tokens of the KV memory: contiguous ranges, first fit, compacted when they are scattered.

A range per request, not a table of blocks: attention on a CPU reads a contiguous range as it lies, and spends 3 to 6
times as long on one that has to be gathered from blocks first (``benchmarks/README.md``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

GRANULE = 32
"""Tokens. Every range begins and ends at a multiple, so that requests of about one length get ranges of one length."""


@dataclass(slots=True, eq=False)
class Extent:
    """The tokens from ``start`` to ``start + capacity``. Moves when the memory is compacted."""

    start: int
    capacity: int

    @property
    def end(self) -> int:
        return self.start + self.capacity


def rounded(tokens: int) -> int:
    """The capacity of a range for so many tokens."""
    return -(-tokens // GRANULE) * GRANULE


class Extents:
    """Hands out ranges of ``size`` tokens."""

    def __init__(self, size: int) -> None:
        self.size = size // GRANULE * GRANULE
        self.used = 0
        self._taken: list[Extent] = []  # by start

    @property
    def free(self) -> int:
        return self.size - self.used

    def __len__(self) -> int:
        return len(self._taken)

    def allocate(self, tokens: int) -> Extent | None:
        """The first range with room for so many tokens; None if there is no such range."""
        capacity, start = rounded(tokens), 0
        for place, extent in enumerate(self._taken):
            if extent.start - start >= capacity:
                return self._take(place, start, capacity)
            start = extent.end
        return self._take(len(self._taken), start, capacity) if self.size - start >= capacity else None

    def _take(self, place: int, start: int, capacity: int) -> Extent:
        extent = Extent(start, capacity)
        self._taken.insert(place, extent)
        self.used += capacity
        return extent

    def release(self, extent: Extent) -> None:
        del self._taken[self._place(extent)]
        self.used -= extent.capacity

    def resize(self, extent: Extent, tokens: int) -> bool:
        """Gives back what is behind so many tokens, or adds what lies free behind the range. False if it does not."""
        capacity, place = rounded(tokens), self._place(extent)
        end = self._taken[place + 1].start if place + 1 < len(self._taken) else self.size
        if extent.start + capacity > end:
            return False
        self.used += capacity - extent.capacity
        extent.capacity = capacity
        return True

    def compact(self, move: Callable[[int, int, int], None]) -> None:
        """Closes every gap. ``move(source, target, count)`` copies tokens; target < source, and they may overlap."""
        start = 0
        for extent in self._taken:
            if extent.start != start:
                move(extent.start, start, extent.capacity)
                extent.start = start
            start = extent.end

    def _place(self, extent: Extent) -> int:
        place = bisect_left(self._taken, extent.start, key=lambda other: other.start)
        assert self._taken[place] is extent
        return place
