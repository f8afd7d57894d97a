"""Prompts without a template, and a model that lives on somebody else's event loop."""

import asyncio
from typing import Any

import pytest

from engineroom import ChatModel, Prompt, SamplingParams, ScriptedEngine
from engineroom.bridge import Bridge
from engineroom.engines.scripted import Reply
from engineroom.errors import (
    EngineBusyError,
    EngineClosedError,
    MessageError,
    ParameterError,
    PromptTooLongError,
    RequestError,
)


def echo(prompt: Prompt, params: SamplingParams) -> str:
    return prompt.text.upper()


def test_a_prompt_is_taken_as_it_is_in_all_four_ways() -> None:
    with ChatModel(engine=ScriptedEngine(echo)) as model:

        async def asynchronously() -> tuple[str, str]:
            answers = await model.acomplete("abc")
            pieces = [delta.text async for delta in model.astream_completion("abc")]
            return answers[0].response_text, "".join(pieces)

        texts = {
            model.complete("abc")[0].response_text,
            model.complete([97, 98, 99])[0].response_text,
            "".join(delta.text for delta in model.stream_completion("abc")),
            *asyncio.run(asynchronously()),
        }
        assert texts == {"ABC"}
        assert {prompt.token_ids for prompt, _ in model.engine.requests} == {(97, 98, 99)}  # type: ignore[attr-defined]


@pytest.mark.parametrize("ids", [[-1], [265], [2**63]])
def test_ids_that_the_model_does_not_have_are_refused(ids: list[int]) -> None:
    with ChatModel(engine=ScriptedEngine(echo)) as model:
        with pytest.raises(MessageError, match="the model has no token id"):
            model.complete(ids)
        with pytest.raises(MessageError, match="no tokens"):
            model.complete([])
        with pytest.raises(ParameterError, match="enable_thinking has no meaning"):
            model.complete("a", enable_thinking=True)
        assert model.engine.requests == []  # type: ignore[attr-defined]


def test_a_text_that_no_context_holds_is_not_read() -> None:
    with ChatModel(engine=ScriptedEngine(echo)) as model:
        model.tokenizer.encode = lambda text: pytest.fail("it was read")  # type: ignore[method-assign, assignment]
        huge = "x" * 2_000_001
        for ask in (
            lambda: model.complete(huge),
            lambda: model.chat(huge),
            lambda: model.render([{"role": "user", "content": [{"type": "text", "text": huge}]}]),
        ):
            with pytest.raises(PromptTooLongError, match="more than 2,000,000 characters"):
                ask()


def test_several_prompts_are_answered_together() -> None:
    with ChatModel(engine=ScriptedEngine(echo)) as model:
        answers = model.complete(["a", "bb"], n=2)
        deltas = list(model.stream_completion([[97], [98, 98]], n=2))
        assert [answer.response_text for answer in answers] == ["A", "A", "BB", "BB"]
        streamed = [
            "".join(delta.text for delta in deltas if delta.index == index) for index in range(len(answers))
        ]
        assert streamed == ["A", "A", "BB", "BB"]
        assert model.load.running == model.load.waiting == 0


BAD = {
    "too long": "b" * 5000,
    "an unknown id": [265],
    "no ids": [],
    "an empty text": "",
    "half a character": "\ud800",
    "no id": ["c"],
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_of_several_prompts_a_later_bad_one_refuses_all_before_the_engine_works(bad: Any) -> None:
    with ChatModel(engine=ScriptedEngine(echo)) as model:
        with pytest.raises(RequestError, match=r"^prompt\[2\]: ") as refused:
            model.complete(["a", [97], bad])
        assert refused.value.place == "prompt[2]"
        with pytest.raises(RequestError, match=r"^prompt\[2\]: "):
            next(model.stream_completion(["a", [97], bad]))
        assert model.engine.requests == []  # type: ignore[attr-defined]
        assert model.load.running == model.load.waiting == 0


def test_several_prompts_are_let_in_together_or_not_at_all() -> None:
    slow = Reply("Hello", pause_at=0)
    with ChatModel({"max_concurrent": 2, "max_queue": 2}, engine=ScriptedEngine([slow])) as model:
        with pytest.raises(ParameterError, match="n=1 for 5 prompts") as never:
            model.complete(["a"] * 5)
        assert never.value.parameter == "prompt"
        with pytest.raises(ParameterError, match="n=3 for 2 prompts") as never:
            model.complete(["a"] * 2, n=3)
        assert never.value.parameter == "n"

        async def go() -> None:
            inside = asyncio.create_task(model.achat("hi"))
            await asyncio.to_thread(slow.paused.wait)
            with pytest.raises(EngineBusyError):
                await model.acomplete(["a", "b"], n=2)
            assert (model.load.running, model.load.waiting) == (1, 0)
            slow.resume.set()
            await inside

        asyncio.run(go())
        assert len(model.engine.requests) == 1  # type: ignore[attr-defined]


def test_a_caller_learns_when_nothing_can_be_refused_any_more() -> None:
    heard: list[str] = []

    def answer(prompt: Prompt, params: SamplingParams) -> str:
        heard.append("generates")
        return "Hello"

    with ChatModel(engine=ScriptedEngine(answer)) as model:

        async def ask(prompt: Any) -> None:
            async for _ in model.astream_completion(prompt, accepted=lambda: heard.append("accepted")):
                pass

        with pytest.raises(MessageError):
            asyncio.run(ask(["a", ""]))
        assert heard == []
        asyncio.run(ask(["a", "b"]))
        assert heard == ["accepted", "generates", "generates"]


def test_a_shared_loop_outlives_its_models() -> None:
    bridge = Bridge()
    for _ in range(2):
        with ChatModel(engine=ScriptedEngine(["Hello"]), bridge=bridge) as model:
            assert model.chat("hi")[0].response_text == "Hello"
        with pytest.raises(EngineClosedError):
            model.chat("hi")
        assert not bridge.closed
    bridge.close()
    model.close()


def test_on_its_own_loop_a_stream_costs_no_change_of_threads() -> None:
    with ChatModel(engine=ScriptedEngine(["Hello"])) as model:

        async def stream() -> tuple[str, int]:
            before = len(asyncio.all_tasks())
            text = ""
            async for delta in model.astream_deltas("hi"):
                text += delta.text
                assert len(asyncio.all_tasks()) == before
            return text, before

        assert model._bridge.call(stream())[0] == "Hello"  # pyright: ignore[reportPrivateUsage]


def test_the_load_counts_who_runs_and_who_waits() -> None:
    slow = Reply("Hello", pause_at=0)
    with ChatModel({"max_concurrent": 1, "max_queue": 5}, engine=ScriptedEngine([slow])) as model:

        async def go() -> None:
            tasks = [asyncio.create_task(model.achat("hi")) for _ in range(3)]
            await asyncio.to_thread(slow.paused.wait)
            while model.load.waiting < 2:
                await asyncio.sleep(0.001)
            assert (model.load.running, model.load.limit, model.load.max_queue) == (1, 1, 5)
            slow.resume.set()
            await asyncio.gather(*tasks)

        asyncio.run(go())
        assert (model.load.running, model.load.waiting) == (0, 0)
