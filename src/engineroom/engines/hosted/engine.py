"""HostedEngine: an engine of another Python environment behind the contract of this one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic_core import PydanticSerializationError

from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments
from engineroom.engines import registry
from engineroom.engines.base import BaseEngine, Health, HealthState, Progress
from engineroom.engines.capabilities import CAPABILITIES
from engineroom.engines.hosted.calls import CALLS, FACTS, WINDOW
from engineroom.engines.hosted.codec import CHUNK, ERROR, OBJECT, PARAMS, PROMPT, Codec
from engineroom.engines.hosted.interpreter import inspect_interpreter
from engineroom.engines.hosted.process import HostProcess
from engineroom.engines.hosted.wire import Connection, ProtocolError
from engineroom.errors import (
    ArgumentError,
    EngineClosedError,
    EngineDeadError,
    EngineroomError,
    EngineStartError,
    GenerationError,
)
from engineroom.types import Chunk, Prompt, SamplingParams, Support

START_LIMIT = 660.0
"""Seconds in which the engine has to be ready: a little more than engines give themselves, whose errors say more."""

_WATCH = 0.25
_LEAVE_PATIENCE = 0.5
_CLOSE_PATIENCE = 15.0
_EXIT_PATIENCE = 5.0


@dataclass(slots=True)
class _Reply:
    """A call that waits for its end."""

    result: Codec[Any]
    counted: bool
    future: asyncio.Future[Any]


@dataclass(slots=True)
class _Answer:
    """A stream of chunks; its end is None, or the error that ended it. Never more than ``WINDOW`` chunks wait."""

    items: asyncio.Queue[Chunk | EngineroomError | None] = field(
        default_factory=asyncio.Queue["Chunk | EngineroomError | None"]
    )


class HostedEngine(BaseEngine):
    """Runs the engine that ``spec`` describes under another interpreter.

    Args:
        python: the interpreter; :func:`inspect_interpreter` has found it good.
        checkpoint: the model's folder, if the engine reads one: the tokenizer of this side is made from it.
    """

    def __init__(
        self,
        spec: registry.EngineSpec,
        python: Path,
        arguments: Arguments,
        checkpoint: Checkpoint | None = None,
        *,
        start_limit: float = START_LIMIT,
    ) -> None:
        self.name = spec.name
        self.capabilities: Mapping[str, Support] = CAPABILITIES.get(spec.name, MappingProxyType({}))
        self.checkpoint = checkpoint
        self._spec = spec
        self._python = python
        self._given = _as_json(arguments, spec.python_argument)
        self._start_limit = start_limit
        self._state: HealthState = "starting"
        self._detail = ""
        self._progress: Progress = _silent
        self._process: HostProcess | None = None
        self._connection: Connection | None = None
        self._open: dict[int, _Reply | _Answer] = {}
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def from_arguments(cls, arguments: Arguments) -> HostedEngine:
        """
        Raises:
            ArgumentError: the arguments name no interpreter for their engine, or what they name is none.
            EngineNotInstalledError: it is too old, or lacks a library.
            EngineStartError: it does not answer.
        """
        spec = registry.find(arguments.infer_backend)
        python = spec.python(arguments)
        if python is None:
            raise ArgumentError(
                f"the {spec.name} engine runs in this environment",
                fix=f"name an interpreter: {spec.python_argument or 'vllm_python'}=…/bin/python",
                argument=spec.python_argument,
            )
        found = inspect_interpreter(spec.python_argument, python, spec.packages, spec.other_builds)
        return cls(spec, found.path, arguments, Checkpoint.open(arguments))

    # --- start and end ---------------------------------------------------------------------------------------------

    async def start(self, progress: Progress) -> None:
        """
        Raises:
            ArgumentError: the engine can't honour an argument.
            ModelError: the engine can't load the checkpoint.
            EngineError: the engine can't run there, or did not come up, or not in time.
        """
        progress(f"starting {self._python}", None)
        self._progress = progress
        try:
            async with asyncio.timeout(self._start_limit):
                await self._launch()
                await self._call("start", self.name, self._spec.target, self._given)
        except TimeoutError as error:
            said = self._process.last_words() if self._process else ""
            await self._give_up(keep_log=True)
            raise EngineStartError(
                f"the {self.name} engine was not ready within {self._start_limit:g} seconds",
                why=f"last words of its process: {said or 'none'}",
                fix=self._see_log(),
            ) from error
        except BaseException as error:
            # What the engine itself said is whole in the error; what its process said may explain the rest.
            await self._give_up(keep_log=not isinstance(error, EngineroomError) or self._host_is_gone())
            raise
        assert self._process is not None
        self._process.meet_family()

    async def _launch(self) -> None:
        self._process = process = HostProcess(self._python)
        self._connection = connection = Connection(self._take, self._lost)
        await asyncio.get_running_loop().create_unix_connection(lambda: connection, sock=process.socket)
        self._spawn(self._watch(process))

    async def _give_up(self, *, keep_log: bool) -> None:
        if self._state != "closed":
            self._state = "dead"
        await self._end()
        if self._process is not None and not keep_log:
            self._process.discard()

    async def close(self) -> None:
        if self._state == "closed":
            return
        clean, self._state = self._state in ("ready", "sleeping") and not self._host_is_gone(), "closed"
        self._fail_all(_closed)
        if clean:
            with suppress(EngineroomError, TimeoutError):
                async with asyncio.timeout(_CLOSE_PATIENCE):
                    await self._request("close")
        await self._end(_EXIT_PATIENCE if clean else 0.0)
        if clean and self._process is not None:
            self._process.discard()

    async def _end(self, grace: float = 0.0) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            await self._process.end(grace)
        if self._connection is not None:
            self._connection.abort()
            await asyncio.sleep(0)  # the transport closes its socket on the loop's next turn
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()

    def _host_is_gone(self) -> bool:
        return self._process is not None and self._process.exit_code is not None

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work, name="engineroom-host")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, process: HostProcess) -> None:
        """A second pair of eyes for the host's death: a forked copy of this process would hold the wire open."""
        while process.exit_code is None:
            await asyncio.sleep(_WATCH)
        await self._bury()

    def _lost(self, reason: Exception | None) -> None:
        """There is nobody at the other end of the wire."""
        if self._process is None or not (self._open or self._state != "closed"):
            return
        if reason is not None:
            self._detail = str(reason)
        self._spawn(self._bury())

    async def _bury(self) -> None:
        """The host is gone, or speaks no sense: everybody is told why, and what it has started ends too."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait(1.0)  # for the exit code
        starting = self._state == "starting"
        if self._state != "closed":
            self._state = "dead"
        self._fail_all(_closed if self._state == "closed" else partial(self._dead, starting=starting))

    def _dead(self, *, starting: bool = False) -> EngineroomError:
        why = self._detail or (self._process.obituary() if self._process else "")
        if starting:
            return EngineStartError(
                f"the {self.name} engine's process ended while it started", why=why, fix=self._see_log()
            )
        return EngineDeadError(
            f"the {self.name} engine died", why=why, fix=f"model.restart(); {self._see_log()}"
        )

    def _see_log(self) -> str:
        return f"its process's log is {self._process.log}" if self._process else ""

    def _fail_all(self, error: Callable[[], EngineroomError]) -> None:
        """Each gets an error of its own: raising one in several places would mix their tracebacks."""
        waiting, self._open = self._open, {}
        for entry in waiting.values():
            _finish(entry, error())

    # --- work ------------------------------------------------------------------------------------------------------

    async def prepare(self, params: SamplingParams) -> None:
        await self._call("prepare", params)

    async def score(self, prompts: Sequence[Prompt]) -> list[float]:
        return await self._call("score", prompts)

    async def embed(self, prompts: Sequence[Prompt]) -> list[tuple[float, ...]]:
        return await self._call("embed", prompts)

    async def load_adapter(self, name: str, path: Path) -> None:
        await self._call("load_adapter", name, path)

    async def unload_adapter(self, name: str) -> None:
        await self._call("unload_adapter", name)

    async def sleep(self) -> None:
        await self._call("sleep")

    async def wake(self) -> None:
        await self._call("wake")

    async def flush_cache(self) -> None:
        await self._call("flush_cache")

    async def update_weights(self, path: Path) -> None:
        await self._call("update_weights", path)

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Chunk, None]:
        connection, number, answer = self._ready(), next(self._numbers), _Answer()
        _send(connection, ["answer", number, PROMPT.encode(prompt), PARAMS.encode(params)])
        self._open[number] = answer
        taken = 0
        try:
            while isinstance(item := await answer.items.get(), Chunk):
                yield item
                taken += 1
                if taken == WINDOW // 2:
                    connection.send(["more", number, taken])
                    taken = 0
            if item is not None:
                raise item
        finally:
            if number in self._open:
                connection.send(["cancel", number])
                await _ended(answer)

    def health(self) -> Health:
        running = sum(isinstance(entry, _Answer) or entry.counted for entry in self._open.values())
        return Health(self._state, running, self._detail)

    async def _call(self, name: str, *values: Any) -> Any:
        self._ready()
        return await self._request(name, *values)

    async def _request(self, name: str, *values: Any) -> Any:
        """One method of the engine over there, awaited."""
        if self._connection is None:
            raise self._dead()
        call, number = CALLS[name], next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        _send(self._connection, ["call", number, name, call.encode(values)])
        self._open[number] = _Reply(call.result, call.counted, future)
        try:
            return await future
        except asyncio.CancelledError:
            if number in self._open:
                self._connection.send(["cancel", number])
            raise

    def _ready(self) -> Connection:
        if self._state == "closed":
            raise _closed()
        if self._state == "dead" or self._host_is_gone():
            raise self._dead()
        if self._connection is None:
            raise EngineStartError(
                f"the {self.name} engine was not started", fix="await engine.start() first"
            )
        return self._connection

    # --- what the host says ----------------------------------------------------------------------------------------

    def _take(self, message: Any) -> None:
        match message:
            case ["chunk", int(number), value]:
                entry = self._open.get(number)
                if isinstance(entry, _Answer):
                    entry.items.put_nowait(CHUNK.decode(value))
            case ["done", int(number), value]:
                entry = self._open.pop(number, None)
                if entry is not None:
                    _finish(entry, value)
            case ["error", int(number), value]:
                entry, error = self._open.pop(number, None), ERROR.decode(value)
                if entry is not None:
                    _finish(entry, error)
            case ["progress", str(stage), None | int() | float() as share]:
                self._progress(stage, share)
            case ["facts", facts]:
                self._learn(OBJECT.decode(facts))
            case _:
                raise ProtocolError("the host sent an unknown message")

    def _learn(self, facts: Mapping[str, Any]) -> None:
        for name, value in facts.items():
            if name == "state":
                self._change_state(value)
            elif name in FACTS:
                setattr(self, name, FACTS[name].decode(value))
            else:
                raise ProtocolError(f"the host told of {name!r}, which is no fact of an engine")

    def _change_state(self, value: Any) -> None:
        match value:
            case ["ready" | "sleeping" | "dead" as state, str(detail)]:
                if self._state not in ("dead", "closed"):
                    self._state, self._detail = state, detail
            case ["starting" | "closed", str()]:
                pass  # this side knows
            case _:
                raise ProtocolError("the host told of an unknown state")


def _finish(entry: _Reply | _Answer, end: Any) -> None:
    if isinstance(entry, _Answer):
        entry.items.put_nowait(end if isinstance(end, EngineroomError) else None)
    elif entry.future.cancelled():
        pass
    elif isinstance(end, EngineroomError):
        entry.future.set_exception(end)
    else:
        entry.future.set_result(entry.result.decode(end))


async def _ended(answer: _Answer) -> None:
    """Waits until the host has ended it, a moment. A host that is busy for longer does so later; it counts until then."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LEAVE_PATIENCE):
            while isinstance(await answer.items.get(), Chunk):
                pass


def _send(connection: Connection, message: Any) -> None:
    try:
        connection.send(message)
    except ProtocolError as error:
        raise GenerationError(
            "the request is too long for another process", why=str(error), fix="send less"
        ) from error


def _as_json(arguments: Arguments, python_argument: str) -> dict[str, Any]:
    """The arguments that were given, less the one that brought us here."""
    try:
        return arguments.model_dump(mode="json", exclude_unset=True, exclude={python_argument})
    except PydanticSerializationError as error:
        raise ArgumentError(
            "an argument can't go to another Python environment", why=str(error), fix="use plain JSON values"
        ) from error


def _closed() -> EngineClosedError:
    return EngineClosedError("the engine was closed", fix="make a new ChatModel")


def _silent(stage: str, share: float | None) -> None:
    pass
