"""LoRA adapters: kept apart and chosen per request; or one of them for all requests, in place of merging."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engineroom.checkpoint import Checkpoint
from engineroom.engines.adapter_folder import AdapterFolder
from engineroom.errors import ArgumentError, ModelLoadError

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


class Adapters:
    """The adapters of one engine, as vLLM is told of them.

    Attributes:
        always: the adapter that stands in for merged weights.
    """

    def __init__(self) -> None:
        self.always: LoRARequest | None = None
        self._requests: dict[str, LoRARequest] = {}
        self._numbers = itertools.count(1)

    @property
    def folders(self) -> dict[str, Path]:
        """Those that a request can choose."""
        return {name: Path(request.lora_path) for name, request in self._requests.items()}

    def choose(self, name: str | None) -> LoRARequest | None:
        return self.always if name is None else self._requests[name]

    def last(self) -> LoRARequest | None:
        """The one that scores and embeds: a reward head belongs to the last adapter."""
        return self.always or next(reversed(list(self._requests.values())), None)

    def numbered(self, name: str, folder: AdapterFolder) -> LoRARequest:
        """What vLLM is told of an adapter. Its prefix cache knows adapters by name and path, whatever is in them now:
        so a name that comes again is another one there.
        """
        from vllm.lora.request import LoRARequest

        number = next(self._numbers)
        return LoRARequest(f"{name}#{number}", number, str(folder.path))

    def put(self, name: str, request: LoRARequest) -> None:
        self._requests[name] = request

    def take(self, name: str) -> LoRARequest:
        return self._requests.pop(name)


def check_adapters(
    folders: Sequence[AdapterFolder], checkpoint: Checkpoint, *, merge: bool, max_rank: int
) -> None:
    """What vLLM can't do with these adapters, told before it starts.

    Raises:
        ArgumentError: several are to be merged, or a rank is above ``vllm_max_lora_rank``.
        ModelLoadError: an adapter is of a kind that vLLM does not run, or was trained on another model.
    """
    if merge and len(folders) > 1:
        raise ArgumentError(
            "the vllm engine does not merge several adapters",
            why="vLLM applies one adapter to a request",
            fix="adapter_merge=false to choose per request, or infer_backend=huggingface",
            argument="adapter_name_or_path",
        )
    for folder in folders:
        check_adapter(folder, checkpoint, max_rank)


def check_adapter(folder: AdapterFolder, checkpoint: Checkpoint, max_rank: int) -> None:
    """
    Raises:
        ArgumentError, ModelLoadError: as :func:`check_adapters`.
    """
    config = folder.config
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("modules_to_save"):
        raise ModelLoadError(
            f"the adapter {str(folder.path)!r} is not of a kind that vLLM runs",
            why="vLLM runs plain LoRA: no DoRA, no OFT, no modules_to_save",
            fix="use infer_backend=huggingface",
        )
    if folder.rank > max_rank:
        raise ArgumentError(
            f"the adapter {str(folder.path)!r} has rank {folder.rank}",
            why=f"vllm_max_lora_rank is {max_rank}",
            fix=f"vllm_max_lora_rank={folder.rank}",
            argument="vllm_max_lora_rank",
        )
    folder.check_separate()
    folder.check_fits(checkpoint)
