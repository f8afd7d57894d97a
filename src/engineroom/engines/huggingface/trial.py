"""Which form of a layer is faster on this processor: tried on the model's own weights, since no table of processors stays true."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import nn

_SAMPLE = 32 << 20
"""Bytes of weights that are tried: more than the caches near a core hold, and read in some milliseconds."""

_TURNS = 3


def sample(layers: Sequence[nn.Linear]) -> list[nn.Linear]:
    """Layers without a bias that look at the first of these layers' weights; a large one is cut off."""
    taken: list[nn.Linear] = []
    left = _SAMPLE
    for layer in layers:
        outputs = min(layer.out_features, max(1, left * layer.out_features // layer.weight.nbytes))
        if outputs < layer.out_features and taken:
            break
        seen = nn.Linear(layer.in_features, outputs, bias=False, device="meta")
        seen.weight = nn.Parameter(layer.weight.data[:outputs], requires_grad=False)
        taken.append(seen)
        left -= seen.weight.nbytes
    return taken


def ratio(some: Sequence[nn.Linear], others: Sequence[nn.Linear], tokens: int) -> float:
    """Time of the first layers over that of the others, with so many tokens. They take turns, and the best turns count."""
    (dtype,) = {layer.weight.dtype for layer in others}
    given = {layer.in_features: torch.ones(tokens, layer.in_features, dtype=dtype) for layer in others}

    def seconds(layers: Sequence[nn.Linear]) -> float:
        start = time.perf_counter()
        for layer in layers:
            layer(given[layer.in_features])
        return time.perf_counter() - start

    turns = [(seconds(some), seconds(others)) for _ in range(_TURNS)]
    return min(first for first, _ in turns) / min(second for _, second in turns)


def faster(some: Sequence[nn.Linear], others: Sequence[nn.Linear], tokens: Sequence[int]) -> bool:
    """Are the first layers faster, on the whole, with these numbers of tokens?"""
    return fmean(ratio(some, others, number) for number in tokens) < 1
