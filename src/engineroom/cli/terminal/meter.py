"""One answer as it comes: its text, its thoughts, and how fast it came."""

from __future__ import annotations

import time
from collections.abc import Callable

from engineroom.cli.conversation import STOPPED, Said
from engineroom.types import Delta, Usage


class Meter:
    """Collects the deltas of one answer.

    Args:
        thinking_tags: the tags to leave out of the reasoning.
        begun: an earlier part of the answer, which this one goes on with.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        thinking_tags: tuple[str, str] | None = None,
        begun: Said | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._tags = thinking_tags or ()
        self._begun = begun or Said("assistant", "")
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._clock = clock
        self._start = clock()
        self._first: float | None = None
        self.tokens = 0
        self.finish_reason: str | None = None
        self.usage: Usage | None = None

    def push(self, delta: Delta) -> None:
        if self._first is None and delta.token_ids:
            self._first = self._clock()
        (self._reasoning if delta.channel == "reasoning" else self._text).append(delta.text)
        self.tokens += len(delta.token_ids)
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.usage = delta.usage or self.usage

    @property
    def empty(self) -> bool:
        """Has nothing come that could be kept?"""
        return not "".join((*self._text, *self._reasoning)).strip()

    def said(self, prompt_tokens: int | None = None) -> Said:
        """The answer so far; without a finish reason it was stopped.

        Args:
            prompt_tokens: length of the prompt, where the engine could not say it any more.
        """
        begun, now = self._begun, self._clock()
        reasoning = begun.reasoning + self._without_tags("".join(self._reasoning))
        text = begun.text + "".join(self._text)
        completion = self.usage.completion_tokens if self.usage else self.tokens
        return Said(
            "assistant",
            text.lstrip("\n") if reasoning else text,
            reasoning=reasoning.lstrip("\n").rstrip() if text else reasoning.lstrip("\n"),
            ended=self.finish_reason or STOPPED,
            prompt_tokens=begun.prompt_tokens or (self.usage.prompt_tokens if self.usage else prompt_tokens),
            completion_tokens=(begun.completion_tokens or 0) + completion,
            first_token_seconds=begun.first_token_seconds or (self._first and self._first - self._start),
            seconds=(begun.seconds or 0.0) + now - self._start,
        )

    def _without_tags(self, text: str) -> str:
        for tag in self._tags:
            text = text.replace(tag, "")
        return text


def tokens_per_second(said: Said) -> float | None:
    """How fast tokens came after the first one; None for fewer than two."""
    if not said.completion_tokens or said.completion_tokens < 2 or said.seconds is None:
        return None
    span = said.seconds - (said.first_token_seconds or 0.0)
    return (said.completion_tokens - 1) / span if span > 0 else None
