"""Forms of linear layers on a CPU, where nearly all of a token's time goes. ``arrangement.py`` chooses among them.

What each form gains was measured (``benchmarks/README.md``); forms that gain nothing anywhere are not here.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from engineroom.engines.huggingface.pages import Pages

TILE = 256
"""Outputs of a layer that are computed at once: with the usual 512 to 4096 inputs their weights stay in the caches."""

_ROWS = 128
"""Tokens that are multiplied with a tile at once. With more of them, a tile of so few outputs costs more than it saves."""

_ROW_TILE = 128
"""Outputs that are computed at once of a weight that lies by rows."""

_FEW = 4
"""Tokens. A product with fewer waits for the weights, whatever its form, and half as many bytes come in half the time."""


class TiledLinear(nn.Linear):
    """A weight in tiles of 256 outputs, each by columns and one after the other, as the product reads them.

    A matrix by columns is read with a jump from column to column, which the processor does not foresee.
    """

    _tiles: Tensor  # [tiles, inputs, 256]
    _count: int
    _rest: Tensor  # [inputs, outputs that fill no tile]
    _left: int

    @staticmethod
    def parts(layer: nn.Linear, *, whole: bool) -> list[int]:
        """Bytes of a layer's tiles, and of the outputs that fill none; of all of it where it stays whole."""
        outputs, inputs = layer.weight.shape
        size = inputs * layer.weight.element_size()
        return [outputs * size] if whole else [outputs // TILE * TILE * size, outputs % TILE * size]

    @classmethod
    def of(cls, layer: nn.Linear, pages: Pages) -> None:
        """Makes the layer one, in place."""
        weight = layer.weight.data
        full = weight.shape[0] // TILE * TILE
        del layer.weight
        layer.__class__ = cls
        tiled = cast("TiledLinear", layer)
        tiled._tiles = pages.put(weight[:full].view(-1, TILE, weight.shape[1]).transpose(1, 2))
        tiled._rest = pages.put(weight[full:].t())
        tiled._count, tiled._left = full // TILE, weight.shape[0] - full

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
            weight, full = state_dict[name], self._count * TILE
            with torch.inference_mode():  # in which the tiles were made
                self._tiles.copy_(weight[:full].view(-1, TILE, self.in_features).transpose(1, 2))
                self._rest.copy_(weight[full:].t())

    def forward(self, input: Tensor) -> Tensor:
        inputs, outputs = self.in_features, self.out_features
        if input.numel() == inputs and not self._left:  # the tiles' outputs in turn are the result as it is
            row = input if input.dim() == 3 else input.view(1, 1, inputs)
            out = torch.bmm(row.expand(self._count, 1, inputs), self._tiles)
        else:
            out = _multiplied(input.reshape(1, -1, inputs), self._tiles, self._rest)
        return _finished(out, input, outputs, self.bias)


class RowLinear(nn.Linear):
    """A weight as it was loaded, by rows. With some numbers of tokens it is multiplied in tiles as it lies.

    Attributes:
        pays: is that faster? For 1 token, 2 and 3, 4 to 7, and so on; more than these are as the last.
    """

    pays: tuple[bool, ...]

    @classmethod
    def of(cls, layer: nn.Linear, pays: tuple[bool, ...]) -> None:
        """Makes the layer one, in place, if that ever pays."""
        if any(pays):
            layer.__class__ = cls
            cast("RowLinear", layer).pays = pays

    def forward(self, input: Tensor) -> Tensor:
        outputs, inputs = self.weight.shape
        rows = input.reshape(1, -1, inputs)
        power = rows.shape[1].bit_length() - 1
        if power < 0 or outputs < _ROW_TILE or not self.pays[min(power, len(self.pays) - 1)]:
            return linear(input, self.weight, self.bias)
        count, left = divmod(outputs, _ROW_TILE)
        tiles = self.weight[: outputs - left].view(count, _ROW_TILE, inputs).transpose(1, 2)
        out = _multiplied(rows, tiles, self.weight[outputs - left :].t())
        return _finished(out, input, outputs, self.bias)


def _multiplied(rows: Tensor, tiles: Tensor, rest: Tensor) -> Tensor:
    """[1, tokens, inputs] with [tiles, inputs, size] and [inputs, rest]: [tokens, outputs]."""
    count, _, size = tiles.shape
    out = rows.new_empty(rows.shape[1], count * size + rest.shape[1])
    for some, to in zip(torch.split(rows, _ROWS, 1), torch.split(out, _ROWS), strict=True):
        place = to[:, : count * size].view(-1, count, size).transpose(0, 1)
        torch.bmm(some.expand(count, -1, -1), tiles, out=place)
        if rest.shape[1]:
            torch.mm(some[0], rest, out=to[:, count * size :])
    return out


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
    out = torch.cat([rows @ tile.float().t() for tile in torch.split(weight, TILE)], 1)
    if bias is not None:
        out += bias
    return out.to(input.dtype).view(*input.shape[:-1], outputs)
