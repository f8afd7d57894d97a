"""Who may enter the engine: a cap on what runs, a bounded queue before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

from engineroom.errors import EngineBusyError, EngineroomError, ParameterError


class Admission:
    """Counts answers, not requests: one that asks for ``n`` answers takes ``n`` places. Used on one event loop.

    Args:
        limit: answers that may be in the engine at once.
        max_queue: answers that may wait beside them.

    Attributes:
        accepted: answers that run or wait now.
        running: those of them that have their turn in the engine.
        refusal: makes the error that everybody who comes gets, while it is set.
    """

    def __init__(self, limit: int, max_queue: int) -> None:
        self.limit = limit
        self.max_queue = max_queue
        self.accepted = 0
        self.running = 0
        self.refusal: Callable[[], EngineroomError] | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self._slots = asyncio.Semaphore(limit)
        self._moved_at = 0.0

    def moved(self) -> None:
        """The engine gave something."""
        self._moved_at = time.monotonic()

    @property
    def still(self) -> float:
        """Seconds for which the engine has given nothing though answers are due; 0 if none are.

        Those that are being prepared count, too: an engine's process that stands still may not even begin.
        """
        return time.monotonic() - self._moved_at if self.accepted else 0.0

    def check_open(self) -> None:
        """
        Raises:
            EngineroomError: nobody may enter now.
        """
        if self.refusal is not None:
            raise self.refusal()

    async def emptied(self) -> None:
        """Waits until nobody runs or waits."""
        await self._empty.wait()

    @contextmanager
    def place(self, n: int, prompts: int = 1) -> Generator[None, None, None]:
        """Holds places among those running and waiting: ``n`` answers to each of the ``prompts``.

        Raises:
            ParameterError: there are never so many.
            EngineBusyError: they are not free. Raised before anything is computed for the request.
            EngineroomError: nobody may enter now.
        """
        self.check_open()
        answers = n * prompts
        if answers > self.limit + self.max_queue:
            asked = f"n={n}" if prompts == 1 else f"n={n} for {prompts} prompts"
            raise ParameterError(
                f"{asked} is more than this model takes at once",
                why=f"{self.limit} answers may run and {self.max_queue} may wait",
                fix="ask for fewer, or raise max_concurrent or max_queue",
                parameter="n" if n > 1 else "prompt",
            )
        if self.accepted + answers > self.limit + self.max_queue:
            raise EngineBusyError(
                "too many requests",
                why=f"{self.accepted} answers are running or waiting; the limit is {self.limit} + {self.max_queue}",
                fix="try again later, or raise max_concurrent or max_queue",
            )
        if not self.accepted:
            self.moved()
        self.accepted += answers
        self._empty.clear()
        try:
            yield
        finally:
            self.accepted -= answers
            if not self.accepted:
                self._empty.set()

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None, None]:
        """Waits for a turn in the engine. Cancelling the wait gives the turn to the next."""
        async with self._slots:
            if not self.running:
                self.moved()
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1
                self.moved()
