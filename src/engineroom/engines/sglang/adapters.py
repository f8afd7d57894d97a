"""LoRA adapters: kept apart and chosen per request; or one of them for all requests, in place of merging."""

from __future__ import annotations

from collections.abc import Sequence

from engineroom.checkpoint import Checkpoint
from engineroom.engines.adapter_folder import AdapterFolder
from engineroom.errors import ArgumentError, ModelLoadError


def check_adapters(folders: Sequence[AdapterFolder], checkpoint: Checkpoint, *, merge: bool) -> None:
    """What SGLang can't do with these adapters, told before it starts.

    Raises:
        ArgumentError: several are to be merged.
        ModelLoadError: an adapter is of a kind that SGLang does not run, or was trained on another model.
    """
    if merge and len(folders) > 1:
        raise ArgumentError(
            "the sglang engine does not merge several adapters",
            why="SGLang applies one adapter to a request",
            fix="adapter_merge=false to choose per request, or infer_backend=huggingface",
            argument="adapter_name_or_path",
        )
    for folder in folders:
        check_adapter(folder, checkpoint)


def check_adapter(folder: AdapterFolder, checkpoint: Checkpoint) -> None:
    """
    Raises:
        ModelLoadError: as :func:`check_adapters`.
    """
    config = folder.config
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("modules_to_save"):
        raise ModelLoadError(
            f"the adapter {str(folder.path)!r} is not of a kind that SGLang runs",
            why="SGLang runs plain LoRA: no DoRA, no OFT, no modules_to_save",
            fix="use infer_backend=huggingface",
        )
    folder.check_separate()
    folder.check_fits(checkpoint)
