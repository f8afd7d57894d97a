"""The adapters of a running model: loaded beside its requests, chosen by them, unloaded when none needs them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engineroom.engines.base import BaseEngine
from engineroom.errors import ParameterError, nearest, shown


class Adapters:
    """Who uses which adapter. On the model's event loop only."""

    def __init__(self, engine: BaseEngine) -> None:
        self._engine = engine
        self._users: Counter[str] = Counter()
        self._changing: set[str] = set()  # being loaded, or to be unloaded: nobody may choose them
        self._free = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> Mapping[str, Path]:
        """Those that a request can choose now: name → folder."""
        known = self._engine.adapters
        if not self._changing:
            return known
        return {name: path for name, path in known.items() if name not in self._changing}

    def check(self, name: str) -> None:
        """
        Raises:
            ParameterError: a request can't choose this adapter.
        """
        if name in self.open:
            return
        guess = nearest(name, self._engine.adapters)
        raise ParameterError(
            f"there is no adapter {shown(name)}",
            why=f"adapters kept apart: {self._names()}",
            fix=f"did you mean {guess}?"
            if guess and guess != name
            else "load it: load_adapter(name, path), or adapter_name_or_path=… adapter_merge=false",
            parameter="adapter",
        )

    @contextmanager
    def used(self, name: str | None) -> Generator[None, None, None]:
        """The adapter stays for the length of an answer."""
        if name is None:
            yield
            return
        self.check(name)
        self._users[name] += 1
        try:
            yield
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                self._spawn(self._tell())

    async def load(self, name: Any, path: Any) -> None:
        """
        Raises:
            ParameterError: the name is taken, or none.
            ModelError: there is no adapter, or it does not fit.
        """
        if not isinstance(name, str) or not name or any(c.isspace() for c in name):
            raise ParameterError(
                f"{shown(name)} can't be an adapter's name",
                why="a name is text without spaces",
                parameter="name",
            )
        if name in self._engine.adapters or name in self._changing:
            raise ParameterError(
                f"there is an adapter {name!r} already",
                why=f"adapters kept apart: {self._names()}",
                fix=f"choose another name, or unload_adapter({name!r}) first",
                parameter="name",
            )
        folder = _path(path)
        self._changing.add(name)
        await asyncio.shield(self._spawn(self._load(name, folder)))

    async def unload(self, name: Any) -> None:
        """Waits for the answers that use it; whoever comes meanwhile can't choose it. Leaving the wait keeps it.

        Raises:
            ParameterError: there is no such adapter.
        """
        if name not in self.open:
            raise ParameterError(
                f"there is no adapter {shown(name)}",
                why=f"adapters kept apart: {self._names()}",
                fix="name one of them" if self._engine.adapters else "there is nothing to unload",
                parameter="name",
            )
        self._changing.add(name)
        try:
            async with self._free:
                await self._free.wait_for(lambda: not self._users[name])
        except BaseException:
            self._changing.discard(name)
            raise
        await asyncio.shield(self._spawn(self._unload(name)))

    async def _load(self, name: str, path: Path) -> None:
        try:
            await self._engine.load_adapter(name, path)
        finally:
            self._changing.discard(name)

    async def _unload(self, name: str) -> None:
        try:
            await self._engine.unload_adapter(name)
        finally:
            self._changing.discard(name)

    async def _tell(self) -> None:
        async with self._free:
            self._free.notify_all()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """What goes on if its caller leaves: an engine can't be left with half an adapter."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it may end unheard

    def _names(self) -> str:
        return ", ".join(self.open) or "none"


def _path(value: Any) -> Path:
    try:
        return Path(value)
    except TypeError:
        raise ParameterError(
            f"{shown(value)} is not a path", why="allowed: a folder's path", parameter="path"
        ) from None
