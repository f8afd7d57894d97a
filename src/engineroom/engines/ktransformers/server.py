"""KTransformers on NVIDIA machines, as upstream recommends it: ``sglang-kt``, a fork of SGLang, spoken to as SGLang is.

Not run by us: it does not start without CUDA. Its command line is tested, and its protocol against SGLang's own server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engineroom import machine
from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments
from engineroom.engines.sglang import SglangEngine
from engineroom.errors import ArgumentError


class KTServerEngine(SglangEngine):
    """sglang-kt's server: some experts of each layer on the GPU, the others on the CPU."""

    name = "ktransformers"
    library = "sglang-kt"

    @classmethod
    def from_arguments(cls, arguments: Arguments) -> KTServerEngine:
        """
        Raises:
            ArgumentError: there is no CUDA, or an argument that the server would have to ignore.
        """
        check(arguments, gpus=len(machine.gpus()))
        return cls(arguments, Checkpoint.open(arguments))

    def _further_options(self) -> Mapping[str, Any]:
        return kt_options(
            self._arguments, self.checkpoint.path, cores=machine.cores(), nodes=machine.numa_nodes()
        )


def check(arguments: Arguments, *, gpus: int) -> None:
    """
    Raises:
        ArgumentError: see ``KTServerEngine.from_arguments``.
    """
    if not gpus or arguments.device == "cpu":
        raise ArgumentError(
            f"kt_num_gpu_experts={arguments.kt_num_gpu_experts} needs an NVIDIA GPU",
            why="sglang-kt serves with it, and does not start without CUDA; "
            + ("device=cpu was asked for" if gpus else "no GPU was found"),
            fix="leave kt_num_gpu_experts out: all experts are then computed on the CPU, in this process",
            argument="kt_num_gpu_experts",
        )
    if arguments.sglang_python is None and arguments.sglang_url is None:
        raise ArgumentError(
            "sglang_python is missing",
            why="sglang-kt is a fork of SGLang, in an environment of its own",
            fix="name the Python of the environment that sglang-kt is installed in",
            argument="sglang_python",
        )


def kt_options(arguments: Arguments, checkpoint: Path, *, cores: int, nodes: Sequence[int]) -> dict[str, Any]:
    """Fields of sglang-kt's ``ServerArgs`` beside SGLang's own; its command line has them as ``--kt-method`` and so on."""
    pools = arguments.kt_threadpool_count or len(arguments.kt_numa_nodes or nodes)
    options: dict[str, Any] = {
        "kt_method": arguments.kt_method or "BF16",
        "kt_weight_path": arguments.kt_weight_path or str(checkpoint),
        "kt_cpuinfer": arguments.kt_cpuinfer or max(pools, cores - 1),
        "kt_threadpool_count": pools,
        "kt_numa_nodes": list(arguments.kt_numa_nodes) if arguments.kt_numa_nodes else None,
        "kt_num_gpu_experts": arguments.kt_num_gpu_experts,
        "kt_max_deferred_experts_per_token": arguments.kt_max_deferred_experts_per_token,
        "chunked_prefill_size": arguments.kt_chunked_prefill_size,
    }
    return {name: value for name, value in options.items() if value is not None}
