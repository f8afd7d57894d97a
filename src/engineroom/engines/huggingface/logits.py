"""From logits to the next token, for one sequence. All tensors are one-dimensional, of the vocabulary's size, fp32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engineroom.types import SamplingParams, TokenLogprob


class LogitsShaper:
    """Applies one request's bias and penalties. Keeps its counts up to date itself: O(1) per token.

    ``repetition_penalty`` follows Keskar et al. 2019 (arXiv 1909.05858) as Transformers applies it: over prompt and
    answer, dividing positive logits and multiplying negative ones. ``presence_penalty`` and ``frequency_penalty``
    follow OpenAI's definition, over the answer only.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], device: torch.device) -> None:
        self._params = params
        self._device = device
        self._seen: Tensor | None = None
        self._counts: Tensor | None = None
        self._prompt_ids = prompt_ids
        self._bias: tuple[Tensor, Tensor] | None = None
        if params.logit_bias:
            ids, amounts = zip(*params.logit_bias.items(), strict=True)
            self._bias = (torch.tensor(ids, device=device), torch.tensor(amounts, device=device))

    def __call__(self, logits: Tensor) -> Tensor:
        """The shaped logits; the input is left as it was."""
        params = self._params
        if self._bias is None and params.repetition_penalty == 1.0 and not self._counted:
            return logits
        logits = logits.clone()
        if self._bias is not None:
            logits.index_add_(0, *self._bias)
        if params.repetition_penalty != 1.0:
            factor = params.repetition_penalty
            logits = torch.where(
                self._seen_mask(logits), torch.where(logits > 0, logits / factor, logits * factor), logits
            )
        if self._counted:
            counts = self._answer_counts(logits)
            logits -= params.frequency_penalty * counts + params.presence_penalty * (counts > 0)
        return logits

    def add(self, token_id: int) -> None:
        """Takes note of a token of the answer."""
        if self._seen is not None:
            self._seen[token_id] = True
        if self._counts is not None:
            self._counts[token_id] += 1

    @property
    def _counted(self) -> bool:
        return self._params.presence_penalty != 0.0 or self._params.frequency_penalty != 0.0

    def _seen_mask(self, like: Tensor) -> Tensor:
        if self._seen is None:
            self._seen = torch.zeros(like.shape[-1], dtype=torch.bool, device=self._device)
            self._seen[torch.tensor(self._prompt_ids, device=self._device)] = True
        return self._seen

    def _answer_counts(self, like: Tensor) -> Tensor:
        if self._counts is None:
            self._counts = torch.zeros(like.shape[-1], dtype=torch.float32, device=self._device)
        return self._counts


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
        probabilities = torch.softmax(truncate(logits / self._params.temperature, self._params), dim=-1)
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
        best = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token_id, float(logprobs[token_id]), best)
