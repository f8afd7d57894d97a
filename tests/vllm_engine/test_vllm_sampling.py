"""Our sampling parameters as vLLM's, and vLLM's outputs as chunks. Imports vLLM, and starts no engine."""

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
]  # importing vLLM warns of its own libraries

from engineroom.engines.vllm.chunks import finish_reason, to_chunk  # noqa: E402
from engineroom.engines.vllm.sampling import to_vllm  # noqa: E402
from engineroom.errors import GenerationError, ParameterError  # noqa: E402
from engineroom.types import Prompt, SamplingParams, TokenLogprob  # noqa: E402


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": None, "n": 1}),
        ({}, {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}),
        ({}, {"logprobs": None, "prompt_logprobs": None, "logit_bias": None, "stop": []}),
        ({}, {"ignore_eos": True, "detokenize": False, "min_tokens": 0}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 0.01}, {"temperature": 0.01}),
        ({"temperature": 2}, {"temperature": 2.0}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 7}, {"top_k": 7}),
        ({"top_p": 0.3}, {"top_p": 0.3}),
        ({"min_p": 0.2}, {"min_p": 0.2}),
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"presence_penalty": -1.5}, {"presence_penalty": -1.5}),
        ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5}),
        ({"logit_bias": {5: -100, 6: 2.5}}, {"logit_bias": {5: -100.0, 6: 2.5}}),
        ({"seed": 0}, {"seed": 0}),
        ({"seed": 2**63 - 1}, {"seed": 2**63 - 1}),
        ({"max_new_tokens": 9}, {"max_tokens": 9}),
        ({"stop_token_ids": [3, 4]}, {"stop_token_ids": [3, 4]}),
        ({"stop": ["end"]}, {"stop": []}),  # strings are looked for above the engines
        ({"n": 4, "seed": 1}, {"n": 1}),  # and so are several answers
        ({"logprobs": 0}, {"logprobs": 0}),
        ({"logprobs": 50}, {"logprobs": 50}),
        ({"prompt_logprobs": 3}, {"prompt_logprobs": 3}),
    ],
)
def test_a_parameter_reaches_vllm(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    made = to_vllm(SamplingParams(**ours))
    assert {name: getattr(made, name) for name in theirs} == theirs


@pytest.mark.parametrize("temperature", [1e-5, 0.0099, 2.01, 100])
def test_a_temperature_that_vllm_would_change_is_refused(temperature: float) -> None:
    with pytest.raises(ParameterError, match=r"0\.01 to 2"):
        to_vllm(SamplingParams(temperature=temperature))


def output(token_ids: list[int], reason: str | None = None, **told: Any) -> Any:
    completion = SimpleNamespace(
        token_ids=token_ids, finish_reason=reason, logprobs=told.pop("logprobs", None)
    )
    prompt = told.pop("prompt_logprobs", None)
    return SimpleNamespace(
        outputs=[completion], prompt_logprobs=prompt, num_cached_tokens=told.pop("cached", None)
    )


def at(**logprobs: float) -> Any:
    return {int(name[1:]): SimpleNamespace(logprob=value, rank=1) for name, value in logprobs.items()}


PROMPT = Prompt((8, 9))


def test_tokens_and_their_logprobs_go_together() -> None:
    positions = [at(_1=-2.0, _5=-0.1, _6=-1.0), at(_2=-0.5, _3=-3.0)]
    chunk = to_chunk(output([1, 2], "length", logprobs=positions), PROMPT, SamplingParams(logprobs=2))
    assert chunk is not None
    assert (chunk.token_ids, chunk.finish_reason) == ((1, 2), "length")
    assert chunk.logprobs == (
        TokenLogprob(1, -2.0, ((5, -0.1), (6, -1.0))),
        TokenLogprob(2, -0.5, ((2, -0.5), (3, -3.0))),
    )


def test_the_prompts_logprobs_come_with_the_first_chunk() -> None:
    chunk = to_chunk(
        output([1], prompt_logprobs=[None, at(_9=-4.0, _2=-1.0)]), PROMPT, SamplingParams(prompt_logprobs=1)
    )
    assert chunk is not None
    assert chunk.prompt_logprobs == (None, TokenLogprob(9, -4.0, ((2, -1.0),)))
    assert chunk.logprobs is None


def test_logprobs_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(GenerationError, match="NaN"):
        to_chunk(output([1], logprobs=[at(_1=float("nan"))]), PROMPT, SamplingParams(logprobs=0))


def test_a_chunk_tells_how_much_of_the_prompt_was_in_the_cache() -> None:
    for cached, told in ((None, 0), (0, 0), (16, 16)):
        chunk = to_chunk(output([1], cached=cached), PROMPT, SamplingParams())
        assert chunk is not None
        assert chunk.cached_tokens == told


def test_an_output_that_adds_nothing_is_no_chunk() -> None:
    assert to_chunk(output([]), PROMPT, SamplingParams()) is None
    end = to_chunk(output([], "abort"), PROMPT, SamplingParams())
    assert end is not None
    assert end.finish_reason == "abort"


def test_an_end_that_is_no_end_is_an_error() -> None:
    assert finish_reason("stop") == "stop"
    with pytest.raises(GenerationError, match="repetition"):
        finish_reason("repetition")


def test_a_grammar_lets_no_special_token_through_but_those_that_end_the_answer() -> None:
    params = SamplingParams(stop_token_ids=(7,), logit_bias={5: 3.0, 6: 100.0})
    made = to_vllm(params, 'root ::= "a"', special_ids=(6, 7, 8))
    assert made.structured_outputs is not None
    assert made.structured_outputs.grammar == 'root ::= "a"'
    assert made.logit_bias == {5: 3.0, 6: -100.0, 8: -100.0}
    assert to_vllm(params).structured_outputs is None
