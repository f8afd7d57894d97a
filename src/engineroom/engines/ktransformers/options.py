"""What the arguments and the machine say of how experts are computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engineroom import machine
from engineroom.config import Arguments
from engineroom.engines.ktransformers.converted import Converted
from engineroom.engines.ktransformers.methods import Method, method_called
from engineroom.errors import ArgumentError

_CHUNK = 512
"""Rows at once, unless kt_chunked_prefill_size says otherwise: what the batcher reads of prompts in one step."""


@dataclass(frozen=True, slots=True)
class Options:
    """
    Attributes:
        threads: altogether. One core is left to the thread that feeds them: they wait for each other without sleeping, and
            a call that took 0.5 ms with one thread on two cores took 20 with two.
        nodes: the NUMA node of each pool of threads.
        chunk: rows that a kernel takes at once.
        converted: the folder of converted experts, if they do not come from the checkpoint.
    """

    method: Method
    threads: int
    nodes: tuple[int, ...]
    chunk: int
    converted: Converted | None

    @classmethod
    def of(cls, arguments: Arguments) -> Options:
        """
        Raises:
            ArgumentError: the machine, or kt-kernel's build for it, lacks what they ask for.
        """
        _refuse(arguments)
        nodes = _nodes(arguments)
        converted = Converted.open(Path(arguments.kt_weight_path)) if arguments.kt_weight_path else None
        method = method_called(arguments.kt_method or (converted.method if converted else "BF16"))
        if converted:
            converted.check(method.name, len(nodes))
        threads = arguments.kt_cpuinfer or max(len(nodes), machine.cores() - 1)
        if threads < len(nodes):
            raise ArgumentError(
                f"kt_cpuinfer={threads} is too few for {len(nodes)} thread pools",
                fix="raise kt_cpuinfer, or lower kt_threadpool_count",
                argument="kt_cpuinfer",
            )
        return cls(method, threads, nodes, arguments.kt_chunked_prefill_size or _CHUNK, converted)


def _refuse(arguments: Arguments) -> None:
    if arguments.device_map:
        raise ArgumentError(
            "device_map is not supported by the ktransformers engine",
            why="the experts are on the CPU; the rest goes to one device",
            fix="leave device_map out, and name the device for the rest by device",
            argument="device_map",
        )
    if arguments.quantization_bit and arguments.device not in (None, "cpu"):
        raise ArgumentError(
            f"quantization_bit={arguments.quantization_bit} is not supported by the ktransformers engine on a GPU",
            why="bitsandbytes replaces layers while the model loads, and so do we",
            fix="leave quantization_bit out; kt_method says how experts are kept",
            argument="quantization_bit",
        )


def _nodes(arguments: Arguments) -> tuple[int, ...]:
    """kt-kernel ends the process if it is sent to a NUMA node that is not there."""
    there = machine.numa_nodes()
    given, count = arguments.kt_numa_nodes, arguments.kt_threadpool_count
    nodes = tuple(there[i % len(there)] for i in range(count or len(there))) if given is None else given
    if count is not None and len(nodes) != count:
        raise ArgumentError(
            f"kt_numa_nodes names {len(nodes)} nodes, and kt_threadpool_count={count}",
            why="each pool of threads is on one node",
            fix="leave one of the two out",
            argument="kt_numa_nodes",
        )
    absent = [str(node) for node in nodes if node not in there]
    if absent:
        raise ArgumentError(
            f"kt_numa_nodes names {', '.join(absent)}, which this machine does not have",
            why=f"its NUMA nodes: {', '.join(map(str, there))}",
            fix="leave kt_numa_nodes out to use them all",
            argument="kt_numa_nodes",
        )
    return nodes
