"""A checkpoint as a causal model and nothing more, for vLLM and SGLang to load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from engineroom.checkpoint import VALUE_HEAD_FILES, Checkpoint, holds_value_head
from engineroom.engines.pooling import is_of_sentence_transformers

if TYPE_CHECKING:
    from torch import Tensor


def causal_alone(checkpoint: Checkpoint, folder: Path) -> Path:
    """Links to the checkpoint's files, and a copy of a file that holds a value head among others.

    Both read every file of weights, and know no such head. vLLM also takes sentence-transformers' limit on texts for
    the model's own context, and refuses to start with the longer one; engineroom keeps to that limit itself.

    Args:
        folder: an empty one.
    """
    import torch
    from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]

    for file in checkpoint.path.iterdir():
        if file.name in VALUE_HEAD_FILES or is_of_sentence_transformers(file):
            continue
        if file not in checkpoint.weight_files or not holds_value_head(file):
            (folder / file.name).symlink_to(file.resolve())
        elif file.suffix == ".safetensors":
            save_file(_headless(load_file(file)), folder / file.name, metadata={"format": "pt"})
        else:
            tensors: Mapping[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
            torch.save(_headless(tensors), folder / file.name)
    return folder


def _headless(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("v_head.")}
