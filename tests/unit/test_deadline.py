"""``timeout``: a request that takes longer ends with an error that tells how far it got."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from engineroom import ChatModel, Reply, ScriptedEngine
from engineroom.errors import EngineError, ParameterError, RequestTimeoutError


def test_in_time_nothing_happens() -> None:
    with ChatModel(engine=ScriptedEngine(["hello"])) as model:
        assert model.chat("hi", timeout=60)[0].response_text == "hello"
        assert "".join(model.stream_chat("hi", timeout=60)) == "hello"
        assert [r.response_text for r in model.chat("hi", timeout=60, n=3)] == ["hello"] * 3


@pytest.mark.parametrize("value", [0, -1, float("inf"), "5", True])
def test_what_is_no_time_is_refused(value: Any) -> None:
    with ChatModel(engine=ScriptedEngine(["x"])) as model, pytest.raises(ParameterError, match="timeout"):
        model.chat("hi", timeout=value)


def test_a_stream_ends_with_the_error_behind_what_was_made() -> None:
    engine = ScriptedEngine([Reply("hello", pause_at=3)])
    with ChatModel(engine=engine) as model:
        stream = model.stream_chat("hi", timeout=0.2)
        assert [next(stream) for _ in range(3)] == ["h", "e", "l"]
        with pytest.raises(RequestTimeoutError, match=r"timeout=0\.2") as passed:
            next(stream)
        assert (passed.value.tokens, passed.value.timeout) == (3, 0.2)
        assert (engine.cancelled, engine.health().running) == (1, 0)


def test_the_error_says_what_it_was_waiting_for() -> None:
    first = Reply("hello", pause_at=1)
    engine = ScriptedEngine([first])
    with ChatModel({"max_concurrent": 1}, engine=engine) as model:
        running = model.stream_chat("hi")
        next(running)
        with pytest.raises(RequestTimeoutError, match="waiting for its turn") as passed:
            model.chat("hi", timeout=0.1)
        assert passed.value.tokens == 0
        assert len(engine.requests) == 1
        running.close()
    with (
        ChatModel(engine=ScriptedEngine([Reply("hello", pause_at=0)])) as model,
        pytest.raises(RequestTimeoutError, match="reading the prompt"),
    ):
        model.chat("hi", timeout=0.1)


def test_it_is_a_default_of_all_requests_too() -> None:
    with (
        ChatModel({"timeout": 0.1}, engine=ScriptedEngine([Reply("x", pause_at=0)])) as model,
        pytest.raises(TimeoutError),
    ):
        model.chat("hi")


def test_scores_have_it() -> None:
    with ChatModel(engine=ScriptedEngine(scorer=lambda prompt: 1.0)) as model:
        assert model.get_scores(["a"], timeout=60) == [1.0]
        with pytest.raises(ParameterError, match="timeout"):
            model.get_scores(["a"], timeout=-1)
        with pytest.raises(ParameterError, match="temperature"):
            model.get_scores(["a"], temperature=1)


async def test_scores_that_take_longer_end_with_it() -> None:
    engine = ScriptedEngine(scorer=lambda prompt: 1.0)

    async def slow(prompts: Any) -> list[float]:
        await asyncio.sleep(60)
        return []

    setattr(engine, "score", slow)  # noqa: B010
    with ChatModel(engine=engine) as model, pytest.raises(RequestTimeoutError, match="had not scored all 2"):
        await model.aget_scores(["a", "b"], timeout=0.1)


def test_the_error_is_one_of_ours_and_pythons_and_can_be_pickled() -> None:
    error = RequestTimeoutError("late", why="w", fix="f", timeout=1.5, tokens=3)
    assert isinstance(error, EngineError)
    assert isinstance(error, TimeoutError)
    assert str(error) == "late\n  why: w\n  fix: f"
    again = pickle.loads(pickle.dumps(error))
    assert (again.what, again.why, again.timeout, again.tokens) == ("late", "w", 1.5, 3)
