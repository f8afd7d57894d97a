"""KTransformersEngine: the Transformers engine with a loader of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments
from engineroom.engines.adapter_folder import AdapterFolder
from engineroom.engines.base import BaseEngine
from engineroom.engines.capabilities import CAPABILITIES
from engineroom.engines.huggingface import HuggingfaceEngine
from engineroom.engines.ktransformers.experts import check_spares_experts
from engineroom.engines.ktransformers.loader import SparseLoader
from engineroom.errors import ArgumentError
from engineroom.types import Support


class KTransformersEngine(HuggingfaceEngine):
    """Runs a sparse model of Transformers in this process, its experts on the CPU by kt-kernel."""

    name = "ktransformers"
    capabilities: Mapping[str, Support] = CAPABILITIES["ktransformers"]
    loader_class = SparseLoader

    @classmethod
    def from_arguments(  # pyright: ignore[reportIncompatibleMethodOverride] -- another engine serves GPUs
        cls, arguments: Arguments
    ) -> BaseEngine:
        """
        Raises:
            ArgumentError: an argument of the server without the server, or the server without CUDA.
        """
        if arguments.kt_num_gpu_experts is not None:
            from engineroom.engines.ktransformers.server import KTServerEngine

            return KTServerEngine.from_arguments(arguments)
        if arguments.kt_max_deferred_experts_per_token is not None:
            raise ArgumentError(
                "kt_max_deferred_experts_per_token needs kt_num_gpu_experts",
                why="in this process all experts of a layer are computed in it",
                fix="leave kt_max_deferred_experts_per_token out",
                argument="kt_max_deferred_experts_per_token",
            )
        return cls(arguments, Checkpoint.open(arguments))

    async def load_adapter(self, name: str, path: Path) -> None:
        check_spares_experts(AdapterFolder.open(path))
        await super().load_adapter(name, path)
