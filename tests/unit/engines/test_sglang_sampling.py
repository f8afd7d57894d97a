"""Our sampling parameters as SGLang's, and SGLang's events as chunks. No server."""

from typing import Any

import pytest

from engineroom.engines.sglang.chunks import ChunkReader, finish_reason
from engineroom.engines.sglang.sampling import check_foreign, generate_request, to_sglang
from engineroom.errors import GenerationError, ParameterError
from engineroom.params import ResponseFormat
from engineroom.types import Chunk, SamplingParams, TokenLogprob

DEFAULT = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,
    "skip_special_tokens": False,
}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 7.5}, {"temperature": 7.5}),
        ({"top_k": 0}, {"top_k": -1}),
        ({"top_k": -1}, {"top_k": -1}),
        ({"top_k": 7}, {"top_k": 7}),
        ({"top_p": 0.3, "min_p": 0.2}, {"top_p": 0.3, "min_p": 0.2}),
        ({"repetition_penalty": 2.0}, {"repetition_penalty": 2.0}),
        (
            {"presence_penalty": -1.5, "frequency_penalty": 0.5},
            {"presence_penalty": -1.5, "frequency_penalty": 0.5},
        ),
        ({"logit_bias": {5: -100, 6: 2.5}}, {"logit_bias": {"5": -100.0, "6": 2.5}}),
        ({"max_new_tokens": 9}, {"max_new_tokens": 9}),
        ({"stop_token_ids": [3, 4]}, {"stop_token_ids": [3, 4]}),  # 1 is SGLang's own end, and ends nothing
        ({"stop_token_ids": [3, 1]}, {"stop_token_ids": [3, 1], "ignore_eos": False}),
        ({"stop": ["end"], "n": 4}, {}),  # both are dealt with above the engines
        ({"logprobs": 5, "prompt_logprobs": 3}, {}),  # they stand beside the sampling parameters
    ],
)
def test_a_parameter_reaches_sglang(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert to_sglang(SamplingParams(**ours), own_ends=[1]) == {**DEFAULT, **theirs}


def test_a_penalty_that_sglang_would_refuse_is_refused() -> None:
    with pytest.raises(ParameterError, match="up to 2"):
        to_sglang(SamplingParams(repetition_penalty=2.1), ())


def test_a_grammar_lets_no_special_token_through_but_those_that_end_the_answer() -> None:
    params = SamplingParams(stop_token_ids=(7,), logit_bias={5: 3.0, 6: 100.0})
    made = to_sglang(params, [7], 'root ::= "a"', special_ids=(6, 7, 8))
    assert made["ebnf"] == 'root ::= "a"'
    assert made["logit_bias"] == {"5": 3.0, "6": -10_000.0, "8": -10_000.0}
    assert "ebnf" not in to_sglang(params, [7])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"logprobs": 0}, {"return_logprob": True, "logprob_start_len": -1, "top_logprobs_num": 0}),
        (
            {"logprobs": 2, "prompt_logprobs": 5},
            {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 5},
        ),
    ],
)
def test_log_probabilities_are_asked_for_beside_them(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    body = generate_request([8, 9], SamplingParams(**ours), {"n": 1}, "id", None)
    assert body == {"rid": "id", "input_ids": [8, 9], "sampling_params": {"n": 1}, "stream": True, **theirs}
    assert generate_request([8], SamplingParams(), {}, "id", "first")["lora_path"] == "first"


@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": {1: 1}},
        {"presence_penalty": 1},
        {"temperature": 0.5},
        {"response_format": ResponseFormat("json_object")},
    ],
    ids=str,
)
def test_log_probabilities_that_a_plain_server_gives_of_changed_logits_are_refused(
    options: dict[str, Any],
) -> None:
    with pytest.raises(ParameterError, match=f"logprobs can't be combined with {next(iter(options))}"):
        check_foreign(SamplingParams(logprobs=1, **options))


def test_what_a_plain_server_does_as_well_passes() -> None:
    check_foreign(SamplingParams(logprobs=1, temperature=0, top_p=0.5))
    check_foreign(SamplingParams(temperature=0.5, logit_bias={1: 2}, presence_penalty=1))


# --- events ---------------------------------------------------------------------------------------------------------


def event(ids: list[int], reason: dict[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
    return {"output_ids": ids, "meta_info": {"finish_reason": reason, **meta}}


def read(events: list[dict[str, Any]], *, cumulative: bool = False, **params: Any) -> list[Chunk | None]:
    reader = ChunkReader(SamplingParams(**params), cumulative=cumulative)
    return [reader.read(item) for item in events]


LENGTH = {"type": "length", "length": 3}


def test_events_that_go_on_and_events_that_begin_again_give_the_same_chunks() -> None:
    going_on = [event([5]), event([6, 7]), event([8], LENGTH)]
    again = [event([5]), event([5, 6, 7]), event([5, 6, 7, 8], LENGTH)]
    chunks = [Chunk((5,)), Chunk((6, 7)), Chunk((8,), "length")]
    assert read(going_on) == chunks
    assert read(again, cumulative=True) == chunks


def test_an_answer_ends_at_its_first_stop_id_whatever_sglang_thinks() -> None:
    assert read([event([5, 9, 6])], stop_token_ids=[9]) == [Chunk((5, 9), "stop")]
    assert read([event([9], LENGTH)], stop_token_ids=[9]) == [Chunk((9,), "stop")]
    assert read([event([4], {"type": "stop", "matched": 4})]) == [Chunk((4,), "stop")]


@pytest.mark.parametrize("cumulative", [False, True])
def test_each_token_has_its_log_probability(cumulative: bool) -> None:
    tokens = [[-0.5, 5, None], [-0.25, 6, None]]
    likeliest = [[[-0.5, 5, None], [-2.0, 3, None]], [[-0.125, 7, None], [-0.25, 6, None]]]
    second = slice(0 if cumulative else 1, 2)
    events = [
        event([5], output_token_logprobs=tokens[:1], output_top_logprobs=likeliest[:1]),
        event(
            [5, 6][second],
            LENGTH,
            output_token_logprobs=tokens[second],
            output_top_logprobs=likeliest[second],
        ),
    ]
    chunks = read(events, cumulative=cumulative, logprobs=1)
    assert [chunk.logprobs for chunk in chunks if chunk] == [
        (TokenLogprob(5, -0.5, ((5, -0.5),)),),
        (TokenLogprob(6, -0.25, ((7, -0.125),)),),
    ]


def test_the_prompts_come_once() -> None:
    told = {
        "input_token_logprobs": [[None, 8, None], [-3.0, 9, None]],
        "input_top_logprobs": [None, [[-1.0, 4, None], [-3.0, 9, None]]],
    }
    first, second = read([event([5], **told), event([6], LENGTH, **told)], prompt_logprobs=2)
    assert first is not None
    assert second is not None
    assert first.prompt_logprobs == (None, TokenLogprob(9, -3.0, ((4, -1.0), (9, -3.0))))
    assert (first.logprobs, second.prompt_logprobs) == (None, None)


def test_log_probabilities_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(GenerationError, match="NaN"):
        read([event([5], output_token_logprobs=[[None, 5, None]])], logprobs=0)


def test_an_end_that_is_no_end_is_an_error() -> None:
    assert finish_reason({"type": "abort", "message": "Abort in waiting queue"}) == "abort"
    for end in ({"type": "abort", "status_code": 400, "message": "bad ebnf"}, {"type": "error"}):
        with pytest.raises(GenerationError, match=r"bad ebnf|error"):
            finish_reason(end)
    with pytest.raises(GenerationError, match="too long"):
        read([{"error": {"message": "too long"}}])
