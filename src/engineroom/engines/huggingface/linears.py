"""Linear layers on a CPU, where nearly all of a token's time goes: laid out as this processor likes it.

What each form gains was measured (``benchmarks/README.md``); forms that gain nothing are not here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from engineroom.engines.huggingface.library import Model
from engineroom.engines.huggingface.linear_layers import linear_layers, watched
from engineroom.engines.huggingface.pages import Pages

_TILE = 256
"""Outputs of a layer that are computed at once: with the usual 512 to 4096 inputs their weights stay in the caches."""

_ROWS = 128
"""Tokens that are multiplied with a tile at once. With more of them, a tile of so few outputs costs more than it saves."""

_ROW_TILE = 128
"""Outputs that are computed at once of a weight that lies by rows."""

_FEW, _SEVERAL = 4, 16
"""Tokens. A product with fewer than the first waits for the weights, whatever its form, and half as many bytes come in half
the time; from the second on a matrix by rows is as fast as in tiles."""


def arrange(base: Model, *, decodes: bool) -> None:
    """Gives every linear layer the form that is fastest here; its values stay the same.

    bf16 and fp16 weights are multiplied in fp32 where the processor has no arithmetic of their own. Those of a model
    that ``decodes`` are moved to huge pages: fp32 ones in tiles, others by columns, and still [outputs, inputs] to
    everybody who looks. That helps with few tokens at a time, not with whole texts.
    """
    layers = [layer for _, layer in linear_layers(base)]
    shared = {id(m.weight) for m in base.modules() if isinstance(m, nn.Embedding)}
    halves = [layer for layer in layers if layer.weight.dtype in (torch.bfloat16, torch.float16)]
    if halves and _wide_is_faster(max((layer.weight for layer in halves), key=torch.Tensor.numel)):
        for layer in halves:
            layer.__class__ = WideLinear
    if not decodes:
        return
    own = [layer for layer in layers if id(layer.weight) not in shared]
    for layer in layers:
        if type(layer) is nn.Linear and layer.weight.dtype == torch.float32 and id(layer.weight) in shared:
            layer.__class__ = SharedLinear
    tiled = [layer for layer in own if layer.weight.dtype == torch.float32 and layer.out_features >= _TILE]
    with watched(tiled) as uses, suppress(Exception):  # a model that can't do this says so when it is asked
        base(input_ids=torch.zeros(1, 1, dtype=torch.long, device=base.device), use_cache=False)
    divided = {id(layer) for layer in tiled} - uses.read
    pages = Pages([size for layer in own for size in _parts(layer, id(layer) in divided)])
    for layer in own:
        if id(layer) in divided:
            TiledLinear.of(layer, pages)
        else:
            layer.weight.data = pages.put(layer.weight.data.t()).t()


def _parts(layer: nn.Linear, divided: bool) -> list[int]:
    """Bytes of a layer's tiles, and of the outputs that fill none; of all of it where it is not divided."""
    outputs, inputs = layer.weight.shape
    size = inputs * layer.weight.element_size()
    return [outputs // _TILE * _TILE * size, outputs % _TILE * size] if divided else [outputs * size]


class TiledLinear(nn.Linear):
    """A weight in tiles of 256 outputs, each by columns and one after the other, as the product reads them.

    A matrix by columns is read with a jump from column to column, which the processor does not foresee.
    """

    _tiles: Tensor  # [tiles, inputs, 256]
    _count: int
    _rest: Tensor  # [inputs, outputs that fill no tile]
    _left: int

    @classmethod
    def of(cls, layer: nn.Linear, pages: Pages) -> None:
        """Makes the layer one, in place."""
        weight = layer.weight.data
        full = weight.shape[0] // _TILE * _TILE
        del layer.weight
        layer.__class__ = cls
        tiled = cast("TiledLinear", layer)
        tiled._tiles = pages.put(weight[:full].view(-1, _TILE, weight.shape[1]).transpose(1, 2))
        tiled._rest = pages.put(weight[full:].t())
        tiled._count, tiled._left = full // _TILE, weight.shape[0] - full

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[outputs, inputs]: a copy, for those who want to see it (adapters that scale it do)."""
        whole = self._tiles.transpose(1, 2).reshape(-1, self.in_features)
        return torch.cat([whole, self._rest.t()])

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """The weight is saved as any other linear layer's."""
        cast("Any", super())._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride] -- torch calls it by position
        self, state_dict: dict[str, Any], prefix: str, *others: Any
    ) -> None:
        """And loaded: an adapter on an output layer brings that layer's own weight along."""
        name = f"{prefix}weight"
        rest = {key: value for key, value in state_dict.items() if key != name}
        cast("Any", super())._load_from_state_dict(rest, prefix, *others)
        if name in state_dict:
            weight, full = state_dict[name], self._count * _TILE
            with torch.inference_mode():  # in which the tiles were made
                self._tiles.copy_(weight[:full].view(-1, _TILE, self.in_features).transpose(1, 2))
                self._rest.copy_(weight[full:].t())

    def forward(self, input: Tensor) -> Tensor:
        inputs, outputs = self.in_features, self.out_features
        if input.numel() == inputs and not self._left:  # the tiles' outputs in turn are the result as it is
            row = input if input.dim() == 3 else input.view(1, 1, inputs)
            out = torch.bmm(row.expand(self._count, 1, inputs), self._tiles)
        else:
            rows = input.reshape(1, -1, inputs)
            out = rows.new_empty(rows.shape[1], outputs)
            for some, to in zip(torch.split(rows, _ROWS, 1), torch.split(out, _ROWS), strict=True):
                _multiply(some, self._tiles, self._rest, to)
        return _finished(out, input, outputs, self.bias)


class SharedLinear(nn.Linear):
    """A weight that is an embedding too, and so lies by rows. For some tokens it is multiplied in tiles as it lies."""

    def forward(self, input: Tensor) -> Tensor:
        outputs, inputs = self.weight.shape
        rows = input.reshape(1, -1, inputs)
        if not _FEW <= rows.shape[1] < _SEVERAL or outputs < _ROW_TILE:
            return linear(input, self.weight, self.bias)
        count, left = divmod(outputs, _ROW_TILE)
        out = rows.new_empty(rows.shape[1], outputs)
        tiles = self.weight[: outputs - left].view(count, _ROW_TILE, inputs).transpose(1, 2)
        _multiply(rows, tiles, self.weight[outputs - left :].t(), out)
        return _finished(out, input, self.out_features, self.bias)


def _multiply(rows: Tensor, tiles: Tensor, rest: Tensor, out: Tensor) -> None:
    """[1, tokens, inputs] with [tiles, inputs, size] and [inputs, rest], into [tokens, outputs]."""
    count, _, size = tiles.shape
    place = out[:, : count * size].view(-1, count, size).transpose(0, 1)
    torch.bmm(rows.expand(count, -1, -1), tiles, out=place)
    if rest.shape[1]:
        torch.mm(rows[0], rest, out=out[:, count * size :])


def _finished(out: Tensor, input: Tensor, outputs: int, bias: Tensor | None) -> Tensor:
    """[…, outputs], as the input's other dimensions are, with the bias added."""
    out = out.view(*input.shape[:-1], outputs)
    return out if bias is None else out.add_(bias)


class WideLinear(nn.Linear):
    """Half-precision weights, multiplied in fp32."""

    def forward(self, input: Tensor) -> Tensor:
        return wide_linear(input, self.weight, self.bias)


def wide_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``torch.nn.functional.linear``, with a weight that is widened tile by tile for several tokens at once."""
    outputs, inputs = weight.shape
    if input.numel() < _FEW * inputs:
        return linear(input, weight, bias)
    rows = input.reshape(-1, inputs).float()
    out = torch.cat([rows @ tile.float().t() for tile in torch.split(weight, _TILE)], 1)
    if bias is not None:
        out += bias
    return out.to(input.dtype).view(*input.shape[:-1], outputs)


def _wide_is_faster(weight: Tensor) -> bool:
    """Tries both on this processor, with the tokens of 32 answers."""
    tokens = torch.ones(32, weight.shape[1], dtype=weight.dtype)
    wide = _seconds(lambda: wide_linear(tokens, weight, None))
    return wide < 0.8 * _seconds(lambda: linear(tokens, weight))


def _seconds(run: Callable[[], object]) -> float:
    def once() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return min(once() for _ in range(5))
