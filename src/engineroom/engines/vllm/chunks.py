"""vLLM's outputs as chunks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from engineroom.errors import GenerationError
from engineroom.types import Chunk, FinishReason, Prompt, SamplingParams, TokenLogprob

if TYPE_CHECKING:
    from vllm.logprobs import Logprob
    from vllm.outputs import CompletionOutput, RequestOutput

Position: TypeAlias = "Mapping[int, Logprob] | None"
"""Token id → log-probability and rank, at one place; None for a prompt's first token."""

_REASONS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}


def to_chunk(output: RequestOutput, prompt: Prompt, params: SamplingParams) -> Chunk | None:
    """The tokens that this output adds; None if it adds nothing.

    Raises:
        GenerationError: vLLM gave the request up with an error.
    """
    completion = output.outputs[0]
    reason = finish_reason(completion.finish_reason)
    token_ids = tuple(completion.token_ids)
    told = output.prompt_logprobs if params.prompt_logprobs is not None else None
    if not token_ids and reason is None and not told:
        return None
    return Chunk(
        token_ids,
        reason,
        logprobs=_answer_logprobs(completion, token_ids, params.logprobs),
        prompt_logprobs=_prompt_logprobs(told, prompt, params.prompt_logprobs or 0) if told else None,
        cached_tokens=output.num_cached_tokens or 0,
    )


def finish_reason(name: str | None) -> FinishReason | None:
    """
    Raises:
        GenerationError: it is no good end.
    """
    if name is None:
        return None
    if name not in _REASONS:
        raise GenerationError(
            f"vLLM ended the answer with {name!r}", why="it failed inside the engine", fix="try again"
        )
    return _REASONS[name]


def token_logprob(position: Mapping[int, Logprob], token_id: int, top: int) -> TokenLogprob:
    """vLLM tells of the token itself and of the ``top`` likeliest, in one map.

    Raises:
        GenerationError: they are not numbers; without log-probabilities vLLM would not tell.
    """
    if math.isnan(position[token_id].logprob):
        raise GenerationError(
            "the model's logits are not a number (NaN)",
            why="the weights are broken, or infer_dtype overflows on this prompt",
            fix="try infer_dtype=float32 or infer_dtype=bfloat16",
        )
    best = sorted(position.items(), key=lambda item: -item[1].logprob)[:top]
    return TokenLogprob(token_id, position[token_id].logprob, tuple((i, told.logprob) for i, told in best))


def _answer_logprobs(
    completion: CompletionOutput, token_ids: tuple[int, ...], top: int | None
) -> tuple[TokenLogprob, ...] | None:
    if top is None or completion.logprobs is None:
        return None
    positions: Sequence[Position] = completion.logprobs
    return tuple(
        token_logprob(position or {}, token_id, top)
        for position, token_id in zip(positions, token_ids, strict=True)
    )


def _prompt_logprobs(
    positions: Sequence[Position], prompt: Prompt, top: int
) -> tuple[TokenLogprob | None, ...]:
    return tuple(
        token_logprob(position, token_id, top) if position else None
        for position, token_id in zip(positions, prompt.token_ids, strict=True)
    )
