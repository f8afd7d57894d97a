"""Whatever comes in, only our errors come out, and the engine is as it was."""

import asyncio
import random
import threading
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engineroom import ChatModel, Prompt, Reply, SamplingParams, ScriptedEngine
from engineroom.config import argument_names
from engineroom.errors import EngineroomError, GenerationError

ROLES = ["system", "developer", "user", "assistant", "function", "tool", "observation"]
KEYS = ["role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "id", "refusal", "type"]

texts = st.text(max_size=6) | st.sampled_from(["\ud800", "<|im_end|>", "[]", "{}", '{"name": "f"}', "\ufdd0"])
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=3) | st.just(10**400)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(texts | st.integers(), inner, max_size=3)
        | st.sets(st.integers(), max_size=2)
        | st.tuples(inner)
    ),
    max_leaves=6,
)
parts = (
    st.fixed_dictionaries({"type": st.sampled_from(["text", "image", "audio_url", 5]), "text": texts})
    | values
)
calls = st.fixed_dictionaries(
    {}, optional={"id": values, "name": texts, "arguments": values, "function": values, "type": values}
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(ROLES) | values},
    optional={
        "content": texts | st.lists(parts, max_size=3) | values,
        "name": values,
        "tool_calls": st.lists(calls, max_size=2) | values,
        "tool_call_id": texts | values,
        "reasoning_content": texts | values,
    },
)
tools = st.lists(
    st.fixed_dictionaries(
        {"name": texts}, optional={"description": texts, "parameters": values, "type": values}
    )
    | values,
    max_size=3,
)
parameters = st.dictionaries(
    st.sampled_from([*SamplingParams.names(), "do_sample", "max_tokens", "enable_thinking", "continue_final"])
    | st.text("abc_", max_size=6),
    values,
    max_size=3,
)


@pytest.fixture(scope="module")
def model() -> Generator[ChatModel, None, None]:
    with ChatModel(engine=ScriptedEngine(["fine"])) as model:
        yield model


@settings(max_examples=400)
@given(
    conversation=st.lists(messages, max_size=3) | values,
    system=st.none() | texts | values,
    tools=st.none() | tools | values,
    media=st.none() | values,
    params=parameters,
)
def test_only_our_errors_come_out(
    model: ChatModel, conversation: Any, system: Any, tools: Any, media: Any, params: dict[str, Any]
) -> None:
    try:
        model.chat(conversation, system, tools, media, **params)
    except EngineroomError as error:
        assert error.what
        assert str(error)
    assert model.chat("hi")[0].response_text == "fine"
    assert model.health().running == 0


@given(arguments=st.dictionaries(st.sampled_from(argument_names()), values, max_size=3) | values)
def test_only_our_errors_come_out_of_arguments(arguments: Any) -> None:
    from engineroom import parse_arguments

    try:
        parse_arguments(arguments)
    except EngineroomError as error:
        assert str(error)


@given(batch=st.lists(texts | st.lists(messages, max_size=2) | values, max_size=3) | values)
def test_only_our_errors_come_out_of_scores(batch: Any) -> None:
    with ChatModel(engine=ScriptedEngine(scorer=len)) as model:
        try:
            model.get_scores(batch)
        except EngineroomError as error:
            assert str(error)
        assert model.get_scores(["hi"]) == [2.0]


@pytest.mark.parametrize("name", [*SamplingParams.names(), "enable_thinking", "unheard_of", "do_sample"])
def test_integers_of_five_thousand_digits_are_refused(model: ChatModel, name: str) -> None:
    for huge in (10**5000, -(10**5000), [10**5000], {10**5000: 10**5000}):
        with pytest.raises(EngineroomError):
            model.chat("hi", **{name: huge})
        with pytest.raises(EngineroomError):
            model.chat([{"role": huge, "content": huge}])
    assert model.chat("hi")[0].response_text == "fine"


@pytest.mark.parametrize("depth", [50, 2_000, 100_000])
def test_what_is_nested_too_deeply_is_refused(model: ChatModel, depth: int) -> None:
    nested: Any = "x"
    for _ in range(depth):
        nested = [nested]
    itself: list[Any] = []
    itself.append(itself)
    for bad in (nested, itself):
        for ask in (
            lambda bad=bad: model.chat([{"role": "user", "content": bad}]),
            lambda bad=bad: model.chat(bad),
            lambda bad=bad: model.chat("hi", tools=[{"name": "f", "parameters": {"a": bad}}]),
            lambda bad=bad: model.chat("hi", stop=bad),
            lambda bad=bad: model.chat("hi", temperature=bad),
        ):
            with pytest.raises(EngineroomError):
                ask()
    assert model.chat("hi")[0].response_text == "fine"


@pytest.mark.usefixtures("no_thread_left")
async def test_a_thousand_good_left_and_failing_requests_leave_nothing_behind() -> None:
    def play(prompt: Prompt, params: SamplingParams) -> Reply | str:
        if "fail" in prompt.text:
            return Reply("half an ans", error=RuntimeError("boom"))
        return "a good answer"

    engine = ScriptedEngine(play, context_length=200)
    model = ChatModel({"max_concurrent": 16, "max_queue": 2000}, engine=engine)
    await model.achat("warm up")
    threads, tasks = set(threading.enumerate()), len(asyncio.all_tasks())
    inner = await model._bridge.acall(_tasks())
    draw = random.Random(7)

    async def good() -> None:
        assert (await model.achat("good"))[0].response_text == "a good answer"

    async def failing() -> None:
        with pytest.raises(GenerationError):
            await model.achat("fail")

    async def refused() -> None:
        with pytest.raises(EngineroomError):
            await model.achat(draw.choice([[], None, "x" * 500]))

    async def left() -> None:
        stream = model.astream_chat("good")
        await anext(stream)
        await stream.aclose()

    async def cancelled() -> None:
        task = asyncio.ensure_future(model.achat("good"))
        for _ in range(draw.randrange(20)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def several() -> None:
        assert len(await model.achat("good", n=3)) == 3

    kinds = [good, failing, refused, left, cancelled, several]
    for _ in range(4):
        await asyncio.gather(*(draw.choice(kinds)() for _ in range(250)))
    await good()
    assert len(asyncio.all_tasks()) == tasks
    assert await model._bridge.acall(_tasks()) == inner
    assert set(threading.enumerate()) == threads
    assert engine.health().running == 0
    assert model._pipeline.admission.accepted == 0
    model.close()


async def _tasks() -> int:
    for _ in range(10):  # tasks that were just cancelled take a turn or two to end
        await asyncio.sleep(0)
    return len(asyncio.all_tasks())
