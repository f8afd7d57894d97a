"""The linear layers of a model, and what it does with them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, equal, nn
from torch.nn.functional import linear

from engineroom.engines.huggingface.library import Model

_NARROW = 32
"""Outputs. A layer with fewer (a reward's score) is left as it is."""


def linear_layers(base: Model) -> list[tuple[str, nn.Linear]]:
    """The model's own linear layers, by name; those of adapters beside them are not among them."""
    modules = cast("list[tuple[str, nn.Module]]", list(cast("Any", base).named_modules()))
    return [
        (name, module)
        for name, module in modules
        if type(module) is nn.Linear and module.out_features >= _NARROW and "lora_" not in name
    ]


class Uses:
    """What was seen of some layers in a pass of the model.

    Attributes:
        read: ids of those whose weight somebody else reads: Mamba multiplies with a layer's weight by itself, and looks
            at that of its head for the dtype, at every token.
    """

    def __init__(self) -> None:
        self.read: set[int] = set()
        self._calls: list[list[nn.Linear]] = []
        self._given: tuple[Tensor, Tensor] | None = None

    def note(self, layer: nn.Linear, input: Tensor) -> None:
        """The layer is called."""
        if self._given is not None and input is self._given[0] and equal(input, self._given[1]):
            self._calls[-1].append(layer)
        else:
            self._calls.append([layer])
            self._given = input, input.clone()

    def siblings(self) -> list[list[nn.Linear]]:
        """Those that were called once, one after the other, with the very same input: query, key and value, say."""
        times: dict[int, int] = {}
        for layer in (layer for call in self._calls for layer in call):
            times[id(layer)] = times.get(id(layer), 0) + 1
        once = [[x for x in call if times[id(x)] == 1 and id(x) not in self.read] for call in self._calls]
        return [call for call in once if len(call) > 1]


@contextmanager
def watched(layers: Sequence[nn.Linear]) -> Generator[Uses, None, None]:
    """What is done with the layers meanwhile."""
    uses = Uses()
    for layer in layers:
        layer.__class__ = _Watched
        cast("_Watched", layer).uses = uses
    try:
        yield uses
    finally:
        for layer in layers:
            layer.__class__ = nn.Linear
            del cast("_Watched", layer).uses


class _Watched(nn.Linear):
    uses: Uses

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.uses.read.add(id(self))
        return cast("Tensor", self._parameters["weight"])

    def forward(self, input: Tensor) -> Tensor:
        self.uses.note(self, input)
        return linear(input, cast("Tensor", self._parameters["weight"]), self.bias)
