"""How far two greedy answers to one prompt lie apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engineroom.comparison.observation import Seen
from engineroom.comparison.tokens import Step, Token, agree

_REST = 1e-5
"""The least probability that is granted to all tokens which a side did not name; less is rounding."""


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two answers part.

    Attributes:
        place: index of the first token that differs; None if none does, or if the tokens were not seen.
        gap: largest difference of a token's log-probability up to there, nats; None without log-probabilities.
        first_gap: the same at the first token.
        lead: how much likelier its own token is than the other side's, to the first side, at that place.
    """

    place: int | None
    gap: float | None
    first_gap: float | None
    lead: float | None


def parting(first: Seen, second: Seen) -> Parting:
    """Compares two answers to one prompt. Behind the first token that differs, the contexts differ too."""
    place = _place(first.greedy, second.greedy)
    reach = min(len(first.logprobs), len(second.logprobs), math.inf if place is None else place + 1)
    gaps = [
        _gap(a, b) for a, b in zip(first.logprobs[: int(reach)], second.logprobs[: int(reach)], strict=True)
    ]
    return Parting(place, max(gaps, default=None), gaps[0] if gaps else None, _lead(first, second, place))


def _place(first: Sequence[Token] | None, second: Sequence[Token] | None) -> int | None:
    if first is None or second is None:
        return None
    if len(first) == len(second) and all(map(agree, first, second)):
        return None
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if not agree(a, b)), min(len(first), len(second)))


def first_difference(first: Sequence[Any], second: Sequence[Any]) -> int:
    """The index at which two different sequences part."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))


def _gap(first: Step, second: Step) -> float:
    """The largest difference that is sure. Of a token that one side does not name, only an upper bound is known."""
    a, b = first.named(), second.named()
    both = [abs(a[token] - b[token]) for token in a.keys() & b.keys()]
    beyond = [*(_beyond(a, b) if second.whole else ()), *(_beyond(b, a) if first.whole else ())]
    return max([*both, *beyond], default=0.0)


def _beyond(named: Mapping[Token, float], other: Mapping[Token, float]) -> list[float]:
    """By how much tokens are surely likelier here than on the other side, which does not name them."""
    if not other:
        return []
    rest = max(_REST, 1.0 - math.fsum(map(math.exp, other.values())))
    ceiling = min(math.log(rest), min(other.values()))
    return [named[token] - ceiling for token in named.keys() - other.keys() if named[token] > ceiling]


def _lead(first: Seen, second: Seen, place: int | None) -> float | None:
    if place is None or place >= min(len(first.logprobs), len(second.greedy or ())):
        return None
    entry = first.logprobs[place]
    value = dict(entry.top).get((second.greedy or ())[place])
    return None if value is None else entry.logprob - value
