"""LoRA adapters in engines that run plain LoRA and apply one of them to a request: vLLM and SGLang."""

from __future__ import annotations

from collections.abc import Sequence

from engineroom.checkpoint import Checkpoint
from engineroom.engines.adapter_folder import AdapterFolder
from engineroom.errors import ArgumentError, ModelLoadError


def check_merge(folders: Sequence[AdapterFolder], engine: str, library: str, *, merge: bool) -> None:
    """One adapter stands in for merged weights: it is applied to every request. Several can't.

    Args:
        engine: its word in ``infer_backend``.
        library: its name in a sentence.

    Raises:
        ArgumentError: several are to be merged.
    """
    if merge and len(folders) > 1:
        raise ArgumentError(
            f"the {engine} engine does not merge several adapters",
            why=f"{library} applies one adapter to a request",
            fix="adapter_merge=false to choose per request, or infer_backend=huggingface",
            argument="adapter_name_or_path",
        )


def check_plain_lora(folder: AdapterFolder, checkpoint: Checkpoint, library: str) -> None:
    """
    Raises:
        ModelLoadError: the adapter is of another kind, changes the model for everybody, or was trained on another one.
    """
    config = folder.config
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("modules_to_save"):
        raise ModelLoadError(
            f"the adapter {str(folder.path)!r} is not of a kind that {library} runs",
            why=f"{library} runs plain LoRA: no DoRA, no OFT, no modules_to_save",
            fix="use infer_backend=huggingface",
        )
    folder.check_separate()
    folder.check_fits(checkpoint)
