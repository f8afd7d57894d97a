"""Other weights under a running model, and its cache flushed: on an engine without either."""

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from engineroom import ChatModel, Prompt, Reply, SamplingParams, ScriptedEngine, demo
from engineroom.checkpoint import Checkpoint
from engineroom.engines.successor import successor
from engineroom.errors import (
    EngineNotReadyError,
    ModelLoadError,
    ModelNotFoundError,
    ParameterError,
    RequestError,
    UnsupportedError,
)
from engineroom.types import Chunk, Support

DEMO = Checkpoint("demo", Path(demo.__file__).parent / "chat")


class ChangingEngine(ScriptedEngine):
    """Takes weights in name only. ``done`` says what was asked of it, in order."""

    capabilities: ClassVar[Mapping[str, Support]] = {
        **ScriptedEngine.capabilities,
        **dict.fromkeys(("flush_cache", "update_weights"), "native"),
    }

    def __init__(self, reply: Reply) -> None:
        super().__init__([reply])
        self.checkpoint = DEMO
        self.done: list[str] = []
        self.failing: Exception | None = None
        self.hold: asyncio.Event | None = None

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Chunk, None]:
        first = True
        try:
            async for chunk in super().generate(prompt, params):
                yield replace(chunk, cached_tokens=3 if first else 0)
                first = False
        finally:
            self.done.append("answered")

    async def flush_cache(self) -> None:
        self.done.append("flushed")

    async def update_weights(self, path: Path) -> None:
        if self.hold:
            await self.hold.wait()
        if self.failing:
            raise self.failing
        self.done.append(f"took {path.name}")


@pytest.fixture
def paused() -> Reply:
    return Reply("hello", pause_at=1)


@pytest.fixture
def engine(paused: Reply) -> ChangingEngine:
    return ChangingEngine(paused)


@pytest.fixture
def model(engine: ChangingEngine) -> Generator[ChatModel, None, None]:
    with ChatModel(engine=engine) as model:
        yield model


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """The shipped model after another day of training: Transformers has become newer, too."""
    return copy(tmp_path / "later", transformers_version="99", _name_or_path="elsewhere")


def copy(folder: Path, **changes: Any) -> Path:
    shutil.copytree(DEMO.path, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


async def reached(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("what", ["flush", "update"])
def test_it_waits_for_those_who_are_in_and_lets_nobody_in(
    model: ChatModel, engine: ChangingEngine, paused: Reply, later: Path, what: str
) -> None:
    async def scene() -> None:
        answer = asyncio.create_task(model.achat("hi"))
        await reached(paused.paused.is_set)
        changing = asyncio.create_task(
            model.aflush_cache() if what == "flush" else model.aupdate_weights(later)
        )
        await reached(lambda: model._pipeline.admission.refusal is not None)
        with pytest.raises(EngineNotReadyError, match="try again"):
            await model.achat("hi")
        assert not changing.done()
        paused.resume.set()
        assert (await answer)[0].response_text == "hello"
        await changing

    asyncio.run(scene())
    assert engine.done[:2] == ["answered", "flushed" if what == "flush" else "took later"]
    assert model.chat("hi")[0].response_text == "hello"


def test_a_change_goes_on_when_its_caller_has_left(
    model: ChatModel, engine: ChangingEngine, paused: Reply, later: Path
) -> None:
    paused.resume.set()

    async def scene() -> None:
        engine.hold = asyncio.Event()
        changing = asyncio.create_task(model.aupdate_weights(later))
        await reached(lambda: model._pipeline.admission.refusal is not None)
        changing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await changing
        assert engine.done == []
        model._bridge._loop.call_soon_threadsafe(engine.hold.set)  # type: ignore[attr-defined]
        await reached(lambda: engine.done == ["took later"])
        await reached(lambda: model._pipeline.admission.refusal is None)

    asyncio.run(scene())
    assert model.chat("hi")[0].response_text == "hello"


def test_a_change_that_fails_leaves_it_serving(
    model: ChatModel, engine: ChangingEngine, paused: Reply, later: Path
) -> None:
    paused.resume.set()
    engine.failing = ModelLoadError("no")
    with pytest.raises(ModelLoadError):
        model.update_weights(later)
    assert model.weights is None
    assert model.chat("hi")[0].response_text == "hello"


def test_adapters_have_to_go_first_and_who_does_not_chat_can_not(
    model: ChatModel, engine: ChangingEngine, later: Path
) -> None:
    engine.adapters = {"mine": Path()}
    with pytest.raises(RequestError, match=r"mine(.|\n)*unload"):
        model.update_weights(later)
    engine.adapters, engine.can_generate = {}, False
    with pytest.raises(RequestError, match="does not chat"):
        model.update_weights(later)


def test_an_engine_that_can_not_says_who_can(later: Path) -> None:
    with ChatModel({"infer_backend": "scripted"}) as model:
        for ask in (model.flush_cache, lambda: model.update_weights(later)):
            with pytest.raises(UnsupportedError, match="sglang"):
                ask()


def test_what_came_from_the_cache_is_told_of_an_answer_and_of_all(model: ChatModel, paused: Reply) -> None:
    paused.resume.set()
    answers = [model.chat("hi")[0] for _ in range(2)]
    assert [(a.cached_length, a.usage.cached_tokens) for a in answers] == [(3, 3)] * 2
    assert list(model.stream_deltas("hi"))[-1].usage == answers[0].usage
    health = model.health()
    assert (health.prompt_tokens, health.cached_tokens) == (3 * answers[0].prompt_length, 9)


# --- which checkpoint may take another's place ---------------------------------------------------------------------


def test_the_same_model_may(later: Path) -> None:
    assert successor(DEMO, str(later)) == later


def test_a_head_that_is_tied_may_lie_in_the_file_or_not(tmp_path: Path) -> None:
    folder = copy(tmp_path / "with-head")
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert successor(DEMO, folder) == folder
    assert successor(Checkpoint("with-head", folder), DEMO.path) == DEMO.path


def missing_layer(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("changes", "spoil", "says"),
    [
        ({"num_hidden_layers": 99}, None, "num_hidden_layers is 99"),
        ({"architectures": ["Other"]}, None, "architectures"),
        ({"eos_token_id": 0}, None, "eos_token_id is 0"),
        ({}, missing_layer, r"down_proj.weight is not there, and \["),
        ({}, cut, "corrupt"),
        ({}, lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    ],
)
def test_others_may_not(
    tmp_path: Path, changes: dict[str, Any], spoil: Callable[[Path], None] | None, says: str
) -> None:
    folder = copy(tmp_path / "other", **changes)
    if spoil:
        spoil(folder)
    with pytest.raises(ModelLoadError, match=says):
        successor(DEMO, folder)


def test_a_quantised_one_may_not(tmp_path: Path) -> None:
    folder = copy(tmp_path / "int8", quantization_config={"quant_method": "fp8"})
    with pytest.raises(ModelLoadError, match="quantised"):
        successor(Checkpoint("int8", folder), folder)


def test_one_with_a_value_head_may_not(tmp_path: Path) -> None:
    folder = copy(tmp_path / "reward")
    save_file({"v_head.summary.bias": torch.zeros(1)}, folder / "value_head.safetensors")
    with pytest.raises(ModelLoadError, match="value head"):
        successor(DEMO, folder)


def test_nothing_may_not(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no config"):
        successor(DEMO, tmp_path)
    with pytest.raises(ParameterError, match="not a path"):
        successor(DEMO, 5)
