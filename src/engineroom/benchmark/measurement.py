"""One request, measured: when it came, when its tokens did, and how it ended."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass, field

from engineroom.benchmark.plan import Task
from engineroom.benchmark.target import Target
from engineroom.errors import EngineroomError, ServerError


@dataclass(slots=True)
class Record:
    """Times are seconds since the level began.

    Attributes:
        came: when the request was due. At a rate it counts from here, however late it was sent.
        first: when its first token came; None if none did.
        last: when its last one did.
        ended: when its stream ended, or it failed.
        asked_tokens: the answer's length that was asked for.
        gaps: time since the tokens before, and how many tokens came then, for all but the first ones.
        error: why it failed, if so; then no other figure counts.
    """

    came: float
    asked_tokens: int
    first: float | None = None
    last: float | None = None
    ended: float = 0.0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    gaps: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    error: str | None = None

    @property
    def ttft(self) -> float | None:
        """Time to the first token."""
        return None if self.first is None else self.first - self.came

    @property
    def end_to_end(self) -> float:
        return self.ended - self.came

    def inter_token(self) -> list[tuple[float, int]]:
        """Time from one token to the next, and how often. Tokens that come together share the time before them."""
        return [(seconds / tokens, tokens) for seconds, tokens in self.gaps]


async def measure(target: Target, task: Task, began: float, came: float, patience: float | None) -> Record:
    """Asks for one answer and reads it to its end. What goes wrong with it is kept in the record.

    Args:
        began: when the level did, by ``time.perf_counter``.
        came: when this request was due, seconds after that.
        patience: seconds after which it counts as failed.
    """
    record = Record(came, task.answer_tokens)
    try:
        async with asyncio.timeout(patience):
            await _read(target, task, record, began)
    except TimeoutError as error:
        late = f"no end after {patience:g} seconds" if patience is not None else str(error)
        record.error = _told(error) if isinstance(error, EngineroomError) else late
    except EngineroomError as error:
        record.error = _told(error)
    record.ended = time.perf_counter() - began
    return record


def _told(error: EngineroomError) -> str:
    return f"{type(error).__name__}: {error.what}"


async def _read(target: Target, task: Task, record: Record, began: float) -> None:
    counted, untold = 0, False
    async with aclosing(target.ask(task)) as arrivals:
        async for arrival in arrivals:
            now = time.perf_counter() - began
            if arrival.prompt_tokens is not None:
                record.prompt_tokens = arrival.prompt_tokens
            if arrival.answer_tokens is not None:
                record.answer_tokens = arrival.answer_tokens
            if arrival.tokens == 0:
                continue
            if record.first is None:
                record.first = now
            elif record.last is not None:
                record.gaps.append((now - record.last, arrival.tokens or 0))
            record.last = now
            counted += arrival.tokens or 0
            untold = untold or arrival.tokens is None
    record.answer_tokens = record.answer_tokens or counted
    if not record.prompt_tokens or (untold and not record.answer_tokens):
        raise ServerError("the server does not count its tokens")
    if record.first is None:
        raise ServerError("the answer is empty")
    if untold:
        # Pieces of unknown size: only the mean over the answer is known.
        span = (record.last or 0.0) - (record.first or 0.0)
        record.gaps = [(span, record.answer_tokens - 1)] if record.answer_tokens > 1 else []
