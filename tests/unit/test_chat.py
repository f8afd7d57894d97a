"""ChatModel on the scripted engine: folding, streaming, refusing, cancelling, closing."""

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from engineroom import ChatModel, Reply, ScriptedEngine
from engineroom.errors import (
    EngineBusyError,
    EngineClosedError,
    EngineDeadError,
    GenerationError,
    MessageError,
    ParameterError,
    PromptTooLongError,
    RequestError,
    UnsupportedError,
)

HI = [{"role": "user", "content": "hi"}]


def scripted(*replies: str | Reply, **options: object) -> ChatModel:
    return ChatModel(engine=ScriptedEngine(list(replies), **options))  # type: ignore[arg-type]


def test_chat_is_the_stream_folded() -> None:
    with scripted("Grüß Gott, 世界!") as model:
        response = model.chat(HI)[0]
        assert response.response_text == "".join(model.stream_chat(HI)) == "Grüß Gott, 世界!"
        assert response.finish_reason == "stop"
        assert response.response_length == len("Grüß Gott, 世界!".encode()) + 1
        assert response.prompt_length == len(model.render(HI))


def test_length_and_stop_strings() -> None:
    with scripted("one two three") as model:
        assert model.chat(HI, max_new_tokens=3)[0].finish_reason == "length"
        stopped = model.chat(HI, stop=" th")[0]
        assert (stopped.response_text, stopped.finish_reason) == ("one two", "stop")
        assert model.engine.health().running == 0


def test_n_answers_each_with_a_seed_of_its_own() -> None:
    engine = ScriptedEngine(lambda prompt, params: f"seed {params.seed}")
    with ChatModel(engine=engine) as model:
        assert [r.response_text for r in model.chat(HI, n=3, seed=7)] == ["seed 7", "seed 8", "seed 9"]


@pytest.mark.parametrize(
    ("messages", "options", "error", "says"),
    [
        ([], {}, MessageError, "empty"),
        (None, {}, MessageError, "NoneType"),
        ([{"role": "wizard", "content": "x"}], {}, MessageError, "roles"),
        ([{"role": "user", "content": None}], {}, MessageError, r"messages\[0\].content"),
        ([{"role": "user", "content": 5}], {}, MessageError, "text"),
        ([{"role": "user", "contnet": "x"}], {}, MessageError, "did you mean content"),
        (["hi"], {}, MessageError, "mapping"),
        ([{"role": "user", "content": "\ud800"}], {}, MessageError, "Unicode"),
        (HI, {"top_p": 3}, ParameterError, "top_p"),
        (HI, {"temperature": -1}, ParameterError, "temperature"),
        (HI, {"max_new_tokens": 0}, ParameterError, "max_new_tokens"),
        (HI, {"temprature": 1}, ParameterError, "did you mean temperature"),
        (HI, {"images": ["cat.png"]}, UnsupportedError, "images"),
        (HI, {"num_beams": 2}, UnsupportedError, "num_beams"),
        (HI, {"logit_bias": {1: 1}}, UnsupportedError, "huggingface"),
        (HI, {"stop_token_ids": [99999]}, ParameterError, "99999"),
        ("x" * 5000, {}, PromptTooLongError, r"50\d\d tokens; the context has 4096"),
    ],
)
def test_bad_input_is_refused_and_the_next_request_succeeds(
    messages: object, options: dict[str, object], error: type[Exception], says: str
) -> None:
    engine = ScriptedEngine(["fine"])
    with ChatModel(engine=engine) as model:
        with pytest.raises(error, match=says):
            model.chat(messages, **options)  # type: ignore[arg-type]
        assert engine.requests == []
        assert model.chat(HI)[0].response_text == "fine"


def test_leaving_a_stream_frees_the_slot() -> None:
    reply = Reply("abcdef", pause_at=2)
    engine = ScriptedEngine([reply])
    with ChatModel(engine=engine) as model:
        stream = model.stream_chat(HI)
        assert next(stream) == "a"
        stream.close()
        assert engine.health().running == 0
        assert engine.cancelled == 1


def test_a_full_queue_refuses_and_loses_nothing() -> None:
    reply = Reply("abc", pause_at=1)
    with ChatModel({"max_concurrent": 1, "max_queue": 0}, engine=ScriptedEngine([reply])) as model:
        stream = model.stream_chat(HI)
        assert next(stream) == "a"
        with pytest.raises(EngineBusyError, match="try again"):
            model.chat(HI)
        reply.resume.set()
        assert "".join(stream) == "bc"


def test_an_engine_failure_reaches_its_caller_only() -> None:
    with scripted(Reply("x", error=RuntimeError("boom")), "fine") as model:
        with pytest.raises(GenerationError):
            model.chat(HI)
        assert model.chat(HI)[0].response_text == "fine"


def test_a_dead_engine_says_so() -> None:
    with scripted(Reply("x", die=True)) as model:
        for _ in range(2):
            with pytest.raises(EngineDeadError):
                model.chat(HI)
        assert model.health().state == "dead"


async def test_the_async_twins_work_on_any_loop() -> None:
    with scripted("hello") as model:
        assert (await model.achat(HI))[0].response_text == "hello"
        assert "".join([piece async for piece in model.astream_chat(HI)]) == "hello"
        assert (
            model.chat(HI)[0].response_text == "hello"
        )  # a sync call under a running loop, as in a notebook


async def test_cancelling_a_task_frees_the_slot() -> None:
    reply = Reply("abc", pause_at=1)
    engine = ScriptedEngine([reply])
    with ChatModel(engine=engine) as model:
        task = asyncio.create_task(model.achat(HI))
        await asyncio.to_thread(reply.paused.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while engine.health().running:
            await asyncio.sleep(0.001)
        assert engine.cancelled == 1


async def test_scores_have_an_async_twin() -> None:
    with ChatModel(engine=ScriptedEngine(scorer=lambda prompt: float(len(prompt)))) as model:
        assert await model.aget_scores(["abc", HI]) == model.get_scores(["abc", HI])
        with pytest.raises(RequestError, match="does not chat"):
            model.chat(HI)
    with scripted("x") as model, pytest.raises(RequestError, match="not a reward model"):
        await model.aget_scores(["abc"])


def test_more_answers_than_there_can_ever_be_are_refused_for_good() -> None:
    with ChatModel({"max_concurrent": 2, "max_queue": 1}, engine=ScriptedEngine(["x"])) as model:
        assert len(model.chat(HI, n=3)) == 3
        with pytest.raises(ParameterError, match="n=4"):
            model.chat(HI, n=4)


def test_answers_side_by_side_end_with_the_first_failure() -> None:
    engine = ScriptedEngine([Reply("abc", pause_at=2), Reply("x", error=RuntimeError("boom"))])
    with ChatModel(engine=engine) as model:
        with pytest.raises(GenerationError):
            model.chat(HI, n=2)
        assert engine.health().running == 0
        assert engine.cancelled == 1


def test_deltas_of_several_answers_carry_their_index() -> None:
    with scripted("one", "two") as model:
        texts = {0: "", 1: ""}
        for delta in model.stream_deltas(HI, n=2):
            texts[delta.index] += delta.text
        assert texts == {0: "one", 1: "two"}
        with pytest.raises(ParameterError, match="stream_deltas"):
            list(model.stream_chat(HI, n=2))


def test_the_engine_answers_as_the_seed_s_engine_did() -> None:
    with scripted("hello", "hello") as model:
        engine = model.engine

        async def ask() -> tuple[str, str]:
            whole = (await engine.chat(HI, "Be brief."))[0].response_text
            return whole, "".join([piece async for piece in engine.stream_chat(HI)])

        assert model._bridge.call(ask()) == ("hello", "hello")
        assert engine.generating_args["temperature"] == 0.0
        assert engine.template.origin == "model"
    with pytest.raises(EngineClosedError, match="not attached"):
        asyncio.run(ScriptedEngine(["x"]).chat(HI))


def test_many_threads_get_the_answers_that_they_get_alone() -> None:
    with ChatModel({"infer_backend": "scripted"}) as model, ThreadPoolExecutor(32) as pool:
        texts = [f"message {i}" for i in range(64)]
        assert [r[0].response_text for r in pool.map(model.chat, texts)] == texts


def test_close_leaves_no_thread_and_a_clear_error() -> None:
    before = set(threading.enumerate())
    model = scripted("x")
    model.chat(HI)
    model.close()
    model.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(EngineClosedError):
        model.chat(HI)


def test_importing_engineroom_imports_nothing_heavy() -> None:
    code = "import sys, engineroom; print({'torch', 'transformers', 'pydantic', 'jinja2'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
    )
