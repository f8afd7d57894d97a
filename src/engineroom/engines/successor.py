"""Which checkpoint may take a running model's place: the same model with other weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engineroom.checkpoint import Checkpoint
from engineroom.errors import ModelLoadError, ModelNotFoundError, ParameterError, shown

_OF_THE_FILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
"""What a config says of the folder that it lies in, and not of the model."""


def successor(checkpoint: Checkpoint, path: Any) -> Path:
    """The folder, once nothing speaks against it. Only headers are read.

    Raises:
        ParameterError: that is no path.
        ModelNotFoundError: there is no model.
        ModelLoadError: it is broken, or another model. An engine would load what fits, or nothing, without a word.
    """
    try:
        folder = Path(path).expanduser().absolute()
    except TypeError:
        raise ParameterError(
            f"{shown(path)} is not a path", why="allowed: a folder's path", parameter="path"
        ) from None
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"{str(path)!r} is not a model folder",
            why="it has no config.json",
            fix="name the folder that holds config.json and the weights",
        )
    other = Checkpoint(str(path), folder)
    other.check_weights()
    why = _difference(checkpoint.config, other.config) or _different_tensors(checkpoint, other)
    if why:
        raise ModelLoadError(
            f"the weights of {other.name} can't take the place of {checkpoint.name}'s",
            why=why,
            fix="name another checkpoint of the same model, or make a new ChatModel",
        )
    return folder


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """The first thing that both configs say, and say differently. Versions of Transformers write more or fewer."""
    for name in ours.keys() & theirs.keys() - set(_OF_THE_FILE):
        one, other = ours[name], theirs[name]
        if type(one) is type(other) is dict:
            why = _difference(one, other)
            if why:
                return why
        elif one != other:
            return f"{name} is {shown(other)} in its config.json, and the model's is {shown(one)}"
    return ""


def _different_tensors(checkpoint: Checkpoint, other: Checkpoint) -> str:
    if "quantization_config" in checkpoint.config:
        return "weights that are quantised are laid out anew as they are loaded"
    if checkpoint.value_head_file or other.value_head_file:
        return "a value head is no part of a model that chats"
    ours, theirs = _shapes(checkpoint), _shapes(other)
    if not ours or not theirs:
        return "only weights in safetensors files can be compared"
    for name in sorted(ours.keys() | theirs.keys()):
        one, its = ours.get(name), theirs.get(name)
        if one != its:
            return f"{name} is {_told(its)} there, and {_told(one)} in the model"
    return ""


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """A head that is tied to the embeddings may lie in the file or not."""
    tied = bool(
        checkpoint.text_config.get("tie_word_embeddings", checkpoint.config.get("tie_word_embeddings"))
    )
    return {
        tensor.name: tensor.shape
        for tensor in checkpoint.tensors
        if not (tied and tensor.name == "lm_head.weight")
    }


def _told(shape: tuple[int, ...] | None) -> str:
    return "not" if shape is None else str(list(shape))
