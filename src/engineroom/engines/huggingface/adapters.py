"""LoRA adapters: merged into the weights in order, or kept apart and switched between requests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from engineroom.engines.huggingface.library import AdaptedModel, Model
from engineroom.errors import ModelLoadError, ModelNotFoundError


class AdapterSwitch:
    """Which of the adapters kept apart is at work. Used on the inference thread only.

    Attributes:
        names: the adapters' names, as requests choose them.
    """

    def __init__(self, model: AdaptedModel | None = None, names: Sequence[str] = ()) -> None:
        self.names = tuple(names)
        self._model = model
        self._active: str | None = self.names[0] if names else None

    def use(self, name: str | None) -> None:
        """Turns to the named adapter, or to none. Costs nothing if that one is at work already."""
        if self._model is None or name == self._active:
            return
        if name is None:
            self._model.base_model.disable_adapter_layers()
        else:
            if self._active is None:
                self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(_inner_name(self.names.index(name)))
        self._active = name


def find_adapters(names: Sequence[str], subfolder: str | None) -> list[Path]:
    """The adapters' folders.

    Raises:
        ModelNotFoundError: one of them is no adapter.
    """
    folders: list[Path] = []
    for name in names:
        folder = Path(name).expanduser() / subfolder if subfolder else Path(name).expanduser()
        if not (folder / "adapter_config.json").is_file():
            raise ModelNotFoundError(
                f"{str(folder)!r} is not a LoRA adapter",
                why="there is no adapter_config.json in it",
                fix="check adapter_name_or_path (and adapter_folder)",
            )
        folders.append(folder)
    return folders


def is_classifier(folder: Path) -> bool:
    """Was the adapter trained on a sequence classifier? Then it brings the head that its base model lacks."""
    try:
        config: object = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(
            f"{str(folder / 'adapter_config.json')!r} can't be read",
            why=str(error),
            fix="download or save the adapter again",
        ) from error
    return isinstance(config, Mapping) and cast("Mapping[str, Any]", config).get("task_type") == "SEQ_CLS"


def merge(model: Model, folders: Sequence[Path]) -> Model:
    """Adds each adapter's weights to the model's, one after the other."""
    for folder in folders:
        adapted = _wrap(model, folder)
        _load(adapted, folder, 0)
        model = adapted.merge_and_unload()
    return model


def keep_apart(model: Model, folders: Sequence[Path]) -> tuple[AdaptedModel, AdapterSwitch]:
    """Puts the adapters beside the weights."""
    adapted = _wrap(model, folders[0])
    for place, folder in enumerate(folders):
        _load(adapted, folder, place)
    adapted.set_adapter(_inner_name(0))
    return adapted, AdapterSwitch(adapted, adapter_names(folders))


def _wrap(model: Model, folder: Path) -> AdaptedModel:
    """The model with the folder's kind of adapter around it; its weights are still to be loaded."""
    import peft

    config = cast("peft.PeftConfig", peft.PeftConfig.from_pretrained(str(folder)))  # pyright: ignore[reportUnknownMemberType]
    config.inference_mode = True
    config.base_model_name_or_path = None  # peft warns of every base model that was moved
    return cast("AdaptedModel", peft.get_peft_model(cast("Any", model), config, adapter_name=_inner_name(0)))


def _load(adapted: AdaptedModel, folder: Path, place: int) -> None:
    """
    Raises:
        ModelLoadError: the adapter's weights are not those that its own config and this model call for.
    """
    result = adapted.load_adapter(str(folder), _inner_name(place))
    for what, keys in (("lacks", result.missing_keys), ("has unknown", result.unexpected_keys)):
        if keys:
            raise ModelLoadError(
                f"the adapter {str(folder)!r} does not fit this model",
                why=f"it {what} weights: {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}",
                fix="name the base model that it was trained on, and check adapter_config.json",
            )


def _inner_name(place: int) -> str:
    """peft's name for an adapter. A folder's own name may hold dots, or be a part of peft's prefix ``lora_``."""
    return f"adapter_{place}"


def adapter_names(folders: Sequence[Path]) -> tuple[str, ...]:
    """The folders' names, with a number where two share one."""
    names: list[str] = []
    for folder in folders:
        name, number = folder.resolve().name, 1
        while name in names:
            number += 1
            name = f"{folder.resolve().name}-{number}"
        names.append(name)
    return tuple(names)
