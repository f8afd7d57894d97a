"""What is done to a model while it serves: its adapters, its weights, its cache, its sleep."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from engineroom.adapters import Adapters
from engineroom.admission import Admission
from engineroom.engines.base import BaseEngine
from engineroom.engines.successor import successor
from engineroom.errors import EngineNotReadyError, EngineroomError, ParameterError, RequestError, shown


class Upkeep:
    """One thing at a time, and what needs an empty engine waits until all who are in have been served.

    Attributes:
        adapters: those that a request can choose.
        asleep: the engine sleeps.
        weights: the checkpoint that an update took; None are the weights of the start.
    """

    def __init__(self, engine: BaseEngine, admission: Admission) -> None:
        self.adapters = Adapters(engine)
        self.asleep = False
        self.weights: Path | None = None
        self._engine = engine
        self._admission = admission
        self._alone = asyncio.Lock()
        self._updates: set[asyncio.Task[None]] = set()

    async def load_adapter(self, name: str, path: str | os.PathLike[str]) -> None:
        """Loads a LoRA adapter, beside whatever runs."""
        self._engine.require("load_adapter")
        if not self._engine.can_generate:
            raise RequestError(
                "the model does not chat, and only a request to chat chooses an adapter",
                fix="load the model with adapter_name_or_path",
            )
        self._admission.check_open()
        await self.adapters.load(name, path)

    async def unload_adapter(self, name: str) -> None:
        """Unloads it, when no answer needs it."""
        self._engine.require("load_adapter")
        self._admission.check_open()
        await self.adapters.unload(name)

    async def sleep(self, level: int) -> None:
        """When all who are in have been served; whoever comes meanwhile is refused."""
        self._engine.require("sleep")
        if level != 1:
            raise ParameterError(
                f"level={shown(level)} is not allowed",
                why="1 keeps the weights in the host's memory; there is no other level",
                fix="to free that too: close()",
                parameter="level",
            )
        async with self._alone:
            if self.asleep:
                return
            self._admission.refusal = _sleeping
            try:
                await self._admission.emptied()
                await self._engine.sleep()
            except BaseException:
                self._admission.refusal = None
                raise
            self.asleep = True

    async def wake(self) -> None:
        """Nothing, if the model is awake."""
        self._engine.require("sleep")
        async with self._alone:
            if self.asleep:
                await self._engine.wake()
                self._admission.refusal, self.asleep = None, False

    async def flush_cache(self) -> None:
        """When all who are in have been served; whoever comes meanwhile is refused."""
        self._engine.require("flush_cache")
        async with self._nobody_in(_flushing):
            await self._engine.flush_cache()

    async def update_weights(self, path: str | os.PathLike[str]) -> None:
        """Likewise. It goes on if its caller leaves: an engine can't be left with half of the weights."""
        self._engine.require("update_weights")
        if not self._engine.can_generate or self._engine.adapters:
            raise RequestError(
                "the weights can be changed under a model that chats, without adapters",
                why=f"adapters: {', '.join(self._engine.adapters)}"
                if self._engine.adapters
                else "the model does not chat",
                fix="unload the adapters first" if self._engine.adapters else "make a new ChatModel",
            )
        assert self._engine.checkpoint is not None
        folder = await asyncio.to_thread(successor, self._engine.checkpoint, path)
        task = asyncio.create_task(self.take_weights(folder))
        self._updates.add(task)
        task.add_done_callback(self._updates.discard)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may end unheard
        await asyncio.shield(task)

    async def take_weights(self, folder: Path) -> None:
        """Without a look at what they are."""
        async with self._nobody_in(_updating):
            await self._engine.update_weights(folder)
            self.weights = folder

    @asynccontextmanager
    async def _nobody_in(self, refusal: Callable[[], EngineroomError]) -> AsyncGenerator[None, None]:
        """Waits until all have been served, and keeps others out."""
        async with self._alone:
            self._admission.check_open()
            self._admission.refusal = refusal
            try:
                await self._admission.emptied()
                yield
            finally:
                if self._admission.refusal is refusal:  # else a restart keeps them out
                    self._admission.refusal = None


def _sleeping() -> EngineroomError:
    return EngineNotReadyError("the model sleeps", fix="wake it: model.wake()")


def _flushing() -> EngineroomError:
    return EngineNotReadyError("the model's cache is being flushed", fix="try again in a moment")


def _updating() -> EngineroomError:
    return EngineNotReadyError("the model's weights are being changed", fix="try again when they are")
