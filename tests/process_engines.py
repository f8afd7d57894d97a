"""What the tests of vLLM's and SGLang's own share: engines whose library runs in a process of its own."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engineroom import ChatModel
from engineroom.errors import EngineDeadError
from engineroom.types import Response

QUESTION = "What is 7 plus 5?"
QUESTIONS = (QUESTION, "Tell me about the moon.", "¿Qué? 日本語 🙂")

PENALTIES: tuple[dict[str, Any], ...] = (
    {"repetition_penalty": 1.5},
    {"presence_penalty": 2.0},
    {"frequency_penalty": 2.0},
    {"logit_bias": {22: -100.0}},
    {
        "repetition_penalty": 1.3,
        "presence_penalty": 1.0,
        "frequency_penalty": 0.5,
        "logit_bias": {220: 2},
    },
)


def assert_answers_as(ours: ChatModel, theirs: ChatModel, question: str) -> None:
    """The same greedy answer: tokens, text and usage, and log-probabilities within 1e-4."""
    ask: dict[str, Any] = {"temperature": 0, "max_new_tokens": 40, "logprobs": 3, "prompt_logprobs": 2}
    one, other = (model.chat(question, **ask)[0] for model in (ours, theirs))
    assert (one.token_ids, one.response_text) == (other.token_ids, other.response_text)
    assert (one.usage, one.finish_reason) == (other.usage, other.finish_reason)
    assert_logprobs_as(one, other)
    assert len(one.prompt_logprobs or ()) == one.prompt_length
    for mine, its in zip(one.prompt_logprobs or (), other.prompt_logprobs or (), strict=True):
        assert (mine is None) == (its is None)
        if mine and its:
            assert (mine.token_id, len(mine.top)) == (its.token_id, 2)
            assert mine.logprob == pytest.approx(its.logprob, abs=1e-4)


def assert_logprobs_as(one: Response, other: Response) -> None:
    for mine, its in zip(one.logprobs or (), other.logprobs or (), strict=True):
        assert mine.logprob == pytest.approx(its.logprob, abs=1e-4)
        assert [p for _, p in mine.top] == pytest.approx([p for _, p in its.top], abs=1e-4)


def kill_in_mid_answer(model: ChatModel, kill: Callable[[ChatModel], None]) -> list[str]:
    """Everybody is told within two seconds, and so is who comes later. What they are told."""
    started = threading.Barrier(5)

    def answer(number: int) -> tuple[float, BaseException | None]:
        stream = model.stream_deltas(f"{number}", temperature=0, ignore_eos=True, max_new_tokens=1900)
        next(stream)
        started.wait()
        try:
            for _ in stream:
                pass
        except EngineDeadError as error:
            return time.monotonic(), error
        return time.monotonic(), None

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(answer, number) for number in range(4)]
        started.wait()
        killed = time.monotonic()
        kill(model)
        told = [future.result() for future in waiting]
    for moment, error in told:
        assert error is not None
        assert moment - killed < 2
    assert model.health().state == "dead"
    with pytest.raises(EngineDeadError, match=r"model\.restart\(\)"):
        model.chat(QUESTION)
    return [str(error) for _, error in told]
