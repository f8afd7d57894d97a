"""Our sampling parameters as SGLang's. A pure function: nothing here speaks to a server."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from engineroom.errors import ParameterError
from engineroom.types import SamplingParams

STRONGEST = 2.0
"""The largest repetition penalty that SGLang takes."""

NEVER = -10_000.0
"""Added to the logits of tokens that a grammar must not let through; its grammars take special tokens for plain text."""


def to_sglang(
    params: SamplingParams,
    own_ends: Collection[int],
    grammar: str | None = None,
    special_ids: Sequence[int] = (),
) -> dict[str, Any]:
    """The ``sampling_params`` of ``/generate``, for one answer.

    SGLang's ``ignore_eos`` ignores ``stop_token_ids`` too. So it is told only where the model's own ends must not end the
    answer; then the answer is cut here, at the first id of ``stop_token_ids``.

    Args:
        own_ends: the ids at which SGLang ends an answer by itself.
        grammar: of ``response_format``, as GBNF.
        special_ids: tokens that no format lets through.

    Raises:
        ParameterError: SGLang would refuse a value.
    """
    check(params)
    bias = dict(params.logit_bias)
    if grammar is not None:
        bias |= dict.fromkeys(set(special_ids) - set(params.stop_token_ids), NEVER)
    made: dict[str, Any] = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k if params.top_k > 0 else -1,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "logit_bias": {str(token): value for token, value in bias.items()} or None,
        "max_new_tokens": params.max_new_tokens,
        "stop_token_ids": list(params.stop_token_ids) or None,
        "ignore_eos": not set(own_ends) <= set(params.stop_token_ids),
        "skip_special_tokens": False,
        "ebnf": grammar,
    }
    return {name: value for name, value in made.items() if value is not None}


def check(params: SamplingParams) -> None:
    """
    Raises:
        ParameterError: SGLang would refuse a value.
    """
    if params.repetition_penalty > STRONGEST:
        raise ParameterError(
            f"repetition_penalty={params.repetition_penalty:g} is not allowed with the sglang engine",
            why=f"SGLang takes more than 0, up to {STRONGEST:g}",
            fix=f"repetition_penalty={STRONGEST:g}",
            parameter="repetition_penalty",
        )


def check_foreign(params: SamplingParams) -> None:
    """What only a server that engineroom started itself does as the contract says; see ``in_server/contract.py``.

    Raises:
        ParameterError: a server that runs already would do something else.
    """
    shaped = {
        "logit_bias": bool(params.logit_bias),
        "presence_penalty": params.presence_penalty != 0,
        "frequency_penalty": params.frequency_penalty != 0,
        "response_format": params.response_format is not None,
        "temperature": params.temperature not in (0, 1),
    }
    name = next((name for name, given in shaped.items() if given), None)
    if params.logprobs is not None and name is not None:
        raise ParameterError(
            f"logprobs can't be combined with {name} with sglang_url",
            why="plain SGLang gives them of the logits that this changes, not the model's own",
            fix="leave sglang_url out, so that engineroom starts the server",
            parameter="logprobs",
        )


def generate_request(
    token_ids: Sequence[int], params: SamplingParams, sampling: dict[str, Any], rid: str, adapter: str | None
) -> dict[str, Any]:
    """The body of ``/generate``. Both kinds of log-probabilities share SGLang's ``top_logprobs_num``."""
    body: dict[str, Any] = {
        "rid": rid,
        "input_ids": list(token_ids),
        "sampling_params": sampling,
        "stream": True,
    }
    if adapter is not None:
        body["lora_path"] = adapter
    if params.logprobs is not None or params.prompt_logprobs is not None:
        body |= {
            "return_logprob": True,
            "logprob_start_len": -1 if params.prompt_logprobs is None else 0,
            "top_logprobs_num": max(params.logprobs or 0, params.prompt_logprobs or 0),
        }
    return body
