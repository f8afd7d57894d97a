"""Linear layers with int8 weights on a CPU.

A scale per output of the weights and per token of the activations, which are quantised as they come; torch's own dynamic
linear layer has one for all tokens that it is given, so that what a request gets would depend on its neighbours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from engineroom.engines.huggingface.library import Model, vector_norm
from engineroom.engines.huggingface.linear_layers import linear_layers, watched

_ENGINES = ("x86", "fbgemm", "onednn")
"""torch's int8 kernels that take a scale per output channel, fastest first."""

_SMALLEST = 1e-30
"""A row of zeros has a scale too."""


def int8_engine() -> str | None:
    """torch's engine for int8 products on this processor, or None."""
    supported = torch.backends.quantized.supported_engines
    return next((name for name in _ENGINES if name in supported), None)


class _Product:
    """The weights of layers that are given the same input, multiplied at once.

    Query, key and value share their quantised input, and with one token at a time a call costs as much as its product.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._sizes = [len(weight) for weight in weights]
        vnni: Callable[[], bool] = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
        # Without VNNI the products of two neighbours are added in 16 bits, which only 7-bit activations do not overflow.
        self._top = 127 if vnni() else 63
        weight = torch.cat([weight.float() for weight in weights])
        scales = weight.abs().amax(1).clamp_min(1e-12) / 127
        zeros = torch.zeros(len(scales), dtype=torch.long)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch means to move its quantised tensors to torchao
            quantized = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self._input: Tensor | None = None
        self._parts: dict[int, Tensor] = {}

    def part(self, input: Tensor, place: int) -> Tensor:
        """[…, outputs] of one of the layers, fp32. The others' are kept until they come for them with the same input."""
        if input is not self._input or place not in self._parts:
            self._parts = dict(enumerate(self._outputs(input.float())))
            self._input = input
        found = self._parts.pop(place)
        if not self._parts:
            self._input = None
        return found

    def weight(self, place: int) -> Tensor:
        """[outputs, inputs] of one of the layers, as the 8 bits have it."""
        whole = cast("Any", torch.ops.quantized).linear_unpack(self._packed)[0].dequantize()
        return torch.split(whole, self._sizes)[place]

    def _outputs(self, rows: Tensor) -> Sequence[Tensor]:
        if rows.numel() == rows.shape[-1]:  # the product's own scale serves, and saves operations
            low, high = torch.aminmax(rows)
            scale = max(high.item(), -low.item(), _SMALLEST) / self._top
            out = _int8_product(rows, scale, self._top + 1, self._packed)
            return torch.split(out, self._sizes, -1)
        largest = vector_norm(rows, torch.inf, -1, True).clamp_min_(_SMALLEST)
        out = _int8_product(rows / largest, 1 / self._top, self._top + 1, self._packed)
        return [part * largest for part in torch.split(out, self._sizes, -1)]


_int8_product: Callable[[Tensor, float, int, Any], Tensor] = cast(
    "Any", torch.ops.quantized
).linear_with_input_q_dq_qweight_dq_output_fp32


class Int8Linear(nn.Linear):
    """One of the layers of a product. It is a ``Linear`` for those who put adapters beside it."""

    def __init__(self, layer: nn.Linear, product: _Product, place: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._dtype = layer.weight.dtype
        self.bias = None
        given = cast("Tensor | None", layer.bias)
        self._bias = None if given is None else given.data.float()
        self._product, self._place = product, place

    @classmethod
    def of(cls, layers: Sequence[nn.Linear]) -> list[Int8Linear]:
        """The int8 form of layers that are given the same input."""
        product = _Product([layer.weight.data for layer in layers])
        return [cls(layer, product, place) for place, layer in enumerate(layers)]

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[outputs, inputs]: a copy as the 8 bits have it, for adapters that scale it (DoRA)."""
        return self._product.weight(self._place).to(self._dtype)

    def forward(self, input: Tensor) -> Tensor:
        out = self._product.part(input, self._place)
        if self._bias is not None:
            out += self._bias
        return out.to(input.dtype)


def quantize(base: Model) -> float:
    """Replaces every linear layer by its int8 form, and lets go of its weights as it does.

    Where the model multiplies with a weight by itself, as Mamba does, it stays.

    Returns:
        The relative error that this makes in the logits of some tokens: the norm of the difference over the norm.
    """
    vocabulary = int(cast("Any", base.config.get_text_config()).vocab_size)
    probe = torch.tensor([[(7919 * i + 13) % vocabulary for i in range(1, 33)]], device=base.device)
    layers = linear_layers(base)
    with watched([layer for _, layer in layers]) as uses:
        exact = _outputs(base, probe)
    names = {id(layer): name for name, layer in layers if id(layer) not in uses.read}
    together = [[names.pop(id(layer)) for layer in call] for call in uses.siblings()]
    alone = [[name] for name in names.values()]
    del layers, uses  # the weights go as soon as nobody has their layers
    for group in (*together, *alone):
        _replace(base, group)
    rounded = _outputs(base, probe)
    return float(((rounded - exact).square().sum() / exact.square().sum()).sqrt())


def _replace(base: Model, names: Sequence[str]) -> None:
    modules = cast("nn.Module", base)
    layers = [cast("nn.Linear", modules.get_submodule(name)) for name in names]
    for name, small in zip(names, Int8Linear.of(layers), strict=True):
        parent, _, own = name.rpartition(".")
        setattr(modules.get_submodule(parent), own, small)


def _outputs(base: Model, probe: Tensor) -> Tensor:
    """The first of the model's outputs: logits, or the hidden states of an embedding model."""
    return cast("Tensor", cast("Any", base(input_ids=probe, use_cache=False))[0]).float()
