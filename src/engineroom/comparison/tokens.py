"""How a token is known: by its id, or, to a server that gives no ids, by its bytes. And how to tell one of the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from engineroom.types import TokenLogprob

Token: TypeAlias = "int | bytes | None"
"""None is a token that was there and can't be told from others: half a character, shown as U+FFFD."""


@dataclass(frozen=True, slots=True)
class Step:
    """One place of an answer.

    Attributes:
        top: the likeliest tokens there with their log-probabilities, as far as they can be told.
        whole: ``top`` has all that the engine named.
    """

    token: Token
    logprob: float
    top: tuple[tuple[Token, float], ...] = ()
    whole: bool = True

    @classmethod
    def of(cls, entry: TokenLogprob) -> Step:
        return cls(entry.token_id, entry.logprob, entry.top)

    @classmethod
    def told(cls, token: Token, logprob: float, top: Sequence[tuple[Token, float]]) -> Step:
        """A step of tokens that may be unknown; two of one spelling can't be told apart either."""
        names = Counter(name for name, _ in top)
        kept = tuple((name, value) for name, value in top if name is not None and names[name] == 1)
        return cls(token, logprob, kept, whole=len(kept) == len(top))

    def spelled(self, spelling: Mapping[int, bytes]) -> Step:
        top = [(spell(name, spelling), value) for name, value in self.top]
        return Step.told(spell(self.token, spelling), self.logprob, top)

    def named(self) -> dict[Token, float]:
        """Each known token's log-probability, the chosen one's too."""
        known = dict(self.top)
        if self.token is not None:
            known.setdefault(self.token, self.logprob)
        return known


def spell(token: Token, spelling: Mapping[int, bytes]) -> Token:
    """The token's bytes, if they are known."""
    return spelling.get(token) if isinstance(token, int) else token


def agree(first: Token, second: Token) -> bool:
    """Could the two be one token? An unknown one could be any."""
    return first is None or second is None or first == second
