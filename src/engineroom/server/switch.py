"""Another engine or model behind a running server.

Either the new model loads beside the old one, which serves until the new one is ready, or the old one is closed first,
where there is memory for one alone. What fails leaves the old model serving, or brings it back. Whoever has an answer in
the old model gets it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engineroom.engines import registry
from engineroom.errors import (
    ArgumentError,
    EngineClosedError,
    EngineError,
    EngineNotReadyError,
    EngineroomError,
    ModelError,
    UnsupportedError,
)
from engineroom.server.errors import WIRE_NAMES, Refusal, RefusedError, redacted, refusal_of
from engineroom.server.tickets import log

if TYPE_CHECKING:
    from engineroom.bridge import Bridge
    from engineroom.chat import ChatModel
    from engineroom.config import Arguments
    from engineroom.engines.base import BaseEngine
    from engineroom.server.service import Service

Stage = Literal["idle", "checking", "loading", "draining", "closing", "restoring"]

_LAST_WORDS = 2.0
"""Seconds that aborted requests have to tell their clients so."""

_STOP_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to switch to, and how.

    Attributes:
        names: what the new model is called; None keeps the names that were configured.
        drop: models, adapters and abilities (chat, score, embed) that may be missing afterwards.
        close_first: the old model is closed before the new one loads.
        drain_timeout: seconds that answers in the old model have to end.
    """

    arguments: Arguments
    names: tuple[str, ...] | None = None
    drop: frozenset[str] = frozenset()
    close_first: bool = False
    drain_timeout: float = 30.0


class Switcher:
    """Does one switch at a time. On the server's event loop.

    Args:
        bridge: the event loop for new models to live on; without it each has one of its own.

    Attributes:
        stage: what is being done.
        loading: the loading model's stage, and the share done.
        outcomes: how many switches ended how.
        last: how the last one ended, for people.
    """

    def __init__(self, service: Service, bridge: Bridge | None) -> None:
        self._service = service
        self._bridge = bridge
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.stage: Stage = "idle"
        self.loading: tuple[str, float | None] = ("", None)
        self.outcomes: Counter[str] = Counter()
        self.last = ""

    @property
    def busy(self) -> bool:
        return self._task is not None and not self._task.done()

    async def switch(self, plan: Plan) -> None:
        """Switches. It goes on if the caller leaves.

        Raises:
            RefusedError: 409, another switch is under way, or something in use would be lost: nothing was touched. 500,
                the new model did not start; the message says what serves now.
            EngineroomError: the model can't be made from these arguments; nothing was touched.
        """
        if self.busy:
            raise RefusedError(
                Refusal(409, "a switch is under way", code="switch_in_progress", headers={"Retry-After": "5"})
            )
        self._task = asyncio.create_task(self._switch(plan))
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may end unheard
        await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Ends a switch that is under way, for the server ends."""
        self._stopping = True
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_STOP_TIMEOUT)

    async def _switch(self, plan: Plan) -> None:
        outcome = "refused"
        began = time.monotonic()
        try:
            self.stage = "checking"
            old = self._service.model
            await self._check(old, plan)
            outcome = "failed"
            await (self._close_first if plan.close_first else self._load_first)(old, plan)
            outcome = "switched"
            self.last = f"switched to {self._called(plan.arguments)}"
        except Exception as error:
            self.last = redacted(str(error))
            raise
        finally:
            self.stage, self.loading = "idle", ("", None)
            self.outcomes[outcome] += 1
            log.info("switch", extra={"outcome": outcome, "seconds": round(time.monotonic() - began, 3)})

    # --- before anything is touched ------------------------------------------------------------------------------

    async def _check(self, old: ChatModel, plan: Plan) -> None:
        candidate = await asyncio.to_thread(registry.make, plan.arguments)
        self._check_use(old, candidate, plan)
        _check_defaults(plan.arguments, candidate)
        if plan.close_first and not old.can_restart:
            raise EngineError(
                "this model can't be closed first: it could not be brought back",
                why="it was handed its engine as an object, and arguments don't tell how to make another",
                fix="leave close_first out",
            )

    def _check_use(self, old: ChatModel, new: BaseEngine, plan: Plan) -> None:
        """
        Raises:
            RefusedError: 409, something in use would be lost.
        """
        service = self._service
        names = plan.names or service.own_names(plan.arguments)
        kept = [name for name in old.adapters if name not in plan.drop]
        lost = [
            f"the ability to {can}"
            for can, had, has in (
                ("chat", old.engine.can_generate, new.can_generate),
                ("embed", old.engine.can_embed, new.can_embed),
                ("score", _scores(old.engine), _scores(new)),
            )
            if had and not has and can not in plan.drop
        ]
        lost += [f"the model name {n}" for n in sorted(service.asked - {*names, *kept, *plan.drop})]
        lost += [f"the adapter {n}" for n in kept if n in names or not _keeps_adapters(new)]
        if lost:
            raise RefusedError(
                Refusal(
                    409,
                    f"{self._called(plan.arguments)} lacks what is in use: {', '.join(lost)}. Fix: name in drop what "
                    "may go, or keep a model's name with served_model_name",
                    code="in_use",
                    param="drop",
                )
            )

    # --- the two ways --------------------------------------------------------------------------------------------

    async def _load_first(self, old: ChatModel, plan: Plan) -> None:
        try:
            new = await self._load(old, plan)
        except Exception as error:
            raise self._failed(
                error, f"{self._called(old.arguments, old.engine.name)} goes on serving"
            ) from error
        self._service.install(new, plan.names)
        await self._drain(old, plan.drain_timeout)
        await self._close(old)

    async def _close_first(self, old: ChatModel, plan: Plan) -> None:
        service = self._service
        service.away = True
        try:
            await self._drain(old, plan.drain_timeout)
            adapters, weights = dict(old.adapters), old.weights
            await self._close(old)
            try:
                new = await self._load(old, plan, adapters)
            except Exception as error:
                raise self._failed(error, await self._restore(old, adapters, weights)) from error
            service.install(new, plan.names)
        finally:
            service.away = False

    async def _restore(self, old: ChatModel, adapters: Mapping[str, Path], weights: Path | None) -> str:
        """Starts the old model again. Says what became of it."""
        self.stage = "restoring"
        called = self._called(old.arguments, old.engine.name)
        try:
            again = await self._make(old.arguments)
            self._service.install(again, None)
            if weights is not None:
                await again.aupdate_weights(weights)
            await _load_adapters(again, adapters)
        except Exception as error:
            log.error("the model before could not be brought back whole", exc_info=error)
            told = error.what if isinstance(error, EngineroomError) else type(error).__name__
            return f"{called} could not be brought back whole: {told}"
        return f"{called} was started again and serves"

    async def _load(
        self, old: ChatModel, plan: Plan, adapters: Mapping[str, Path] | None = None
    ) -> ChatModel:
        self.stage = "loading"
        new = await self._make(plan.arguments)
        try:
            self._check_use(old, new.engine, plan)  # some engines know what they are when they have started
            new.resolve_sampling()
            kept = {n: p for n, p in (adapters or old.adapters).items() if n not in plan.drop}
            await _load_adapters(new, kept)
        except BaseException:
            await asyncio.to_thread(new.close)
            raise
        return new

    async def _make(self, arguments: Arguments) -> ChatModel:
        from engineroom.chat import ChatModel

        def progress(stage: str, share: float | None) -> None:
            if self._stopping:
                raise EngineClosedError("the server stops")
            self.loading = (stage, share)

        return await asyncio.to_thread(ChatModel, arguments, progress=progress, bridge=self._bridge)

    async def _drain(self, old: ChatModel, seconds: float) -> None:
        """Lets requests in the old model end, then ends them."""
        self.stage = "draining"
        tickets = self._service.tickets
        waiting = tickets.of(old)
        if await tickets.ended(waiting, seconds):
            return
        for ticket in waiting:
            ticket.end(EngineNotReadyError("the model was switched", fix="send the request again"))
        await tickets.ended(waiting, _LAST_WORDS)

    async def _close(self, old: ChatModel) -> None:
        self.stage = "closing"
        try:
            await asyncio.to_thread(old.close)
        except Exception:
            log.exception("the old model did not close cleanly")

    # --- words ---------------------------------------------------------------------------------------------------

    def _called(self, arguments: Arguments, engine: str = "") -> str:
        return f"{self._service.own_names(arguments)[0]} on {engine or arguments.infer_backend}"

    def _failed(self, error: Exception, serving: str) -> RefusedError:
        """An admin is told why. What is none of ours has its text in the log alone."""
        log.error("a switch failed", exc_info=error)
        if isinstance(error, RefusedError):
            refusal = error.refusal
            return RefusedError(
                Refusal(refusal.status, f"{refusal.message}; {serving}", code=refusal.code, param="drop")
            )
        if not isinstance(error, EngineroomError):
            return _refused(500, f"the new model did not start ({type(error).__name__}); {serving}")
        if isinstance(error, (ModelError, ArgumentError, UnsupportedError)):
            asked = refusal_of(error, WIRE_NAMES, "arguments")
            message = f"the new model did not start: {asked.message}; {serving}"
            return _refused(asked.status, message, asked.param)
        why = f" ({error.why})" if error.why else ""
        return _refused(500, f"the new model did not start: {error.what}{why}; {serving}")


def _refused(status: int, message: str, param: str | None = None) -> RefusedError:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    headers = {"x-should-retry": "false"}
    return RefusedError(Refusal(status, redacted(message), kind, "switch_failed", param, headers))


def _scores(engine: BaseEngine) -> bool:
    return not engine.can_generate and not engine.can_embed


def _keeps_adapters(engine: BaseEngine) -> bool:
    return all(
        engine.capabilities.get(feature, "unsupported") != "unsupported" and feature not in engine.lacks
        for feature in ("adapter", "load_adapter")
    )


def _check_defaults(arguments: Arguments, engine: BaseEngine) -> None:
    """
    Raises:
        ArgumentError: a sampling default of this server would make the engine refuse every request.
    """
    for name in arguments.sampling():
        if name != "do_sample" and engine.capabilities.get(name, "unsupported") == "unsupported":
            raise ArgumentError(
                f"{name} is not supported by the {engine.name} engine",
                why="it is a default of this server, so every request would be refused",
                fix=f'give "{name}": null among the arguments',
                argument=name,
            )


async def _load_adapters(model: ChatModel, adapters: Mapping[str, Any]) -> None:
    for name, path in adapters.items():
        if name not in model.adapters:
            await model.aload_adapter(name, path)
