"""What was computed for earlier requests and may begin a later one: the next turn of a conversation, a shared system prompt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy

from engineroom.engines.huggingface.extents import Extent
from engineroom.engines.huggingface.kv_cache import KVCache

BLOCK = 16
"""Tokens. Beginnings are looked up in multiples of these; a shorter one is not worth a copy."""


@dataclass(slots=True, eq=False)
class Past:
    """Tokens whose keys and values lie in ``extent``, as the model computed them, alone or with an adapter: ``weights``."""

    tokens: numpy.ndarray
    weights: str | None
    extent: Extent


class PrefixCache:
    """Keeps finished requests' ranges while there is room, those used longest ago going first.

    Attributes:
        cache: the memory that they are ranges of.
    """

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache
        self._pasts: OrderedDict[Past, None] = OrderedDict()  # the latest used last
        self._index: dict[int, OrderedDict[Past, None]] = {}  # by what they begin with

    def __len__(self) -> int:
        return len(self._pasts)

    def __iter__(self) -> Generator[Past, None, None]:
        yield from self._pasts

    def keep(self, past: Past) -> None:
        """Takes over a finished request's range. Of two of which one begins the other, the longer is kept."""
        other, common = self.find(past.tokens, past.weights)
        if other is not None and common == len(past.tokens):
            self.cache.release(past.extent, wipe=False)
            return
        if other is not None and common == len(other.tokens):
            self._drop(other)
        self.cache.extents.resize(past.extent, len(past.tokens))
        self._pasts[past] = None
        for key in _keys(past.tokens, past.weights):
            self._index.setdefault(key, OrderedDict())[past] = None

    def find(self, tokens: numpy.ndarray, weights: str | None) -> tuple[Past | None, int]:
        """A past that shares the beginning, and how many tokens of it: at most a block less than the most there is."""
        best: Past | None = None
        for key in _keys(tokens, weights):
            found = self._index.get(key)
            if found is None:
                break
            best = next(reversed(found))
        if best is None or best.weights != weights:
            return None, 0
        self._pasts.move_to_end(best)
        return best, common_length(best.tokens, tokens)

    def take(self, past: Past) -> Extent:
        """Gives the range away, to who goes on behind these tokens."""
        del self._pasts[past]
        for key in _keys(past.tokens, past.weights):
            found = self._index[key]
            del found[past]
            if not found:
                del self._index[key]
        return past.extent

    def evict(self, *, but: Past | None = None) -> bool:
        """Frees the range used longest ago. False if there is none."""
        oldest = next((past for past in self._pasts if past is not but), None)
        if oldest is None:
            return False
        self._drop(oldest)
        return True

    def clear(self) -> None:
        """Frees all of them."""
        while self.evict():
            pass

    def _drop(self, past: Past) -> None:
        self.cache.release(self.take(past), wipe=False)


def as_array(tokens: Sequence[int]) -> numpy.ndarray:
    return numpy.fromiter(tokens, numpy.int64, len(tokens))


def common_length(one: numpy.ndarray, other: numpy.ndarray) -> int:
    """How many first tokens are the same."""
    length = min(len(one), len(other))
    different = one[:length] != other[:length]
    first = int(different.argmax()) if length else 0
    return first if length and different[first] else length


def _keys(tokens: numpy.ndarray, weights: str | None) -> Generator[int, None, None]:
    """One for each whole block, of all tokens up to its end. What they find is compared token by token."""
    key = hash(weights)
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        key = hash((key, tokens[start : start + BLOCK].tobytes()))
        yield key
