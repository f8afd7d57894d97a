"""A request's ``timeout``: what it has left, how far it got, and the stream that ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from engineroom.errors import RequestTimeoutError
from engineroom.types import Delta

T = TypeVar("T")

_AHEAD = 64
"""Deltas that may wait for their reader."""


class Deadline:
    """Counts from when it is made. Used on one event loop.

    Attributes:
        stage: what the request is doing, told in the error.
        tokens: tokens of its answers so far.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.at = asyncio.get_running_loop().time() + timeout
        self.stage = "it was being rendered"
        self.tokens = 0

    def error(self) -> RequestTimeoutError:
        return RequestTimeoutError(
            f"the request was not done within timeout={self.timeout:g} seconds",
            why=f"{self.tokens} tokens of the answer had been made" if self.tokens else self.stage,
            fix="raise timeout, ask for less with max_new_tokens, or send fewer requests at once",
            timeout=self.timeout,
            tokens=self.tokens,
        )

    async def wait(self, work: Awaitable[T]) -> T:
        """Awaits, and cancels what it awaits when the time is up.

        Raises:
            RequestTimeoutError: it was.
        """
        limit = asyncio.timeout_at(self.at)
        try:
            async with limit:
                return await work
        except TimeoutError as error:
            if limit.expired() and not isinstance(error, RequestTimeoutError):
                raise self.error() from None
            raise

    async def stream(self, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
        """The deltas, until the time is up. Then the source is closed, even if its reader is elsewhere.

        Raises:
            RequestTimeoutError: it was; deltas that were made in time come before it.
        """
        items: asyncio.Queue[Delta | None] = asyncio.Queue()
        room = asyncio.Semaphore(_AHEAD)

        async def pull() -> None:
            async with aclosing(deltas):
                async for delta in deltas:
                    self.tokens += len(delta.token_ids)
                    items.put_nowait(delta)
                    await room.acquire()

        async def drain() -> None:
            try:
                await self.wait(pull())
            finally:
                items.put_nowait(None)

        task = asyncio.create_task(drain())
        try:
            while (delta := await items.get()) is not None:
                room.release()
                yield delta
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
