"""Does the model fit the memory that is free here?"""

from __future__ import annotations

from dataclasses import dataclass

from engineroom import machine
from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments
from engineroom.doctor.engines import is_expert
from engineroom.doctor.finding import Finding, problem, warning
from engineroom.doctor.shape import Shape
from engineroom.doctor.weights import Weights

_RUNTIME = 400 << 20
"""Python, torch and transformers themselves: 370 MiB measured with the shipped model (torch 2.13.0, CPU)."""

_DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Fit:
    """Memory needed and free, in bytes.

    Attributes:
        where: the memory that the weights go to.
        dtype: of weights and cache, as loaded.
        free: None if this system does not tell.
        kv_cache: of one conversation that fills the context; None if the config does not tell.
        context_length: tokens of prompt and answer together.
        tokens: how many tokens' cache fits beside the weights, at most the context; None if not known.
    """

    where: str
    dtype: str
    free: int | None
    weights: int
    runtime: int
    kv_cache: int | None
    context_length: int | None
    tokens: int | None

    @property
    def needed(self) -> int:
        return self.weights + self.runtime + (self.kv_cache or 0)

    @property
    def fits(self) -> bool | None:
        """With a full context; None if it can't be told."""
        return None if self.free is None or not self.weights else self.needed <= self.free


_EXPERT_BYTES = {"BF16": 2.0, "AMXINT8": 1.0, "FP8": 1.0, "AMXINT4": 0.5}
"""KTransformers: of one number; their scales are few."""


def fit(arguments: Arguments, checkpoint: Checkpoint, weights: Weights) -> tuple[Fit, list[Finding]]:
    """Weighs the model, in the dtype that it would be loaded in, against the memory it would be loaded into."""
    dtype = _dtype(arguments, checkpoint, weights)
    per_value = _DTYPE_BYTES.get(dtype, 2)
    where, free, runtime = _place(arguments)
    context = arguments.model_maxlen or checkpoint.context_length
    shape = Shape.of(checkpoint.text_config)
    taken = _weight_bytes(arguments, checkpoint, weights, per_value)
    cache = shape.kv_cache_bytes(context, per_value) if shape and context else None
    tokens = None
    if shape and context and free is not None:
        room = shape.tokens_in(free - taken - runtime, per_value)
        tokens = context if room is None else min(context, room)
    result = Fit(where, dtype, free, taken, runtime, cache, context, tokens)
    return result, list(_findings(result, arguments))


def _dtype(arguments: Arguments, checkpoint: Checkpoint, weights: Weights) -> str:
    """``auto`` is the config's dtype, or else that of the weights (Transformers' ``dtype="auto"``)."""
    if arguments.infer_dtype != "auto":
        return arguments.infer_dtype
    return (checkpoint.dtype or weights.dtype or "float32").removeprefix("torch.")


def _weight_bytes(arguments: Arguments, checkpoint: Checkpoint, weights: Weights, per_value: int) -> int:
    if arguments.quantization_bit and weights.parameters:
        return weights.parameters * arguments.quantization_bit // 8
    if checkpoint.config.get("quantization_config"):
        return weights.bytes
    if arguments.infer_backend == "ktransformers" and weights.tensors:
        each = _EXPERT_BYTES.get(arguments.kt_method or "BF16", per_value)
        experts = sum(t.parameters for t in weights.tensors if is_expert(t.name))
        return int(experts * each) + (weights.float_parameters - experts) * per_value + weights.other_bytes
    if weights.parameters is not None:
        return weights.float_parameters * per_value + weights.other_bytes
    stored = _DTYPE_BYTES.get(str(checkpoint.dtype).removeprefix("torch."), per_value)
    return weights.bytes * per_value // stored


def _place(arguments: Arguments) -> tuple[str, int | None, int]:
    """The memory that the weights go to, what is free of it, and what the libraries take of it."""
    memory = machine.memory()
    main = memory.free if memory else None
    gpus = machine.gpus() if arguments.device is None or arguments.device.startswith("cuda") else ()
    if not gpus:
        limited = " (limited by a control group)" if memory and memory.limited else ""
        return f"main memory{limited}", main, _RUNTIME
    if arguments.device_map is not None:
        free = sum(gpu.memory_free for gpu in gpus)
        return f"{len(gpus)} GPUs and main memory", free + (main or 0), 2 * _RUNTIME
    wanted = int((arguments.device or "cuda:0").partition(":")[2] or 0)
    gpu = next((g for g in gpus if g.index == wanted), gpus[0])
    return f"GPU {gpu.index}, {gpu.name}", gpu.memory_free, _RUNTIME


def _findings(fit: Fit, arguments: Arguments) -> list[Finding]:
    if fit.free is None or fit.fits is not False:
        return []
    if fit.weights + fit.runtime > fit.free:
        return [problem(
            f"the weights need {_gib(fit.weights)} in {fit.dtype}; {fit.where} has {_gib(fit.free)} free",
            f"another {_gib(fit.runtime)} goes to the libraries, and the conversation needs some, too",
            _smaller(fit, arguments),
        )]  # fmt: skip
    return [warning(
        f"a full context of {fit.context_length} tokens does not fit: {_gib(fit.needed)} in all, "
        f"{_gib(fit.free)} free",
        f"the cache of about {fit.tokens} tokens fits beside the weights; longer conversations may run out of memory",
        f"add model_maxlen={max(1, fit.tokens or 1)}" if fit.tokens else "free some memory",
    )]  # fmt: skip


def _smaller(fit: Fit, arguments: Arguments) -> str:
    if fit.dtype in ("float32", "float64") and fit.weights // 2 + fit.runtime <= (fit.free or 0):
        return "add infer_dtype=bfloat16, which halves the weights"
    if machine.gpus() and arguments.quantization_bit is None and fit.weights // 4 < (fit.free or 0):
        return "add quantization_bit=4, or device_map=auto to spread the model over all devices"
    return "free some memory, use a bigger machine, or name a smaller model"


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"
