"""LoRA adapters: merged into the weights in order, or kept apart, loaded, chosen and unloaded while the model runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import torch
from torch import nn

from engineroom.engines.adapter_folder import AdapterFolder
from engineroom.engines.huggingface.library import AdaptedModel, Model
from engineroom.errors import EngineroomError, ModelLoadError


class AdapterSwitch:
    """The adapters kept apart, of which one or none is at work. Used on the inference thread only.

    peft puts them into the model's own layers, so ``model`` stays the object that is called.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._adapted: AdaptedModel | None = None
        self._inner: dict[str, str] = {}  # a request's name → peft's
        self._active: str | None = None
        self._numbers = itertools.count()

    @property
    def names(self) -> tuple[str, ...]:
        """As requests choose them."""
        return tuple(self._inner)

    def weights(self, name: str | None) -> str | None:
        """What tells the adapter from all others there were and will be, those of the same name too. None of none."""
        return None if name is None else self._inner.get(name, name)

    def use(self, name: str | None) -> None:
        """Turns to the named adapter, or to none. Costs nothing if that one is at work already."""
        if name != self._active:
            self._turn_to(name)

    def add(self, name: str, folder: AdapterFolder) -> None:
        """Loads an adapter; which one is at work stays as it is, and so does everything if it fails.

        Raises:
            ModelLoadError: its weights are not those that its own config and this model call for.
        """
        folder.check_separate()
        # peft knows no dots in a name, nor parts of its own prefix ``lora_``, which folders' names may have
        inner = f"adapter_{next(self._numbers)}"
        with torch.inference_mode(False):
            try:
                if self._adapted is None:
                    self._adapted = _wrap(self._model, folder, inner)
                _load(self._adapted, folder, inner)
            except Exception as error:
                self._take_out(inner)
                if isinstance(error, (EngineroomError, torch.AcceleratorError)):
                    raise
                raise ModelLoadError(  # whatever peft and safetensors raise
                    f"the adapter {str(folder.path)!r} can't be loaded",
                    why=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}",
                    fix="name the base model that it was trained on, and check adapter_config.json",
                ) from error.with_traceback(None)
            finally:
                self._model.eval()  # peft's new layers drop out otherwise
            self._inner[name] = inner
            self._turn_to(self._active)

    def remove(self, name: str) -> None:
        """Unloads an adapter and frees its memory. Nobody may need it any more."""
        inner = self._inner.pop(name)
        with torch.inference_mode(False):
            if self._active == name:
                self._active = None
            self._take_out(inner)
            if self._adapted is not None:
                self._turn_to(self._active)

    def _turn_to(self, name: str | None) -> None:
        assert self._adapted is not None
        if name is None:
            self._adapted.base_model.disable_adapter_layers()
        else:
            self._adapted.base_model.enable_adapter_layers()
            self._adapted.set_adapter(self._inner[name])
        self._active = name

    def _take_out(self, inner: str) -> None:
        """Removes what there is of an adapter, a half-loaded one too; of the last one, all that peft did."""
        others = list(self._inner.values())
        adapted = self._adapted
        if adapted is not None and others:
            adapted.set_adapter(others[0])  # peft warns when the one at work goes
            if inner in adapted.peft_config:
                adapted.delete_adapter(inner)
            _strip(self._model, inner)
            self._turn_to(self._active)
            return
        if adapted is not None:
            adapted.base_model.unload()
        _strip(self._model, inner)
        with suppress(AttributeError):
            del self._model.peft_config  # else peft warns at the next adapter that there is one already
        self._adapted = None


def merge(model: Model, folders: Sequence[AdapterFolder]) -> Model:
    """Adds each adapter's weights to the model's, one after the other."""
    for folder in folders:
        adapted = _wrap(model, folder, "merged")
        _load(adapted, folder, "merged")
        model = adapted.merge_and_unload()
    return model


def _wrap(model: Model, folder: AdapterFolder, inner: str) -> AdaptedModel:
    """The model with the folder's kind of adapter around it; its weights are still to be loaded."""
    import peft

    config = cast("peft.PeftConfig", peft.PeftConfig.from_pretrained(str(folder.path)))  # pyright: ignore[reportUnknownMemberType]
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise ModelLoadError(
            f"the adapter {str(folder.path)!r} is of the kind {folder.config.get('peft_type')}",
            why="it works on the prompt, not on the weights",
            fix="use a LoRA adapter",
        )
    config.inference_mode = True
    config.base_model_name_or_path = None  # peft warns of every base model that was moved
    return cast("AdaptedModel", peft.get_peft_model(cast("Any", model), config, adapter_name=inner))


def _load(adapted: AdaptedModel, folder: AdapterFolder, inner: str) -> None:
    """
    Raises:
        ModelLoadError: the adapter's weights are not those that its own config and this model call for.
    """
    result = adapted.load_adapter(str(folder.path), inner)
    for what, keys in (("lacks", result.missing_keys), ("has unknown", result.unexpected_keys)):
        if keys:
            raise ModelLoadError(
                f"the adapter {str(folder.path)!r} does not fit this model",
                why=f"it {what} weights: {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}",
                fix="name the base model that it was trained on, and check adapter_config.json",
            )


def _strip(model: Model, inner: str) -> None:
    """Takes an adapter out of every layer, where peft failed in the middle; a layer without any is the model's own."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    root = cast("nn.Module", model)
    for name, module in cast("list[tuple[str, nn.Module]]", [*cast("Any", root).named_modules()]):
        if not isinstance(module, BaseTunerLayer):
            continue
        layer = cast("Any", module)
        if inner in layer._all_available_adapter_names():
            layer.delete_adapter(inner)
        if not layer._all_available_adapter_names():
            parent, _, child = name.rpartition(".")
            setattr(root.get_submodule(parent), child, layer.get_base_layer())
