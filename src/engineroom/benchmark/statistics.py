"""Quantiles of measurements that may stand for several tokens each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distribution:
    """Mean and quantiles, in the unit of what was measured."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Distribution | None:
        return cls.weighted((value, 1) for value in values)

    @classmethod
    def weighted(cls, values: Iterable[tuple[float, int]]) -> Distribution | None:
        """Of (value, how often it counts); None if there are none."""
        ordered = sorted((value, weight) for value, weight in values if weight > 0)
        if not ordered:
            return None
        total = sum(weight for _, weight in ordered)
        mean = sum(value * weight for value, weight in ordered) / total
        return cls(mean, *(_quantile(ordered, total, share) for share in (0.5, 0.9, 0.99)))


def _quantile(ordered: list[tuple[float, int]], total: int, share: float) -> float:
    """Linear between neighbours, as NumPy's default (Hyndman and Fan 1996, "Sample Quantiles", definition 7)."""
    place = share * (total - 1)
    below = _at(ordered, int(place))
    above = _at(ordered, min(int(place) + 1, total - 1))
    return below + (above - below) * (place - int(place))


def _at(ordered: list[tuple[float, int]], place: int) -> float:
    """The value at a place of the sequence in which each stands as often as it counts."""
    for value, weight in ordered:
        place -= weight
        if place < 0:
            return value
    raise IndexError(place)
