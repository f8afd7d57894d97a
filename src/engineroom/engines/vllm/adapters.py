"""LoRA adapters: kept apart and chosen per request; or one of them for all requests, in place of merging."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engineroom.errors import ArgumentError, ModelLoadError, ParameterError

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


@dataclass(frozen=True)
class Adapters:
    """The adapters of one engine.

    Attributes:
        requests: what vLLM is told, by the name that a request chooses.
        always: the adapter that stands in for merged weights.
    """

    requests: Mapping[str, LoRARequest]
    always: LoRARequest | None = None

    def choose(self, name: str | None) -> LoRARequest | None:
        """
        Raises:
            ParameterError: there is no such adapter.
        """
        if name is None:
            return self.always
        if name not in self.requests:
            raise ParameterError(
                f"there is no adapter {name!r}",
                why=f"adapters kept apart: {', '.join(self.requests) or 'none'}",
                fix="load it with adapter_name_or_path=… adapter_merge=false",
                parameter="adapter",
            )
        return self.requests[name]

    def last(self) -> LoRARequest | None:
        """The one that scores: a reward head belongs to the last adapter."""
        return self.always or next(reversed(list(self.requests.values())), None)

    def all(self) -> list[LoRARequest]:
        return [*self.requests.values(), *([self.always] if self.always else [])]


def check_adapters(folders: Sequence[Path], *, merge: bool, max_rank: int) -> None:
    """What vLLM can't do with these adapters, told before it starts.

    Raises:
        ArgumentError: several are to be merged, or a rank is above ``vllm_max_lora_rank``.
        ModelLoadError: an adapter is of a kind that vLLM does not run.
    """
    if merge and len(folders) > 1:
        raise ArgumentError(
            "the vllm engine does not merge several adapters",
            why="vLLM applies one adapter to a request",
            fix="adapter_merge=false to choose per request, or infer_backend=huggingface",
            argument="adapter_name_or_path",
        )
    for folder in folders:
        config = _config(folder)
        rank = config.get("r")
        if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("modules_to_save"):
            raise ModelLoadError(
                f"the adapter {str(folder)!r} is not of a kind that vLLM runs",
                why="vLLM runs plain LoRA: no DoRA, no OFT, no modules_to_save",
                fix="use infer_backend=huggingface",
            )
        if isinstance(rank, int) and rank > max_rank:
            raise ArgumentError(
                f"the adapter {str(folder)!r} has rank {rank}",
                why=f"vllm_max_lora_rank is {max_rank}",
                fix=f"vllm_max_lora_rank={rank}",
                argument="vllm_max_lora_rank",
            )


def adapter_requests(names: Sequence[str], folders: Sequence[Path], *, merge: bool) -> Adapters:
    """
    Args:
        names: one for each folder.
    """
    from vllm.lora.request import LoRARequest

    requests = {
        name: LoRARequest(name, number, str(folder))
        for number, (name, folder) in enumerate(zip(names, folders, strict=True), start=1)
    }
    return Adapters({}, next(iter(requests.values()), None)) if merge else Adapters(requests)


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"{str(folder / 'adapter_config.json')!r} can't be read",
            why=str(error),
            fix="download or save the adapter again",
        ) from error
