"""Do two sets of drawn answers come from one distribution? A permutation test, with nothing but the draws."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

from engineroom.comparison.tokens import Token

Draws: TypeAlias = Sequence[tuple[Token, ...]]

SIGNIFICANCE = 0.001
"""Two equal distributions are called different once in a thousand comparisons."""

_SHUFFLES = 1999
_ENOUGH = 10
"""So many shuffles that part as far as the real draws settle it: nothing is unusual about them."""


def probability(pairs: Sequence[tuple[Draws, Draws]]) -> float:
    """How probable it is that draws of one distribution part as far as these.

    Args:
        pairs: for each conversation the draws of the two sides; each draw is the first tokens of an answer.

    The distance is the sum, over conversations and token places, of the difference in counts. Whole answers are
    dealt out anew, so that what hangs together in one answer stays together (Good 2005, "Permutation Tests", §3.2).
    """
    observed = sum(_distance(first, second) for first, second in pairs)
    shuffle = random.Random(0).shuffle  # the same draws get the same verdict
    as_far = 0
    for done in range(1, _SHUFFLES + 1):
        as_far += sum(_dealt_anew(first, second, shuffle) for first, second in pairs) >= observed
        if as_far >= _ENOUGH:
            return as_far / done
    return (as_far + 1) / (_SHUFFLES + 1)


def _dealt_anew(first: Draws, second: Draws, shuffle: object) -> int:
    together = [*first, *second]
    assert callable(shuffle)
    shuffle(together)
    return _distance(together[: len(first)], together[len(first) :])


def _distance(first: Draws, second: Draws) -> int:
    counts: Counter[tuple[int, Token]] = Counter()
    for sign, draws in ((1, first), (-1, second)):
        for draw in draws:
            for place in enumerate(draw):
                counts[place] += sign
    return sum(map(abs, counts.values()))
