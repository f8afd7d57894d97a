"""From logits to the next token, for one sequence. All tensors are one-dimensional, of the vocabulary's size, fp32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from engineroom.engines.huggingface.library import floats, integers
from engineroom.types import SamplingParams, TokenLogprob


class LogitsShaper:
    """Applies one request's bias and penalties, to the tokens that they concern.

    ``repetition_penalty`` follows Keskar et al. 2019 (arXiv 1909.05858) as Transformers applies it: over prompt and
    answer, dividing positive logits and multiplying negative ones. ``presence_penalty`` and ``frequency_penalty``
    follow OpenAI's definition, over the answer only.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], device: torch.device) -> None:
        self._params = params
        self._seen = set(prompt_ids)
        self._counts: Counter[int] = Counter()
        self._device = device
        self._bias = self._pairs(params.logit_bias)

    def __call__(self, logits: Tensor) -> Tensor:
        """The shaped logits; the input is left as it was."""
        params = self._params
        repetition, counted = params.repetition_penalty, params.presence_penalty or params.frequency_penalty
        if self._bias is None and repetition == 1.0 and not counted:
            return logits
        logits = logits.clone()
        if self._bias is not None:
            ids, amounts = self._bias
            logits[ids] += amounts
        if repetition != 1.0:
            seen = torch.tensor(list(self._seen), device=self._device)
            values = logits[seen]
            logits[seen] = torch.where(values > 0, values / repetition, values * repetition)
        if counted and (pairs := self._pairs(self._counts)) is not None:
            ids, counts = pairs
            logits[ids] -= params.frequency_penalty * counts + params.presence_penalty
        return logits

    def add(self, token_id: int) -> None:
        """Takes note of a token of the answer."""
        self._seen.add(token_id)
        self._counts[token_id] += 1

    def _pairs(self, amounts: Mapping[int, float]) -> tuple[Tensor, Tensor] | None:
        """Token ids, each once, and what belongs to them; None if there are none."""
        if not amounts:
            return None
        values = torch.tensor(list(amounts.values()), dtype=torch.float32, device=self._device)
        return torch.tensor(list(amounts), device=self._device), values


_COLDEST = torch.finfo(torch.float32).tiny
"""Smaller temperatures are 0 in single precision, and a division by that is not a number."""


class TokenSampler:
    """Draws tokens for one request with a generator of its own."""

    def __init__(self, params: SamplingParams, device: torch.device) -> None:
        self._params = params
        self._generator: torch.Generator | None = None
        if params.temperature > 0:
            self._generator = torch.Generator(device=device)
            if params.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(params.seed)

    def __call__(self, logits: Tensor) -> int:
        """The next token's id. Greedy at temperature 0; the first of equals, as ``argmax`` has it."""
        if self._generator is None:
            return int(logits.argmax())
        # The maximum is taken off first: divided by a tiny temperature it would overflow, and the others need not be told.
        cooled = (logits - logits.max()) / max(self._params.temperature, _COLDEST)
        probabilities = torch.softmax(truncate(cooled, self._params), dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def truncate(logits: Tensor, params: SamplingParams) -> Tensor:
    """Sets to -inf what ``top_k``, then ``top_p``, then ``min_p`` leave out: Transformers' order and rules."""
    if 0 < params.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(params.top_k).values[-1], -torch.inf)
    if params.top_p < 1.0:
        ascending, order = logits.sort()
        outside = ascending.softmax(-1).cumsum(-1) <= 1.0 - params.top_p
        outside[-1] = False
        logits = logits.masked_fill(torch.zeros_like(outside).scatter(0, order, outside), -torch.inf)
    if params.min_p > 0.0:
        probabilities = logits.softmax(-1)
        logits = logits.masked_fill(probabilities < params.min_p * probabilities.max(), -torch.inf)
    return logits


def token_logprob(logits: Tensor, token_id: int, top: int) -> TokenLogprob:
    """The model's own log-probability of a token, and of the ``top`` likeliest."""
    logprobs = logits.log_softmax(-1)
    best: tuple[tuple[int, float], ...] = ()
    if top:
        values, ids = logprobs.topk(min(top, logprobs.shape[-1]))
        best = tuple(zip(integers(ids), floats(values), strict=True))
    return TokenLogprob(token_id, float(logprobs[token_id]), best)
