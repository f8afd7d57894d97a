"""What is asked: how many requests, how long, how many at once."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass

from engineroom.errors import ArgumentError

_SPAN = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class Span:
    """A number of tokens, or a range of which each request draws one evenly, both ends included."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str, option: str) -> Span:
        """``33``, or ``8-800``.

        Raises:
            ArgumentError: it is neither, or below 1, or the ends are in the wrong order.
        """
        match = _SPAN.fullmatch(text.strip())
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high:
            raise ArgumentError(
                f"{option} {text!r} is not a length",
                why="it is a number of tokens, or a range of them, of at least 1",
                fix=f"{option} 128, or {option} 8-800",
            )
        return cls(low, high)

    def draw(self, chance: random.Random) -> int:
        return chance.randint(self.low, self.high)

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


@dataclass(frozen=True, slots=True)
class Level:
    """How requests come: so many at once, each followed by the next; or by themselves, ``rate`` a second on average.

    Exactly one of the two is given. Arrivals at a rate are a Poisson process, and wait for nobody.
    """

    concurrency: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        return f"{self.concurrency} at once" if self.rate is None else f"{self.rate:g} a second"

    def default_requests(self) -> int:
        """Four rounds of a concurrency, twenty seconds of a rate; at least 16."""
        return max(16, math.ceil(20 * self.rate) if self.rate is not None else 4 * (self.concurrency or 1))

    def default_warmup(self) -> int:
        """As many as will run at once, so that each batch size has been seen."""
        return self.concurrency or 1


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole measurement.

    Attributes:
        requests: measured, at each level; None for as many as the level needs.
        warmup: requests sent before, at each level, and not measured; None for as many as the level has at once.
        seed: of lengths, words and arrivals. Two runs with one seed send the same prompts, which a server with a
            prefix cache then knows.
        timeout: seconds after which a request counts as failed; None waits.
    """

    levels: tuple[Level, ...] = (Level(concurrency=1),)
    prompt: Span = Span(128, 128)
    answer: Span = Span(64, 64)
    requests: int | None = None
    warmup: int | None = None
    seed: int = 0
    timeout: float | None = None

    def requests_at(self, level: Level) -> int:
        return level.default_requests() if self.requests is None else self.requests

    def warmup_at(self, level: Level) -> int:
        return level.default_warmup() if self.warmup is None else self.warmup


@dataclass(frozen=True, slots=True)
class Task:
    """One request: a user's message, and the length of the answer that is asked for, tokens."""

    text: str
    answer_tokens: int


def check_context(plan: Plan, context_length: int | None) -> None:
    """
    Raises:
        ArgumentError: the longest prompt and the longest answer don't fit into the context together.
    """
    longest = plan.prompt.high + plan.answer.high
    if context_length is not None and longest > context_length:
        raise ArgumentError(
            f"{plan.prompt.high} tokens of prompt and {plan.answer.high} of answer are {longest}; the context has {context_length}",
            why="prompt and answer share the context",
            fix="shorten --prompt-tokens or --answer-tokens",
        )
