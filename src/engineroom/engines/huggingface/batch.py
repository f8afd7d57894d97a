"""The tokens of one step: several requests' next tokens in one row, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from engineroom.engines.huggingface.kv_cache import KVCache


class Span(NamedTuple):
    """One request's part in a step.

    Attributes:
        token_ids: the tokens that go through the model now.
        start: where the request's range begins in the KV memory.
        capacity: length of that range.
        past: tokens of the request that are in it already.
        every: logits are wanted of all these tokens; of the last one otherwise.
        final: logits are wanted of the last token; there are none of a prompt's middle.
    """

    token_ids: Sequence[int]
    start: int
    capacity: int
    past: int
    every: bool = False
    final: bool = True

    @property
    def length(self) -> int:
        """The request's tokens, these included."""
        return self.past + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Group:
    """Requests that decode one token each, and whose ranges follow one another in the KV memory at one distance.

    Attributes:
        first: place of the first one's token in the step.
        lengths: [count], each request's tokens.
    """

    first: int
    count: int
    start: int
    stride: int
    lengths: tuple[int, ...]

    def split(self, size: int) -> list[Group]:
        """The same requests in groups of so many."""
        return [
            Group(self.first + i, len(lengths), self.start + i * self.stride, self.stride, lengths)
            for i in range(0, self.count, size)
            for lengths in (self.lengths[i : i + size],)
        ]


@dataclass(slots=True, eq=False)
class RaggedBatch:
    """One step's tokens, those of requests that decode first.

    Attributes:
        input_ids: [1, tokens].
        position_ids: [1, tokens].
        slots: [tokens], where each token's keys and values go.
        wanted: [logits], the tokens whose logits are wanted.
        groups: the requests that decode.
        prefills: (place in the step, span) of the others.
        eager: attention by plain matrix products, as asked for.
        known: what attention has worked out for one layer and uses for those like it.
    """

    cache: KVCache
    input_ids: Tensor
    position_ids: Tensor
    slots: Tensor
    wanted: Tensor
    groups: list[Group]
    prefills: list[tuple[int, Span]]
    eager: bool = False
    known: dict[object, object] = field(default_factory=dict[object, object])


def build(
    spans: Sequence[Span], cache: KVCache, device: torch.device, *, eager: bool = False
) -> tuple[RaggedBatch, list[int]]:
    """The batch of these spans, and in which order it has them."""
    decodes = [i for i, span in enumerate(spans) if len(span.token_ids) == 1 and span.past]
    decodes.sort(key=lambda i: spans[i].start)
    order = [*decodes, *(i for i, span in enumerate(spans) if len(span.token_ids) > 1 or not span.past)]
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    wanted: list[int] = []
    prefills: list[tuple[int, Span]] = []
    for place, i in enumerate(order):
        span = spans[i]
        first = len(ids)
        if place >= len(decodes):
            prefills.append((first, span))
        ids += span.token_ids
        positions += range(span.past, span.length)
        slots += range(span.start + span.past, span.start + span.length)
        if span.every or span.final:
            wanted += range(first if span.every else len(ids) - 1, len(ids))
    together = torch.tensor([ids, positions, slots], device=device)
    batch = RaggedBatch(
        cache=cache,
        input_ids=together[:1],
        position_ids=together[1:2],
        slots=together[2],
        wanted=torch.tensor(wanted, dtype=torch.long, device=device),
        groups=_groups([spans[i] for i in decodes]),
        prefills=prefills,
        eager=eager,
    )
    return batch, order


def _groups(spans: Sequence[Span]) -> list[Group]:
    """Neighbours in memory whose ranges are equally long make a group: their keys are one tensor as they lie."""
    if not spans:
        return []
    breaks = [
        i
        for i, (a, b) in enumerate(pairwise(spans), 1)
        if a.capacity != b.capacity or b.start - a.start != a.capacity
    ]
    return [
        Group(a, b - a, spans[a].start, spans[a].capacity, tuple(span.length for span in spans[a:b]))
        for a, b in pairwise([0, *breaks, len(spans)])
    ]
