"""LoRA adapters: kept apart and chosen per request; or one of them for all requests, in place of merging."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from engineroom.engines.adapter_folder import AdapterFolder
from engineroom.errors import ArgumentError

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


def check_rank(folder: AdapterFolder, max_rank: int) -> None:
    """
    Raises:
        ArgumentError: its rank is above ``vllm_max_lora_rank``.
    """
    if folder.rank > max_rank:
        raise ArgumentError(
            f"the adapter {str(folder.path)!r} has rank {folder.rank}",
            why=f"vllm_max_lora_rank is {max_rank}",
            fix=f"vllm_max_lora_rank={folder.rank}",
            argument="vllm_max_lora_rank",
        )
