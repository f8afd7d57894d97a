"""Restart: a fresh engine behind the same model, whatever happened to the old one."""

import asyncio
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from engineroom import ChatModel, Reply, ScriptedEngine
from engineroom.errors import (
    EngineClosedError,
    EngineDeadError,
    EngineError,
    EngineNotReadyError,
    EngineStartError,
    ModelLoadError,
)


class MadeEngine(ScriptedEngine):
    """What ``infer_backend=scripted`` makes in these tests. The class keeps all that were made."""

    made: "list[MadeEngine]" = []  # noqa: RUF012
    reply = Reply("hello")
    start_with: Exception | None = None
    held: threading.Event | None = None
    reload_with: Exception | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(lambda prompt, params: type(self).reply, **options)
        self.capabilities = {**self.capabilities, "adapter": "native", "load_adapter": "native"}
        self.weights: list[Path] = []
        type(self).made.append(self)

    async def start(self, progress: Any) -> None:
        while self.held is not None and not self.held.is_set():
            await asyncio.sleep(0.001)
        if self.start_with:
            raise self.start_with
        await super().start(progress)

    async def update_weights(self, path: Path) -> None:
        self.weights.append(path)

    async def load_adapter(self, name: str, path: Path) -> None:
        if self.reload_with:
            raise self.reload_with
        self.adapters = {**self.adapters, name: path}


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> type[MadeEngine]:
    monkeypatch.setattr(MadeEngine, "made", [])
    for name in ("reply", "start_with", "held", "reload_with"):
        monkeypatch.setattr(MadeEngine, name, getattr(MadeEngine, name))
    monkeypatch.setattr("engineroom.engines.scripted.ScriptedEngine", MadeEngine)
    return MadeEngine


@pytest.fixture
def model(engines: type[MadeEngine]) -> Generator[ChatModel, None, None]:
    with ChatModel({"infer_backend": "scripted"}) as model:
        yield model


def test_after_its_death_the_same_model_answers_again(model: ChatModel, engines: type[MadeEngine]) -> None:
    ask = model.chat
    engines.reply = Reply("x", die=True)
    with pytest.raises(EngineDeadError, match=r"model\.restart\(\)|died"):
        ask("hi")
    assert model.health().state == "dead"
    engines.reply = Reply("again")
    model.restart()
    assert model.health().state == "ready"
    assert ask("hi")[0].response_text == "again"
    assert len(engines.made) == 2
    assert model.engine is engines.made[1]
    assert engines.made[0].health().state == "closed"


def test_its_requests_are_told_those_who_come_wait_and_health_is_right(
    model: ChatModel, engines: type[MadeEngine]
) -> None:
    engines.reply = Reply("hello", pause_at=1)

    async def scene() -> None:
        running = asyncio.create_task(model.achat("hi"))
        while not engines.reply.paused.is_set():
            await asyncio.sleep(0.001)
        engines.held = threading.Event()
        restarts = [asyncio.create_task(model.arestart()) for _ in range(3)]
        while len(engines.made) < 2:
            await asyncio.sleep(0.001)
        engines.reply.resume.set()
        with pytest.raises(EngineClosedError):
            await running
        assert model.health().state == "starting"
        with pytest.raises(EngineNotReadyError, match="restarted"):
            await model.achat("hi")
        engines.held.set()
        await asyncio.gather(*restarts)

    asyncio.run(scene())
    assert model.health().state == "ready"
    assert len(engines.made) == 2  # three callers, one restart
    assert model.chat("hi")[0].response_text == "hello"


@pytest.mark.parametrize("stage", ["from_arguments", "close"])
def test_whatever_fails_is_told_and_tried_again(
    model: ChatModel, engines: type[MadeEngine], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def fail(*_: Any) -> None:
        raise EngineStartError("its folder is gone")

    with monkeypatch.context() as patch:
        patch.setattr(engines, stage, fail)
        with pytest.raises(EngineStartError):
            model.restart()
        assert model.health().state == "dead"
    model.restart()
    assert model.chat("hi")[0].response_text == "hello"


def test_a_restart_that_fails_can_be_tried_again(model: ChatModel, engines: type[MadeEngine]) -> None:
    model.load_adapter("late", "x")
    engines.start_with = EngineStartError("no memory left")
    with pytest.raises(EngineStartError):
        model.restart()
    assert model.health().state == "dead"
    assert "no memory left" in model.health().detail
    with pytest.raises(EngineDeadError, match="no memory left"):
        model.chat("hi")
    engines.start_with = None
    model.restart()
    assert model.health().state == "ready"
    assert dict(model.adapters) == {"late": Path("x")}
    assert model.chat("hi")[0].response_text == "hello"


def test_adapters_come_back(model: ChatModel, engines: type[MadeEngine]) -> None:
    model.load_adapter("late", "x")
    model.restart()
    assert dict(model.adapters) == {"late": Path("x")}
    engines.reload_with = ModelLoadError("it is gone")
    with pytest.raises(ModelLoadError):
        model.restart()
    assert model.chat("hi")[0].response_text == "hello"
    assert dict(model.adapters) == {}


def test_other_weights_come_back(model: ChatModel, engines: type[MadeEngine]) -> None:
    model._pipeline.upkeep.weights = Path("later")
    model.restart()
    assert engines.made[-1].weights == [Path("later")]
    assert model.weights == Path("later")


@pytest.mark.usefixtures("no_thread_left")
def test_closing_in_the_middle_of_a_restart_closes_the_new_engine(engines: type[MadeEngine]) -> None:
    model = ChatModel({"infer_backend": "scripted"})
    engines.held = threading.Event()
    failed: list[BaseException] = []

    def restart() -> None:
        try:
            model.restart()
        except EngineClosedError as error:
            failed.append(error)

    thread = threading.Thread(target=restart)
    thread.start()
    while len(engines.made) < 2 or model.health().state != "starting":
        thread.join(0.001)
    model.close()
    thread.join(10)
    assert [type(error) for error in failed] == [EngineClosedError]
    assert engines.made[1].health().state == "closed"
    with pytest.raises(EngineClosedError):
        model.restart()


def test_an_engine_that_was_handed_over_can_not_be_made_again() -> None:
    with ChatModel(engine=ScriptedEngine(["hello"])) as model:
        with pytest.raises(EngineError, match="handed to it"):
            model.restart()
        assert model.chat("hi")[0].response_text == "hello"
