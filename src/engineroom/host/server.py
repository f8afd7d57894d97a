"""The host's side of the wire: one engine, many calls and answers at once."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from engineroom.config import parse_arguments
from engineroom.engines.base import BaseEngine
from engineroom.engines.hosted.calls import CALLS, FACTS, WINDOW
from engineroom.engines.hosted.codec import CHUNK, PARAMS, PROMPT, encode_error
from engineroom.engines.hosted.wire import Connection, ProtocolError
from engineroom.engines.registry import EngineSpec
from engineroom.errors import EngineroomError, EngineStartError
from engineroom.render import load_tokenizer
from engineroom.types import Prompt, SamplingParams

_WATCH = 0.25
"""Seconds after which an engine's death is told if nobody asks anything of it."""


class Server:
    """Does what the messages ask. ``connection`` is set before the first one comes."""

    connection: Connection

    def __init__(self) -> None:
        self._engine: BaseEngine | None = None
        self._tasks: dict[int, asyncio.Task[Any]] = {}
        self._credits: dict[int, asyncio.Semaphore] = {}
        self._told: dict[str, Any] = {}
        self._loop = asyncio.get_running_loop()

    def take(self, message: Any) -> None:
        """
        Raises:
            ProtocolError: it is no message that a parent sends.
        """
        match message:
            case ["call", int(number), str(name), values] if name in CALLS:
                self._begin(number, self._call(name, CALLS[name].decode(values)))
            case ["answer", int(number), prompt, params]:
                self._credits[number] = asyncio.Semaphore(WINDOW)
                self._begin(number, self._answer(number, PROMPT.decode(prompt), PARAMS.decode(params)))
            case ["more", int(number), int(count)]:
                if number in self._credits:
                    for _ in range(count):
                        self._credits[number].release()
            case ["cancel", int(number)]:
                if number in self._tasks:
                    self._tasks[number].cancel()
            case _:
                raise ProtocolError("the parent sent an unknown message")

    async def watch(self) -> None:
        """Tells of a change that no request has brought to light, until it is cancelled."""
        while True:
            await asyncio.sleep(_WATCH)
            self._tell()

    async def close(self) -> None:
        """Ends whatever runs, and the engine."""
        for task in self._tasks.values():
            task.cancel()
        if self._engine is not None:
            await self._engine.close()

    # --- one call, one answer --------------------------------------------------------------------------------------

    def _begin(self, number: int, work: Coroutine[Any, Any, Any]) -> None:
        task = self._tasks[number] = asyncio.create_task(work)
        task.add_done_callback(partial(self._end, number))

    def _end(self, number: int, task: asyncio.Task[Any]) -> None:
        """Every call and every answer ends with one message; one that is cancelled before its first step, too."""
        del self._tasks[number]
        self._credits.pop(number, None)
        self._tell()
        error = None if task.cancelled() else task.exception()
        if error is None:
            try:
                self.connection.send(["done", number, None if task.cancelled() else task.result()])
            except ProtocolError as too_long:
                error = too_long
        if error is not None:
            if not isinstance(error, EngineroomError):
                traceback.print_exception(error)
            self.connection.send(["error", number, encode_error(error)])

    async def _call(self, name: str, values: Sequence[Any]) -> Any:
        if name == "start":
            await self._start(*values)
            return None
        return CALLS[name].result.encode(await getattr(self._started(), name)(*values))

    async def _answer(self, number: int, prompt: Prompt, params: SamplingParams) -> None:
        allowed = self._credits[number]
        chunks = self._started().generate(prompt, params)
        try:
            async for chunk in chunks:
                await allowed.acquire()
                self.connection.send(["chunk", number, CHUNK.encode(chunk)])
        finally:
            aclose = getattr(chunks, "aclose", None)
            if aclose is not None:
                await aclose()

    # --- the engine ------------------------------------------------------------------------------------------------

    async def _start(self, name: str, target: str, given: dict[str, Any]) -> None:
        """Makes the engine as the facade would, and starts it."""
        arguments = parse_arguments(given)
        engine = self._engine = EngineSpec(name, target).load().from_arguments(arguments)
        if engine.tokenizer is None and engine.checkpoint is not None:
            self._report("reading the tokenizer", None)
            engine.tokenizer = load_tokenizer(
                engine.checkpoint.path,
                trust_remote_code=arguments.trust_remote_code,
                use_fast=arguments.use_fast_tokenizer,
            )
        await engine.start(self._report)

    def _report(self, stage: str, share: float | None) -> None:
        """Engines call it from any thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.connection.send, ["progress", stage, share])

    def _started(self) -> BaseEngine:
        if self._engine is None:
            raise EngineStartError("the engine was not started", fix="await engine.start() first")
        return self._engine

    def _tell(self) -> None:
        """Sends those facts that have changed."""
        if self._engine is None:
            return
        health = self._engine.health()
        facts: dict[str, Any] = {
            name: codec.encode(getattr(self._engine, name)) for name, codec in FACTS.items()
        }
        facts["state"] = [health.state, health.detail]
        changed = {name: value for name, value in facts.items() if self._told.get(name, self) != value}
        if changed:
            self._told |= changed
            self.connection.send(["facts", changed])
