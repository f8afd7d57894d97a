"""SGLang's stream as chunks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from engineroom.errors import GenerationError
from engineroom.types import Chunk, FinishReason, SamplingParams, TokenLogprob


class ChunkReader:
    """Reads one answer's events in turn.

    Args:
        cumulative: ``output_ids`` and log-probabilities of each event begin at the answer's first token again.
    """

    def __init__(self, params: SamplingParams, *, cumulative: bool) -> None:
        self._params = params
        self._ends = frozenset(params.stop_token_ids)
        self._cumulative = cumulative
        self._seen = 0
        self._prompt_told = False

    def read(self, event: Mapping[str, Any]) -> Chunk | None:
        """The tokens that this event adds, cut behind the first that ends the answer; None if it adds nothing.

        Raises:
            GenerationError: SGLang gave the request up.
        """
        if "error" in event:
            raise _failed(str(event["error"].get("message", event["error"])))
        meta: Mapping[str, Any] = event["meta_info"]
        reason = finish_reason(meta.get("finish_reason"))
        ids: Sequence[int] = event["output_ids"]
        start = self._seen if self._cumulative else 0
        new = tuple(ids[start:])
        self._seen += len(new)
        kept = self._kept(new)
        if kept < len(new) or (new and new[-1] in self._ends):
            reason = "stop"
        prompt = self._prompt_logprobs(meta)
        if not new and reason is None and prompt is None:
            return None
        return Chunk(
            new[:kept],
            reason,
            logprobs=self._answer_logprobs(meta, start, new[:kept]),
            prompt_logprobs=prompt,
            cached_tokens=meta.get("cached_tokens") or 0,
        )

    def _kept(self, new: Sequence[int]) -> int:
        return next((place + 1 for place, token in enumerate(new) if token in self._ends), len(new))

    def _answer_logprobs(
        self, meta: Mapping[str, Any], start: int, kept: Sequence[int]
    ) -> tuple[TokenLogprob, ...] | None:
        top = self._params.logprobs
        if top is None:
            return None
        stop = start + len(kept)
        tokens: Sequence[Any] = meta["output_token_logprobs"][start:stop]
        best: Sequence[Any] = (meta.get("output_top_logprobs") or [None] * stop)[start:stop]
        return tuple(_entry(token, likeliest, top) for token, likeliest in zip(tokens, best, strict=True))

    def _prompt_logprobs(self, meta: Mapping[str, Any]) -> tuple[TokenLogprob | None, ...] | None:
        top = self._params.prompt_logprobs
        tokens = meta.get("input_token_logprobs")
        if top is None or self._prompt_told or not tokens:
            return None
        self._prompt_told = True
        best = meta.get("input_top_logprobs") or [None] * len(tokens)
        return tuple(
            None if token[0] is None else _entry(token, likeliest, top)
            for token, likeliest in zip(tokens, best, strict=True)
        )


def finish_reason(told: Mapping[str, Any] | None) -> FinishReason | None:
    """
    Raises:
        GenerationError: it is no good end.
    """
    if told is None:
        return None
    kind = told["type"]
    if kind == "abort" and told.get("status_code") is None:
        return "abort"
    if kind not in ("stop", "length"):
        raise _failed(str(told.get("message") or kind))
    return kind


def _entry(token: Sequence[Any], likeliest: Sequence[Sequence[Any]] | None, top: int) -> TokenLogprob:
    """SGLang's [log-probability, id, text] of the token, and of the likeliest, best first."""
    if token[0] is None or math.isnan(token[0]):
        raise GenerationError(
            "the model's logits are not a number (NaN)",
            why="the weights are broken, or infer_dtype overflows on this prompt",
            fix="try infer_dtype=float32 or infer_dtype=bfloat16",
        )
    best = tuple((int(entry[1]), float(entry[0])) for entry in (likeliest or ())[:top])
    return TokenLogprob(int(token[1]), float(token[0]), best)


def _failed(why: str) -> GenerationError:
    return GenerationError("SGLang failed on this request", why=" ".join(why.split())[:500], fix="try again")
