"""What a model is made of: its weight files and adapters, told apart without reading them whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engineroom.chat import ChatModel

_PLACES = 64
_PIECE = 4096


@dataclass(frozen=True, slots=True)
class Weights:
    """Fingerprints of the files; empty where there are none to look at.

    Attributes:
        model: of the checkpoint.
        adapters: of each adapter that is on it.
        dtype: the type that the engine computes with, as far as it is told.
    """

    model: str = ""
    adapters: tuple[str, ...] = ()
    dtype: str = ""

    def are_those_of(self, other: Weights) -> bool:
        return (self.model, self.adapters) == (other.model, other.adapters)


def weights_of(model: ChatModel) -> Weights:
    """The weights behind a model."""
    checkpoint, arguments = model.engine.checkpoint, model.arguments
    if checkpoint is None:
        return Weights()
    dtype = arguments.infer_dtype if arguments.infer_dtype != "auto" else checkpoint.dtype or ""
    adapters = arguments.adapter_name_or_path
    if not arguments.adapter_merge:
        adapters = tuple(name for name in adapters if Path(name).name == model.sampling.adapter)
    folders = [Path(arguments.adapter_folder or "") / name for name in adapters]
    return Weights(
        fingerprint(checkpoint.weight_files), tuple(fingerprint(_files(f), str(f)) for f in folders), dtype
    )


def fingerprint(files: Sequence[Path], otherwise: str = "") -> str:
    """A digest of the files' sizes and of small pieces all over them. Training changes every piece of a file.

    Args:
        otherwise: the fingerprint where there are no files, such as a hub repository's name.
    """
    if not files:
        return otherwise
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda f: f.name):
        size = file.stat().st_size
        digest.update(size.to_bytes(8, "big"))
        with file.open("rb") as stream:
            for place in range(_PLACES + 1):
                stream.seek(max(0, size - _PIECE) * place // _PLACES, os.SEEK_SET)
                digest.update(stream.read(_PIECE))
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
