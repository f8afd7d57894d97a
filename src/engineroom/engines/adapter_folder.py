"""An adapter's folder, read without torch: what kind it is, and whether it fits a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from engineroom.checkpoint import Checkpoint, TensorInfo, read_header, read_json
from engineroom.errors import ModelLoadError, ModelNotFoundError

_CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_AXES = {".lora_A.weight": 1, ".lora_B.weight": 0}
"""Of [rank, in] and [out, rank]: the axis that has to be as long as the model's own [out, in]."""

_FLOATS = ("F64", "F32", "F16", "BF16")
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Ways to begin a LoRA's training that leave the model's own weights as they are; PiSSA, OLoRA, … change them."""


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter on disk. Properties read files when first asked and raise :class:`ModelLoadError` if broken."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> AdapterFolder:
        """
        Raises:
            ModelNotFoundError: there is no adapter.
        """
        path = path.expanduser()
        if not (path / _CONFIG).is_file():
            raise ModelNotFoundError(
                f"{str(path)!r} is not a LoRA adapter",
                why=f"there is no {_CONFIG} in it",
                fix="name the folder that holds it (of those at the start: adapter_name_or_path, adapter_folder)",
            )
        return cls(path)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """``adapter_config.json``."""
        return read_json(self.path / _CONFIG)

    @cached_property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """What its safetensors file holds; nothing of a ``.bin``."""
        file = self.path / "adapter_model.safetensors"
        return tuple(read_header(file)) if file.is_file() else ()

    @property
    def is_classifier(self) -> bool:
        """Was it trained on a sequence classifier? Then it brings the head that its base model lacks."""
        return self.config.get("task_type") == "SEQ_CLS"

    @property
    def rank(self) -> int:
        """The largest of its matrices'."""
        pattern = cast("Mapping[str, Any]", self.config.get("rank_pattern") or {})
        ranks = [self.config.get("r"), *pattern.values()]
        return max((rank for rank in ranks if isinstance(rank, int)), default=0)

    def check_headless(self) -> None:
        """
        Raises:
            ModelLoadError: it brings a reward head, which a model that runs can't take up.
        """
        if self.is_classifier:
            raise ModelLoadError(
                f"the adapter {str(self.path)!r} brings a reward head",
                why="a model has its head from the start",
                fix="load it with adapter_name_or_path",
            )

    def check_separate(self) -> None:
        """
        Raises:
            ModelLoadError: while it is loaded, it would change the answers of requests that don't ask for it.
        """
        config, start = self.config, self.config.get("init_lora_weights")
        for what, changes in (
            (f"bias={config.get('bias')}", config.get("bias", "none") != "none"),
            (
                f"init_lora_weights={start}",
                isinstance(start, str) and start.lower() not in _PLAIN_STARTS,
            ),
            ("layer_replication", bool(config.get("layer_replication"))),
        ):
            if changes:
                raise ModelLoadError(
                    f"the adapter {str(self.path)!r} can't be kept apart from the model",
                    why=f"with {what} it changes the model's own weights, and so every other answer",
                    fix="merge it: adapter_name_or_path=… adapter_merge=true",
                )

    def check_fits(self, checkpoint: Checkpoint) -> None:
        """Compares its matrices with the model's, as far as both are plain safetensors of the same names.

        An engine may load what does not fit: vLLM copies a smaller matrix into a corner of its own.

        Raises:
            ModelLoadError: it was trained on another model.
        """
        weights = {t.name: t.shape for t in checkpoint.tensors if t.dtype in _FLOATS and len(t.shape) == 2}
        ours = [part for tensor in self.tensors if (part := _part_of(tensor)) is not None]
        if not any(f"{module}.weight" in weights for module, _, _ in ours):
            return  # other names, or a quantised model: the engine has to see
        layers = {_layer(name) for name in weights}
        for module, axis, size in ours:
            shape = weights.get(f"{module}.weight")
            if shape is None and _layer(module) not in layers:
                raise self._does_not_fit(checkpoint, f"the model has no {_layer(module)}")
            if self.config.get("fan_in_fan_out"):
                axis = 1 - axis
            if shape is not None and shape[axis] != size:
                raise self._does_not_fit(
                    checkpoint, f"{module} is {list(shape)} in the model, and the adapter expects {size}"
                )

    def _does_not_fit(self, checkpoint: Checkpoint, why: str) -> ModelLoadError:
        base = self.config.get("base_model_name_or_path")
        return ModelLoadError(
            f"the adapter {str(self.path)!r} does not fit {checkpoint.name}",
            why=why,
            fix=f"it was trained on {base}" if base else "name the base model that it was trained on",
        )


def open_adapters(names: Sequence[str], subfolder: str | None) -> list[AdapterFolder]:
    """The adapters of ``adapter_name_or_path``, in order.

    Raises:
        ModelNotFoundError: one of them is no adapter.
    """
    return [AdapterFolder.open(Path(name) / subfolder if subfolder else Path(name)) for name in names]


def adapter_names(folders: Sequence[AdapterFolder]) -> tuple[str, ...]:
    """The folders' names, with a number where two share one."""
    names: list[str] = []
    for folder in folders:
        name, number = folder.path.resolve().name, 1
        while name in names:
            number += 1
            name = f"{folder.path.resolve().name}-{number}"
        names.append(name)
    return tuple(names)


def _part_of(tensor: TensorInfo) -> tuple[str, int, int] | None:
    """The module that a LoRA matrix belongs to, and the axis and length that the module has to have."""
    for end, axis in _AXES.items():
        if tensor.name.endswith(end) and len(tensor.shape) == 2:
            return tensor.name.removesuffix(end).removeprefix(_PREFIX), axis, tensor.shape[axis]
    return None


def _layer(name: str) -> str:
    """``model.layers.3`` of everything in it; a name without a number is its own."""
    found = re.match(r".*?\.\d+(?=\.)", name)
    return found[0] if found else name
