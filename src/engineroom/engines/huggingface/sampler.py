"""From logits to the next tokens, for all rows of a step at once. Logits are [rows, vocabulary], fp32.

What one row draws does not depend on the others: each has a source of random numbers of its own, takes one number per
token, and looks it up in its own distribution, in the order of the vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch
from torch import Tensor

from engineroom.engines.huggingface.library import floats, integers
from engineroom.engines.huggingface.structured import apply_bitmask
from engineroom.types import SamplingParams, TokenLogprob


class Row:
    """One request, as sampling sees it.

    Attributes:
        tokens: prompt and answer so far; the caller appends to it.
        prompt_length: how many of them are the prompt's.
        random: where its draws come from. None of a greedy row.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Many[int]) -> None:
        self.params = params
        self.tokens = list(prompt_ids)
        self.prompt_length = len(self.tokens)
        self.random = random.Random(params.seed) if params.temperature > 0 else None


@dataclass(frozen=True, slots=True)
class Drawn:
    """A row's next token; None if its logits are no numbers."""

    token_id: int | None
    logprob: TokenLogprob | None = None


class Sampler:
    """Draws tokens. What it knows of the rows is kept as long as the same ones come again."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._plan: _Plan | None = None

    def __call__(self, logits: Tensor, rows: Many[Row], bitmask: Tensor | None = None) -> list[Drawn]:
        """The next token of each row, which the caller appends to its tokens.

        Args:
            bitmask: [rows, ceil(vocabulary / 32)], int32: the tokens that may come next (``structured.py``).
        """
        plan = self._plan
        if plan is None or self._rows != list(rows):
            self._rows = list(rows)
            plan = self._plan = _Plan(rows, logits)
        highest, ids = logits.max(-1)
        shaped = logits
        if plan.penalties is not None:
            shaped = plan.penalties(logits)
        if bitmask is not None:
            shaped = apply_bitmask(shaped, bitmask)
        if shaped is not logits:
            ids = shaped.argmax(-1)
        if plan.draw is not None:
            ids[plan.draw.places] = plan.draw(shaped)
        if plan.penalties is not None:
            plan.penalties.note(ids)
        logprobs = _logprobs(logits, ids, plan.scored, plan.top) if plan.scored else {}
        # A NaN or an infinity among the logits is the highest of them.
        drawn = zip(integers(ids), floats(highest), strict=True)
        return [
            Drawn(token_id if math.isfinite(logit) else None, logprobs.get(place))
            for place, (token_id, logit) in enumerate(drawn)
        ]


class _Plan:
    """What the rows' parameters come to."""

    def __init__(self, rows: Many[Row], logits: Tensor) -> None:
        params = [row.params for row in rows]
        self.penalties = Penalties.of(rows, logits)
        self.draw = _Draw(rows, logits.device) if any(row.random for row in rows) else None
        self.scored = [i for i, p in enumerate(params) if p.logprobs is not None]
        self.top = [params[i].logprobs or 0 for i in self.scored]


# --- bias and penalties -------------------------------------------------------------------------------------------


class Penalties:
    """Bias and penalties, of the rows that have some.

    ``repetition_penalty`` follows Keskar et al. 2019 (arXiv 1909.05858) as Transformers applies it: over prompt and
    answer, dividing positive logits and multiplying negative ones. ``presence_penalty`` and ``frequency_penalty``
    follow OpenAI's definition, over the answer only.
    """

    def __init__(self, rows: Many[Row], size: int, device: torch.device) -> None:
        self._bias = _bias(rows, device)
        repeating = [i for i, row in enumerate(rows) if row.params.repetition_penalty != 1.0]
        counting = [i for i, row in enumerate(rows) if _counts(row.params)]
        self._repeating = torch.tensor(repeating, dtype=torch.long, device=device)
        self._counting = torch.tensor(counting, dtype=torch.long, device=device)
        self._seen = torch.zeros(len(repeating), size, dtype=torch.bool, device=device)
        self._count = torch.zeros(len(counting), size, device=device)
        for place, i in enumerate(repeating):
            self._seen[place, torch.tensor(rows[i].tokens, device=device)] = True
        for place, i in enumerate(counting):
            answer = torch.tensor(rows[i].tokens[rows[i].prompt_length :], dtype=torch.long, device=device)
            self._count[place] = torch.bincount(answer, minlength=size)

        def column(name: str, chosen: list[int]) -> Tensor:
            values = [getattr(rows[i].params, name) for i in chosen]
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

        self._repetition = column("repetition_penalty", repeating)
        self._presence = column("presence_penalty", counting)
        self._frequency = column("frequency_penalty", counting)

    @classmethod
    def of(cls, rows: Many[Row], logits: Tensor) -> Penalties | None:
        """None if no row has any."""
        some = any(
            r.params.logit_bias or r.params.repetition_penalty != 1.0 or _counts(r.params) for r in rows
        )
        return cls(rows, logits.shape[1], logits.device) if some else None

    def __call__(self, logits: Tensor) -> Tensor:
        """The shaped logits; the input is left as it was."""
        logits = logits.clone()
        if self._bias is not None:
            rows, ids, amounts = self._bias
            logits[rows, ids] += amounts
        if len(self._repeating):
            values = logits[self._repeating]
            changed = torch.where(values > 0, values / self._repetition, values * self._repetition)
            logits[self._repeating] = torch.where(self._seen, changed, values)
        if len(self._counting):
            penalty = self._frequency * self._count + self._presence * (self._count > 0)
            logits[self._counting] -= penalty
        return logits

    def note(self, token_ids: Tensor) -> None:
        """Takes note of each row's next token, [rows]."""
        self._seen.scatter_(1, token_ids[self._repeating][:, None], True)
        ids = token_ids[self._counting][:, None]
        self._count.scatter_add_(1, ids, torch.ones_like(ids, dtype=torch.float32))


def _counts(params: SamplingParams) -> bool:
    return params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


def _bias(rows: Many[Row], device: torch.device) -> tuple[Tensor, Tensor, Tensor] | None:
    """Rows, token ids, and what is added there."""
    entries = [(i, t, amount) for i, row in enumerate(rows) for t, amount in row.params.logit_bias.items()]
    if not entries:
        return None
    places = torch.tensor([entry[:2] for entry in entries], device=device)
    return places[:, 0], places[:, 1], torch.tensor([entry[2] for entry in entries], device=device)


# --- drawing ------------------------------------------------------------------------------------------------------

_COLDEST = torch.finfo(torch.float32).tiny
"""Smaller temperatures are 0 in single precision, and a division by that is not a number."""

_NUCLEUS = 256
"""Likeliest tokens among which ``top_p`` is looked for first. Sorting a whole vocabulary takes ten times as long."""


class _Draw:
    """Draws for the rows that are not greedy."""

    def __init__(self, rows: Many[Row], device: torch.device) -> None:
        chosen = [(i, row) for i, row in enumerate(rows) if row.random is not None]
        self._random = [row.random for _, row in chosen if row.random is not None]
        self.places = torch.tensor([i for i, _ in chosen], device=device)
        self._all = len(chosen) == len(rows)
        params = [row.params for _, row in chosen]
        self._temperature = _column([max(p.temperature, _COLDEST) for p in params], device)
        self.truncation = Truncation(params, device)

    def __call__(self, logits: Tensor) -> Tensor:
        """[drawn rows], of [rows, vocabulary]."""
        if not self._all:
            logits = logits[self.places]
        # The maximum is taken off first: divided by a tiny temperature it would overflow, and the others need not be told.
        cooled = (logits - logits.amax(-1, keepdim=True)) / self._temperature
        weights = self.truncation(cooled)
        sums = weights.cumsum(-1)
        total = sums[:, -1:]
        numbers = _column([source.random() for source in self._random], logits.device)
        below = torch.nextafter(total, torch.zeros_like(total))
        return torch.searchsorted(sums, torch.minimum(numbers * total, below), right=True)[:, 0]


class Truncation:
    """``top_k``, then ``top_p``, then ``min_p``: Transformers' order and rules. Tokens as likely as the last one kept stay."""

    def __init__(self, params: Many[SamplingParams], device: torch.device) -> None:
        self._most = max(0, *(p.top_k for p in params))
        self._nucleus = any(p.top_p < 1.0 for p in params)
        self._top_k = torch.tensor([[max(p.top_k, 0)] for p in params], device=device)
        self._top_p = _column([p.top_p for p in params], device)
        smallest = [math.log(p.min_p) if p.min_p > 0 else -math.inf for p in params]
        self._min_p = _column(smallest, device) if max(smallest) > -math.inf else None

    def __call__(self, cooled: Tensor) -> Tensor:
        """Each token's weight, 0 of what is left out. ``cooled`` is [rows, vocabulary], 0 at its highest."""
        weights = cooled.exp()
        if self._most or self._nucleus:
            least = self._least(cooled, weights)
            if self._min_p is not None:
                least = torch.maximum(least, self._min_p)
        elif self._min_p is not None:
            least = self._min_p
        else:
            return weights
        return weights.masked_fill_(cooled < least, 0.0)

    def _least(self, cooled: Tensor, weights: Tensor) -> Tensor:
        """The lowest logit that ``top_k`` and ``top_p`` keep: [rows, 1]."""
        size = cooled.shape[1]
        window = min(size, max(self._most, _NUCLEUS if self._nucleus else 0))
        best = cooled.topk(window).values
        last = best.gather(1, (self._top_k - 1).clamp(0, window - 1))
        least = last.where((self._top_k > 0) & (self._top_k <= size), -torch.inf)
        if not self._nucleus:
            return least
        total = weights.masked_fill(cooled < least, 0.0).sum(-1, keepdim=True)
        nucleus = self._in_nucleus(best, total)
        if window < size and bool(
            (nucleus[:, -1] & (best[:, -1:] >= least)[:, 0] & (self._top_p[:, 0] < 1)).any()
        ):
            best = cooled.sort(descending=True).values
            nucleus = self._in_nucleus(best, total)
        kept = best.masked_fill(~nucleus, torch.inf).amin(-1, keepdim=True)
        return torch.maximum(least, kept.where(self._top_p < 1.0, -torch.inf))

    def _in_nucleus(self, best: Tensor, total: Tensor) -> Tensor:
        """Before each kept token lie fewer than ``top_p`` of the weight. ``best`` descends."""
        weights = best.exp()
        before = weights.cumsum(-1) - weights
        inside = before < self._top_p * total
        inside[:, 0] = True
        return inside


def _column(values: list[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None]


# --- log-probabilities --------------------------------------------------------------------------------------------


def token_logprobs(logits: Tensor, token_ids: Many[int], top: Many[int]) -> list[TokenLogprob]:
    """The model's own log-probability of each row's token, and of the row's ``top`` likeliest."""
    ids = torch.tensor(token_ids, device=logits.device)
    return list(_logprobs(logits, ids, list(range(len(token_ids))), top).values())


def _logprobs(logits: Tensor, ids: Tensor, places: list[int], top: Many[int]) -> dict[int, TokenLogprob]:
    """Those of some rows, by their place."""
    chosen = torch.tensor(places, device=logits.device)
    logprobs = logits[chosen].log_softmax(-1)
    ids = ids[chosen]
    own = floats(logprobs.gather(1, ids[:, None])[:, 0])
    best = logprobs.topk(min(max(top), logprobs.shape[1]))
    found: dict[int, TokenLogprob] = {}
    rows = zip(places, integers(ids), own, top, best.indices, best.values, strict=True)
    for place, token_id, logprob, count, top_ids, values in rows:
        pairs = tuple(zip(integers(top_ids[:count]), floats(values[:count]), strict=True))
        found[place] = TokenLogprob(token_id, logprob, pairs)
    return found
