"""The value head of a reward model that is a causal language model otherwise."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from engineroom.errors import ModelLoadError


class ValueHead(nn.Module):
    """One score from the last hidden state, as TRL's ``AutoModelForCausalLMWithValueHead`` and LLaMA-Factory save it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.summary = nn.Linear(weight.shape[1], 1, bias=bias is not None)
        self.summary.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})

    def forward(self, hidden: Tensor) -> Tensor:
        return self.summary(hidden.to(self.summary.weight.dtype))


_WEIGHT = "v_head.summary.weight"
_BIAS = "v_head.summary.bias"


def load_value_head(file: Path, hidden_size: int) -> ValueHead:
    """
    Raises:
        ModelLoadError: the file holds no head, or one for another size of model.
    """
    tensors = _head_tensors(file)
    weight, bias = tensors.get(_WEIGHT), tensors.get(_BIAS)
    if weight is None:
        raise ModelLoadError(f"{str(file)!r} has no {_WEIGHT}", fix="save the reward model again")
    if tuple(weight.shape) != (1, hidden_size) or (bias is not None and tuple(bias.shape) != (1,)):
        raise ModelLoadError(
            f"the value head in {str(file)!r} does not fit this model",
            why=f"its weight is {list(weight.shape)}; the model needs {[1, hidden_size]}",
            fix="put the head beside the model that it was trained with",
        )
    return ValueHead(weight.float(), None if bias is None else bias.float())


class _TensorFile(Protocol):
    """An opened safetensors file."""

    def keys(self) -> list[str]: ...
    def get_tensor(self, name: str) -> Tensor: ...


def _head_tensors(file: Path) -> Mapping[str, Tensor]:
    """The ``v_head`` tensors of a file. A ``.bin`` is read without running what a pickle may hold."""
    if file.suffix == ".bin":
        mapped = zipfile.is_zipfile(file)  # of a whole model's weights, only the head is read
        loaded: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
        if not isinstance(loaded, Mapping):
            raise ModelLoadError(f"{str(file)!r} holds no named tensors", fix="save the reward model again")
        return cast("Mapping[str, Tensor]", loaded)
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:  # pyright: ignore[reportUnknownVariableType]
        tensors = cast("_TensorFile", opened)
        return {name: tensors.get_tensor(name) for name in tensors.keys() if name.startswith("v_head.")}  # noqa: SIM118
