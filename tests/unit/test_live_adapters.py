"""Adapters loaded and unloaded while the model runs, sleep, and what both do to requests: on an engine without weights."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from engineroom import ChatModel, Prompt, Reply, SamplingParams, ScriptedEngine
from engineroom.engines.pooling import Pooling
from engineroom.errors import (
    EngineNotReadyError,
    GenerationError,
    ModelLoadError,
    ParameterError,
    RequestError,
    RequestTimeoutError,
    UnsupportedError,
)
from engineroom.types import Chunk, Support


class ManagedEngine(ScriptedEngine):
    """Keeps adapters, sleeps and embeds, in name only. ``done`` says what was asked of it, in order."""

    capabilities: ClassVar[Mapping[str, Support]] = {
        **ScriptedEngine.capabilities,
        **dict.fromkeys(("adapter", "load_adapter", "sleep", "embed"), "native"),
    }

    def __init__(self, *replies: Reply, vector: tuple[float, ...] = (3.0, 4.0, 12.0)) -> None:
        super().__init__(replies or None)
        self.done: list[str] = []
        self.vector = vector
        self.failing: Exception | None = None
        self.hold: asyncio.Event | None = None

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Chunk, None]:
        try:
            async for chunk in super().generate(prompt, params):
                yield chunk
        finally:
            self.done.append("answered")

    async def load_adapter(self, name: str, path: Path) -> None:
        if self.hold:
            await self.hold.wait()
        if self.failing:
            raise self.failing
        self.adapters = {**self.adapters, name: path}

    async def unload_adapter(self, name: str) -> None:
        self.done.append(f"unloaded {name}")
        self.adapters = {known: path for known, path in self.adapters.items() if known != name}

    async def sleep(self) -> None:
        if self.failing:
            raise self.failing
        self.done.append("slept")

    async def wake(self) -> None:
        if self.failing:
            raise self.failing
        self.done.append("woke")

    async def embed(self, prompts: Any) -> list[tuple[float, ...]]:
        return [self.vector] * len(prompts)


@pytest.fixture
def paused() -> Reply:
    return Reply("hello", pause_at=1)


@pytest.fixture
def engine(paused: Reply) -> ManagedEngine:
    return ManagedEngine(paused)


@pytest.fixture
def model(engine: ManagedEngine) -> Generator[ChatModel, None, None]:
    with ChatModel(engine=engine) as model:
        yield model


async def reached(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def refuses(model: ChatModel, name: str) -> bool:
    try:
        model.resolve_sampling(adapter=name)
    except ParameterError:
        return True
    return False


# --- adapters -------------------------------------------------------------------------------------------------------


def test_an_adapter_is_chosen_after_it_was_loaded_and_not_before(model: ChatModel, paused: Reply) -> None:
    paused.resume.set()
    with pytest.raises(ParameterError, match="adapters kept apart: none"):
        model.chat("hi", adapter="late")
    model.load_adapter("late", "~/somewhere")
    assert dict(model.adapters) == {"late": Path("~/somewhere")}
    assert model.chat("hi", adapter="late")[0].response_text == "hello"
    with pytest.raises(ParameterError, match="did you mean late"):
        model.chat("hi", adapter="lat")


def test_unloading_waits_for_the_answers_and_turns_newcomers_away(
    model: ChatModel, engine: ManagedEngine, paused: Reply
) -> None:
    model.load_adapter("late", "x")

    async def scene() -> None:
        answer = asyncio.create_task(model.achat("hi", adapter="late"))
        await reached(paused.paused.is_set)
        unloading = asyncio.create_task(model.aunload_adapter("late"))
        await reached(lambda: refuses(model, "late"))
        with pytest.raises(ParameterError, match="there is no adapter 'late'"):
            await model.achat("hi", adapter="late")
        with pytest.raises(ParameterError, match="there is no adapter 'late'"):
            await model.aunload_adapter("late")
        with pytest.raises(ParameterError, match="already"):
            await model.aload_adapter("late", "x")
        assert "late" not in model.adapters
        assert not unloading.done()
        assert (await model.achat("hi", max_new_tokens=1))[0].response_length == 1  # others go on
        paused.resume.set()
        assert (await answer)[0].response_text == "hello"
        await unloading

    asyncio.run(scene())
    assert engine.done == ["answered", "answered", "unloaded late"]
    assert dict(model.adapters) == {}


def test_whoever_stops_waiting_keeps_the_adapter(model: ChatModel, paused: Reply) -> None:
    model.load_adapter("late", "x")

    async def scene() -> None:
        answer = asyncio.create_task(model.achat("hi", adapter="late"))
        await reached(paused.paused.is_set)
        unloading = asyncio.create_task(model.aunload_adapter("late"))
        await reached(lambda: refuses(model, "late"))
        unloading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unloading
        await reached(lambda: not refuses(model, "late"))
        paused.resume.set()
        await answer

    asyncio.run(scene())
    assert list(model.adapters) == ["late"]


def test_a_load_that_fails_leaves_the_name_free(model: ChatModel, engine: ManagedEngine) -> None:
    engine.failing = ModelLoadError("it does not fit")
    with pytest.raises(ModelLoadError, match="does not fit"):
        model.load_adapter("late", "x")
    engine.failing = None
    model.load_adapter("late", "x")
    assert list(model.adapters) == ["late"]


def test_a_load_whose_caller_left_is_finished(model: ChatModel, engine: ManagedEngine) -> None:
    """Or the engine would have an adapter that nobody knows of."""

    async def scene() -> None:
        engine.hold = asyncio.Event()
        loading = asyncio.create_task(model.aload_adapter("late", "x"))
        await reached(lambda: taken("late"))
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        model._bridge.call(release(engine.hold))
        await reached(lambda: "late" in model.adapters)

    def taken(name: str) -> bool:
        try:
            model.unload_adapter(name)
        except ParameterError:
            return name in model._pipeline.adapters._changing
        return False

    async def release(hold: asyncio.Event) -> None:
        hold.set()

    asyncio.run(scene())


@pytest.mark.parametrize("name", ["", "two words", "tab\t", 3, None])
def test_names_that_are_none(model: ChatModel, name: Any) -> None:
    with pytest.raises(ParameterError, match="name"):
        model.load_adapter(name, "x")


def test_what_the_scripted_engine_can_not_do_is_refused_by_name() -> None:
    with ChatModel(engine=ScriptedEngine()) as model:
        for feature, ask in (
            ("load_adapter", lambda: model.load_adapter("a", "x")),
            ("load_adapter", lambda: model.unload_adapter("a")),
            ("embed", lambda: model.get_embeddings(["hi"])),
            ("sleep", lambda: model.sleep()),
            ("sleep", lambda: model.wake()),
        ):
            with pytest.raises(UnsupportedError, match="huggingface, vllm") as refusal:
                ask()
            assert refusal.value.feature == feature


def test_a_reason_of_this_machine_names_no_other_engine() -> None:
    engine = ScriptedEngine()
    engine.lacks = {"sleep": "there is no accelerator here"}
    with (
        ChatModel(engine=engine) as model,
        pytest.raises(UnsupportedError, match="no accelerator here") as refusal,
    ):
        model.sleep()
    assert refusal.value.engines == ()


# --- sleep ----------------------------------------------------------------------------------------------------------


def test_it_falls_asleep_when_all_are_served_and_nobody_is_let_in(
    model: ChatModel, engine: ManagedEngine, paused: Reply
) -> None:
    async def scene() -> None:
        answer = asyncio.create_task(model.achat("hi"))
        await reached(paused.paused.is_set)
        falling = asyncio.create_task(model.asleep())
        await reached(lambda: model._pipeline.admission.refusal is not None)
        with pytest.raises(EngineNotReadyError, match=r"model\.wake\(\)"):
            await model.achat("hi")
        assert not falling.done()
        paused.resume.set()
        assert (await answer)[0].response_text == "hello"
        await falling

    asyncio.run(scene())
    assert engine.done == ["answered", "slept"]
    assert (model.is_sleeping, model.health().state) == (True, "sleeping")
    for ask in (
        lambda: model.chat("hi"),
        lambda: list(model.stream_chat("hi")),
        lambda: model.load_adapter("late", "x"),
    ):
        with pytest.raises(EngineNotReadyError):
            ask()
    model.sleep()
    model.wake()
    model.wake()
    assert engine.done == ["answered", "slept", "woke"]
    assert (model.is_sleeping, model.health().state) == (False, "ready")
    assert model.chat("hi")[0].response_text == "hello"


def test_a_sleep_that_fails_leaves_it_awake_and_a_wake_that_fails_asleep(
    model: ChatModel, engine: ManagedEngine, paused: Reply
) -> None:
    paused.resume.set()
    engine.failing = RuntimeError("no")
    with pytest.raises(RuntimeError):
        model.sleep()
    assert model.chat("hi")[0].response_text == "hello"
    engine.failing = None
    model.sleep()
    engine.failing = RuntimeError("no memory")
    with pytest.raises(RuntimeError):
        model.wake()
    assert model.is_sleeping
    engine.failing = None
    model.wake()
    assert model.chat("hi")[0].response_text == "hello"


def test_there_is_one_level(model: ChatModel) -> None:
    with pytest.raises(ParameterError, match="level=2"):
        model.sleep(2)


# --- embeddings -----------------------------------------------------------------------------------------------------


@pytest.fixture
def embedder() -> Generator[ChatModel, None, None]:
    engine = ManagedEngine()
    engine.can_generate, engine.can_embed = False, True
    with ChatModel(engine=engine) as model:
        yield model


def test_vectors_have_the_length_one_unless_they_are_wanted_as_they_are(embedder: ChatModel) -> None:
    (one,) = embedder.get_embeddings(["hi"])
    assert one.values == pytest.approx((3 / 13, 4 / 13, 12 / 13))
    assert one.prompt_length == 2
    (raw,) = embedder.get_embeddings(["hi"], normalize=False)
    assert raw.values == (3.0, 4.0, 12.0)
    (cut,) = embedder.get_embeddings(["hi"], dimensions=2)
    assert cut.values == pytest.approx((0.6, 0.8))  # cut first
    embedder.engine.pooling = Pooling(normalize=False)
    assert embedder.get_embeddings(["hi"])[0] == raw
    assert embedder.get_embeddings(["hi"], normalize=True)[0] == one
    assert embedder.get_embeddings([]) == []


def test_a_vector_of_nothing_stays_one() -> None:
    engine = ManagedEngine(vector=(0.0, 0.0))
    engine.can_embed = True
    with ChatModel(engine=engine) as model:
        assert model.get_embeddings(["hi"])[0].values == (0.0, 0.0)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_vector_that_is_no_number_is_an_error(broken: float) -> None:
    engine = ManagedEngine(vector=(1.0, broken))
    engine.can_embed = True
    with ChatModel(engine=engine) as model, pytest.raises(GenerationError, match="NaN"):
        model.get_embeddings(["hi"])


@pytest.mark.parametrize(
    ("batch", "options", "says"),
    [
        ("hi", {}, "takes a list"),
        (["hi", ""], {}, r"batch_input\[1\]"),
        (["hi"], {"dimensions": 0}, "dimensions=0"),
        (["hi"], {"dimensions": True}, "dimensions=True"),
        (["hi"], {"normalize": 1}, "normalize=1"),
        (["hi"], {"temperature": 1}, "no parameter 'temperature'"),
    ],
)
def test_bad_input_is_refused(embedder: ChatModel, batch: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        embedder.get_embeddings(batch, **options)


def test_an_embedding_model_neither_chats_nor_scores(embedder: ChatModel) -> None:
    with pytest.raises(RequestError, match="get_embeddings"):
        embedder.chat("hi")
    with pytest.raises(RequestError, match="not a reward model"):
        embedder.get_scores(["hi"])
    with pytest.raises(RequestError, match="adapter_name_or_path"):
        embedder.load_adapter("late", "x")


def test_a_model_that_chats_does_not_embed(model: ChatModel) -> None:
    with pytest.raises(RequestError, match="stage=embed"):
        model.get_embeddings(["hi"])


def test_embeddings_have_a_timeout_too(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ManagedEngine()
    engine.can_embed = True

    async def never(prompts: Any) -> list[tuple[float, ...]]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(engine, "embed", never)
    with ChatModel(engine=engine) as model, pytest.raises(RequestTimeoutError, match="embedded"):
        model.get_embeddings(["hi"], timeout=0.05)
