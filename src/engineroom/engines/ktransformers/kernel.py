"""One layer's experts in kt-kernel, and the threads that compute them.

kt-kernel's own ``KTMoEWrapper`` is not used. It keeps one pool of threads and one reader of weights for the whole
process, asks for pinned memory that only CUDA gives, prints, and its ``forward`` returns zeros without CUDA. What lies
under it (``kt_kernel_ext.moe``) has none of these faults. Two are left to this file: a call with more rows than were
announced writes past a buffer, so longer ones are divided; and C++ prints, so ``quiet``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engineroom.engines.ktransformers.methods import Method, library
from engineroom.engines.ktransformers.quiet import quiet
from engineroom.errors import EngineClosedError

_ROWS = 32
"""Buffers are made for a multiple of so many rows; the AMX kernels insist."""

_FP8_BLOCK = 128
_FP8_LARGEST = 448.0
"""The largest number of ``float8_e4m3fn``."""


@dataclass(frozen=True, slots=True)
class Shape:
    """
    Attributes:
        per_token: how many of the experts a token goes through.
        hidden: the model's width.
        inner: an expert's own width.
    """

    experts: int
    per_token: int
    hidden: int
    inner: int


@dataclass(frozen=True, slots=True)
class Weights:
    """A layer's experts: ``gate`` and ``up`` are [experts, inner, hidden], ``down`` is [experts, hidden, inner].

    Each expert's matrix is contiguous; the experts need not follow each other.
    """

    gate: Tensor
    up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """The same in a format of GGUF files: bytes, and ggml's name for the format of each."""

    gate: Tensor
    up: Tensor
    down: Tensor
    formats: tuple[str, str, str]


class Pool:
    """Threads that compute, on the given NUMA nodes, and the kernels that use them.

    Args:
        threads: altogether.
        nodes: one pool of threads for each of these NUMA nodes; each computes its part of every expert.
        chunk: rows that a kernel takes at once.
    """

    def __init__(self, threads: int, nodes: Sequence[int], chunk: int) -> None:
        self.nodes, self.chunk = tuple(nodes), chunk
        config = library.WorkerPoolConfig()
        config.subpool_count = len(nodes)
        config.subpool_numa_map = list(nodes)
        config.subpool_thread_count = [
            max(1, threads // len(nodes) + (i < threads % len(nodes))) for i in range(len(nodes))
        ]
        self._kernels: list[Kernel] = []
        with quiet():
            self._threads: Any = library.CPUInfer(config)

    def config(self, shape: Shape, layer: int, placed: Tensor) -> Any:
        """kt-kernel's description of a layer; ``placed`` [experts] tells which experts are on a GPU, and must live on."""
        config = library.moe.MOEConfig(
            shape.experts, shape.per_token, shape.hidden, shape.inner, placed.data_ptr()
        )
        config.layer_idx = layer
        config.pool = self._alive().backend_
        config.max_len = config.group_max_len = -(-self.chunk // _ROWS) * _ROWS
        config.m_block, config.group_min_len = 32, 10  # LLAMAFILE's, as upstream sets them
        return config

    def adopt(self, kernel: Kernel) -> None:
        self._kernels.append(kernel)

    def run(self, task: object) -> None:
        """Does one of kt-kernel's tasks, and waits for it. ``submit`` and ``sync`` need no CUDA stream."""
        threads = self._alive()
        try:
            threads.submit(task)
        finally:  # whatever interrupts this thread, the task reads and writes memory of ours
            threads.sync()

    def close(self) -> None:
        """Frees the kernels and ends the threads. Nothing may be computing."""
        if self._threads is None:
            return
        self._threads.sync()  # a thread that was killed left its task behind
        with quiet():
            for kernel in self._kernels:
                kernel.free()
            self._kernels = []
            self._threads = None

    def __del__(self) -> None:
        if getattr(self, "_threads", None) is not None:
            self.close()

    def _alive(self) -> Any:
        if self._threads is None:
            raise EngineClosedError("the experts' threads were ended", fix="make a new ChatModel")
        return self._threads


class Kernel:
    """A layer's experts, ready to compute.

    Attributes:
        dtype: of what goes in and comes out.
    """

    def __init__(self, pool: Pool, method: Method, shape: Shape, layer: int, dtype: torch.dtype) -> None:
        self._pool, self._method, self._shape, self.dtype = pool, method, shape, dtype
        self._placed = torch.zeros(shape.experts, dtype=torch.bool)
        self._config: Any = pool.config(shape, layer, self._placed)
        self._kept: list[Tensor] = []
        self._at_work: tuple[Tensor, ...] = ()  # lives on while C++ uses it, even if this thread is killed
        self._moe: Any = None

    @classmethod
    def of_weights(
        cls,
        pool: Pool,
        method: Method,
        shape: Shape,
        layer: int,
        weights: Weights,
        dtype: torch.dtype,
        save: Path | None = None,
    ) -> Kernel:
        """From a checkpoint's own weights, quantised as ``method`` says; AMXINT8 and AMXINT4 also write that to ``save``."""
        if method.name == "LLAMAFILE":
            format = "FP32" if weights.gate.dtype == torch.float32 else "FP16"
            packed = Packed(weights.gate, weights.up, weights.down, (format, format, format))
            return cls.of_packed(pool, method, shape, layer, packed, dtype)
        kernel = cls(pool, method, shape, layer, torch.bfloat16)
        config = kernel._config
        given = [weights.gate, weights.up, weights.down]
        if method.name.startswith("AMX"):
            given = [t.contiguous() for t in given]
            config.gate_proj, config.up_proj, config.down_proj = (t.data_ptr() for t in given)
            config.load, config.save = False, save is not None
            if save is not None:
                config.path = str(save)
        elif method.name == "FP8":
            pairs = [_to_fp8(t) for t in given]
            given = [t for pair in pairs for t in pair]
            quantized, scales = zip(*pairs, strict=True)
            config.gate_projs, config.up_projs, config.down_projs = map(_pointers, quantized)
            config.gate_scales, config.up_scales, config.down_scales = map(_pointers, scales)
            config.quant_config.bits, config.quant_config.group_size = 8, _FP8_BLOCK
            config.quant_config.zero_point = False
        else:
            config.gate_projs, config.up_projs, config.down_projs = map(_pointers, given)
            config.gate_scales = config.up_scales = config.down_scales = [[0] * shape.experts]
        kernel._make()  # copies the weights into a layout of its own
        return kernel

    @classmethod
    def of_files(cls, pool: Pool, method: Method, shape: Shape, layer: int, folder: Path) -> Kernel:
        """From what ``of_weights`` saved in ``folder``."""
        kernel = cls(pool, method, shape, layer, torch.bfloat16)
        kernel._config.load, kernel._config.path = True, str(folder)
        kernel._make()
        return kernel

    @classmethod
    def of_packed(
        cls, pool: Pool, method: Method, shape: Shape, layer: int, packed: Packed, dtype: torch.dtype
    ) -> Kernel:
        """From the formats of GGUF files. With one pool of threads kt-kernel computes on these very bytes."""
        dtype = torch.float32 if dtype == torch.float32 else torch.bfloat16
        kernel = cls(pool, method, shape, layer, dtype)
        config, types = kernel._config, library.kvcache.ggml_type
        given = [t.contiguous() for t in (packed.gate, packed.up, packed.down)]
        config.gate_proj, config.up_proj, config.down_proj = (t.data_ptr() for t in given)
        config.gate_type, config.up_type, config.down_type = (getattr(types, f) for f in packed.formats)
        config.hidden_type = types.FP32 if dtype == torch.float32 else types.BF16
        kernel._make()
        if len(pool.nodes) == 1:
            kernel._kept = given
        return kernel

    def _make(self) -> None:
        order = torch.arange(self._shape.experts, dtype=torch.int64)
        with quiet():
            self._moe = self._method.kernel(self._config)
            self._pool.run(self._moe.load_weights_task(order.data_ptr()))
        self._config = None
        self._pool.adopt(self)

    def free(self) -> None:
        self._moe = None
        self._kept = []
        self._at_work = ()

    def __call__(self, rows: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of what the chosen experts make of each row.

        Args:
            rows: [rows, hidden] in ``dtype``.
            experts: [rows, per_token] int64.
            weights: [rows, per_token] float32.

        Returns:
            [rows, hidden] in ``dtype``.
        """
        if self._moe is None:
            raise EngineClosedError("the experts were freed", fix="make a new ChatModel")
        if experts.shape[1] > self._shape.per_token:
            raise ValueError(
                f"{experts.shape[1]} experts for a token, and buffers for {self._shape.per_token}"
            )
        out = torch.empty_like(rows)
        self._at_work = experts, weights, rows, out
        for start in range(0, len(rows), self._pool.chunk):
            part = slice(start, start + self._pool.chunk)
            self._count = torch.tensor([len(rows[part])], dtype=torch.int32)
            addresses = (t[part].data_ptr() for t in self._at_work)
            self._pool.run(
                self._moe.forward_task(self._count.data_ptr(), experts.shape[1], *addresses, False)
            )
        return out


def _pointers(experts: Tensor) -> list[list[int]]:
    """The address of each expert's matrix; the outer list is for NUMA nodes, of which weights without parts have one."""
    return [[expert.data_ptr() for expert in experts]]


def _to_fp8(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks of 128 × 128 with a scale each, as DeepSeek-V3 has them: float8_e4m3fn of the same shape, and fp32 scales."""
    experts, rows, columns = weights.shape
    blocks = weights.float().reshape(
        experts, rows // _FP8_BLOCK, _FP8_BLOCK, columns // _FP8_BLOCK, _FP8_BLOCK
    )
    scales = blocks.abs().amax((2, 4), keepdim=True).clamp_min(1e-12) / _FP8_LARGEST
    quantized = (blocks / scales).to(torch.float8_e4m3fn).reshape(weights.shape)
    return quantized, scales.view(experts, rows // _FP8_BLOCK, columns // _FP8_BLOCK).contiguous()
