"""What we use of Transformers and peft, as types. Their own annotations are incomplete, so this is the border."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn


class TextConfig(Protocol):
    """The language model's part of a config. Which fields there are depends on the architecture."""

    hidden_size: int


class ModelConfig(Protocol):
    num_labels: int

    def get_text_config(self) -> TextConfig: ...


class Output(Protocol):
    """``logits`` is [batch, positions, vocabulary], or [batch, labels] of a classifier."""

    @property
    def logits(self) -> Tensor: ...
    @property
    def hidden_states(self) -> tuple[Tensor, ...]: ...


class Body(Protocol):
    """A model without its head. ``last_hidden_state`` is [batch, positions, width], behind the final norm."""

    def __call__(self, *, input_ids: Tensor, use_cache: bool) -> BodyOutput: ...


class BodyOutput(Protocol):
    @property
    def last_hidden_state(self) -> Tensor: ...


class Model(Protocol):
    """A ``PreTrainedModel``."""

    config: ModelConfig
    generation_config: Any
    peft_config: Any
    hf_device_map: Mapping[str, Any]

    @property
    def base_model(self) -> Body: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def eval(self) -> object: ...
    def to(self, device: torch.device | str) -> object: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def forward(self, input_ids: Tensor) -> Output: ...
    def __call__(self, *, input_ids: Tensor, use_cache: bool, **options: object) -> Output: ...
    def generate(
        self, *, input_ids: Tensor, attention_mask: Tensor, generation_config: Any, **hooks: object
    ) -> Tensor: ...


class LoadResult(Protocol):
    missing_keys: list[str]
    unexpected_keys: list[str]


class AdaptedModel(Protocol):
    """A ``PeftModel``: the model with its adapters in the layers that they change."""

    peft_config: Mapping[str, Any]

    def merge_and_unload(self) -> Model: ...
    def load_adapter(self, model_id: str, adapter_name: str, *, is_trainable: bool = False) -> LoadResult: ...
    def set_adapter(self, adapter_name: str) -> None: ...
    def delete_adapter(self, adapter_name: str) -> None: ...

    @property
    def base_model(self) -> AdapterLayers: ...


class AdapterLayers(Protocol):
    def enable_adapter_layers(self) -> None: ...
    def disable_adapter_layers(self) -> None: ...
    def unload(self) -> Model: ...


class LoadModel(Protocol):
    """``AutoModelFor….from_pretrained`` with ``output_loading_info``."""

    def __call__(self, path: str, **options: object) -> tuple[Model, Mapping[str, Any]]: ...


def integers(tensor: Tensor) -> list[int]:
    """A one-dimensional tensor's values."""
    return cast("list[int]", tensor.tolist())  # pyright: ignore[reportUnknownMemberType]


def floats(tensor: Tensor) -> list[float]:
    """A one-dimensional tensor's values."""
    return cast("list[float]", tensor.tolist())  # pyright: ignore[reportUnknownMemberType]


vector_norm: Callable[[Tensor, float, int, bool], Tensor] = cast("Any", torch.linalg).vector_norm
"""``torch.linalg.vector_norm(x, order, dimension, keepdim)``."""
