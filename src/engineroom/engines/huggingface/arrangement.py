"""Which form each linear layer of a model gets on a CPU: the one that is fastest on the processor at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import suppress

import torch
from torch import nn

from engineroom.engines.huggingface.library import Model
from engineroom.engines.huggingface.linear_layers import linear_layers, watched
from engineroom.engines.huggingface.linears import TILE, RowLinear, TiledLinear, WideLinear
from engineroom.engines.huggingface.pages import Pages
from engineroom.engines.huggingface.trial import faster, ratio, sample

_HALVES = (torch.bfloat16, torch.float16)
_FLOATS = (torch.float32, *_HALVES)  # layers of a quantised checkpoint multiply in ways of their own

_PAYS = 0.9
"""Of the time. What gains less is left alone: an answer's last digits are not to change with what a trial finds."""

_LARGE = 1 << 20
"""Weights. A smaller matrix gained nothing by tiles of rows on any processor."""

_USUAL = (1, 8, 16, 32)
"""Tokens with which layouts are compared: those of one answer, and of several at once."""


def arrange(base: Model, *, decodes: bool) -> None:
    """Gives every linear layer its form; its values stay the same.

    bf16 and fp16 weights are multiplied in fp32 where the processor has no arithmetic of their own. Those of a model
    that ``decodes`` may lie by columns, in huge pages, instead of by rows: fp32 ones in tiles, and all still [outputs, inputs]
    to everybody who looks. What saves a third on one processor takes ten times as long on another, so it is tried.
    """
    layers = [layer for _, layer in linear_layers(base)]
    if not decodes:
        for dtype in _HALVES:
            _widen(_of(dtype, layers))
        return
    shared = {id(m.weight) for m in base.modules() if isinstance(m, nn.Embedding)}
    singles = _of(torch.float32, layers)
    own = {dtype: [x for x in _of(dtype, layers) if id(x.weight) not in shared] for dtype in _FLOATS}
    turned: set[int] = set()
    for dtype in _HALVES:
        _widen(_of(dtype, layers))
        turned |= _turn_halves(own[dtype])
    pays = _pays_by_size(singles)
    turned |= _turn_singles(base, own[torch.float32], pays)
    for layer in singles:
        if id(layer) not in turned:
            RowLinear.of(layer, pays[_size(layer)])


def _of(dtype: torch.dtype, layers: Sequence[nn.Linear]) -> list[nn.Linear]:
    return [layer for layer in layers if layer.weight.dtype == dtype]


def _read(base: Model, layers: Sequence[nn.Linear]) -> Set[int]:
    """Ids of those whose weight somebody else reads, too."""
    with watched(layers) as uses, suppress(Exception):  # a model that can't do this says so when it is asked
        base(input_ids=torch.zeros(1, 1, dtype=torch.long, device=base.device), use_cache=False)
    return uses.read


def _widen(halves: Sequence[nn.Linear]) -> None:
    """Has them multiplied in fp32, if that is faster."""
    if halves and ratio(_wide(sample(halves)), sample(halves), 32) < 0.8:
        _wide(halves)


def _wide(layers: Sequence[nn.Linear]) -> Sequence[nn.Linear]:
    for layer in layers:
        layer.__class__ = WideLinear
    return layers


def _turn_halves(halves: Sequence[nn.Linear]) -> set[int]:
    """Lays them by columns, if that is faster; the ids of those that were."""
    if not halves:
        return set()
    rows, columns = sample(halves), sample(halves)
    _lay_by_columns(columns)
    if isinstance(halves[0], WideLinear):
        rows, columns = _wide(rows), _wide(columns)
    return _lay_by_columns(halves) if faster(columns, rows, _USUAL) else set()


def _turn_singles(
    base: Model, singles: Sequence[nn.Linear], pays: Mapping[int, tuple[bool, ...]]
) -> set[int]:
    """Likewise, in tiles; but whole where somebody else reads the weight, too."""
    if not singles:
        return set()
    rows, columns = sample(singles), sample(singles)
    for layer in rows:  # one of them may be a part of its layer
        RowLinear.of(layer, pays.get(_size(layer), pays[max(pays)]))
    _lay_by_columns(columns, tiled=_fill_tiles(columns))
    if faster(columns, rows, _USUAL):
        return _lay_by_columns(singles, tiled=_fill_tiles(singles) - _read(base, singles))
    return set()


def _fill_tiles(layers: Sequence[nn.Linear]) -> set[int]:
    return {id(layer) for layer in layers if layer.out_features >= TILE}


def _lay_by_columns(layers: Sequence[nn.Linear], tiled: Set[int] = frozenset()) -> set[int]:
    """In huge pages; in tiles those whose id is among the ``tiled``."""
    pages = Pages(
        [size for layer in layers for size in TiledLinear.parts(layer, whole=id(layer) not in tiled)]
    )
    for layer in layers:
        if id(layer) in tiled:
            TiledLinear.of(layer, pages)
        else:
            layer.weight.data = pages.put(layer.weight.data.t()).t()
    return set(map(id, layers))


def _size(layer: nn.Linear) -> int:
    """Layers of about one size are tried together."""
    return layer.weight.numel().bit_length()


def _pays_by_size(singles: Sequence[nn.Linear]) -> dict[int, tuple[bool, ...]]:
    """``RowLinear.pays`` for layers of each size."""
    by_size: dict[int, list[nn.Linear]] = {}
    for layer in singles:
        by_size.setdefault(_size(layer), []).append(layer)
    return {size: _pays(alike) for size, alike in by_size.items()}


def _pays(alike: Sequence[nn.Linear]) -> tuple[bool, ...]:
    if alike[0].weight.numel() < _LARGE:
        return (False,)
    tiled = sample(alike)
    for layer in tiled:
        RowLinear.of(layer, (True,))
    return False, *(ratio(tiled, sample(alike), 2**power) < _PAYS for power in range(1, 6))
