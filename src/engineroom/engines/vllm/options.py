"""Our arguments as vLLM's engine arguments. Pure: the fields that vLLM knows are handed in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from engineroom.checkpoint import Checkpoint, CheckpointKind
from engineroom.config import Arguments
from engineroom.engines import sizes
from engineroom.engines.honoured import check_honoured
from engineroom.engines.sizes import cache_bytes
from engineroom.engines.sizes import head_size as head_size
from engineroom.errors import ArgumentError, nearest, shown
from engineroom.params import MAX_TOP_LOGPROBS

MAX_SEQUENCES = 256
CPU_MAX_SEQUENCES = 64
"""Requests that vLLM runs side by side, unless ``vllm_config`` says otherwise."""

_CPU_CACHE_LIMIT = 4 << 30
FURTHER_ADAPTERS = 4
"""Room for adapters that are loaded later, with ``enable_lora``, unless ``vllm_config`` says otherwise."""

_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

RESERVED: Mapping[str, str] = MappingProxyType(
    {
        "model": "model_name_or_path",
        "tokenizer": "model_name_or_path",
        "skip_tokenizer_init": "",
        "structured_outputs_config": "",
        "runner": "stage",
        "convert": "stage",
        "pooler_config": "stage",
        "dtype": "infer_dtype",
        "trust_remote_code": "trust_remote_code",
        "max_model_len": "vllm_maxlen",
        "gpu_memory_utilization": "vllm_gpu_util",
        "enforce_eager": "vllm_enforce_eager",
        "enable_lora": "enable_lora",
        "max_lora_rank": "vllm_max_lora_rank",
        "generation_config": "",
        "logprobs_mode": "",
        "max_logprobs": "",
    }
)
"""Engine arguments that engineroom sets itself → the argument to use instead; empty where there is none."""

_OF_OTHER_ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "device": "vLLM runs on the device that it was built for; CUDA_VISIBLE_DEVICES chooses among several",
        "device_map": 'to spread a model: vllm_config={"tensor_parallel_size": 2}',
        "flash_attn": 'to choose: vllm_config={"attention_backend": "FLASH_ATTN"}',
        "rope_scaling": 'to stretch the context: vllm_config={"hf_overrides": {"rope_parameters": {…}}}',
        "quantization_bit": 'to quantise on loading: vllm_config={"quantization": "bitsandbytes"}',
        "use_kv_cache": "vLLM always keeps keys and values",
    }
)
"""Arguments that other engines read and vLLM could not honour → what to do instead."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What vLLM says of itself and its device.

    Attributes:
        fields: the names of its engine arguments.
        head_sizes: sizes of an attention head that its kernels take; empty if it has no such list.
    """

    cpu: bool
    fields: Collection[str]
    head_sizes: Collection[int] = ()


def check_arguments(arguments: Arguments) -> None:
    """
    Raises:
        ArgumentError: an argument that this engine would have to ignore.
    """
    check_honoured(arguments, "vllm", foreign=_OF_OTHER_ENGINES, reserved=RESERVED)
    if "max_loras" in (arguments.vllm_config or {}) and not has_lora(arguments):
        raise ArgumentError(
            "vllm_config.max_loras makes no sense here",
            why="it is how many adapters there may be at once, and there are none",
            fix="add enable_lora=true, or adapter_name_or_path",
            argument="vllm_config",
        )


def has_lora(arguments: Arguments) -> bool:
    return arguments.enable_lora or bool(arguments.adapter_name_or_path)


def adapter_room(arguments: Arguments) -> int:
    """How many adapters there may be at once.

    Raises:
        ArgumentError: those of ``adapter_name_or_path`` are more than ``vllm_config`` allows.
    """
    given = len(arguments.adapter_name_or_path)
    room: object = (arguments.vllm_config or {}).get("max_loras")
    if room is None:
        return given + (FURTHER_ADAPTERS if arguments.enable_lora else 0)
    if not isinstance(room, int) or isinstance(room, bool) or room < max(given, 1):
        raise ArgumentError(
            f"vllm_config.max_loras={shown(room)} is not allowed",
            why=f"allowed: an integer of at least {max(given, 1)}; there are {given} adapters at the start",
            argument="vllm_config",
        )
    return room


def max_sequences(arguments: Arguments, *, cpu: bool) -> int:
    given: object = (arguments.vllm_config or {}).get("max_num_seqs")
    if isinstance(given, int) and given > 0:
        return given
    return CPU_MAX_SEQUENCES if cpu else MAX_SEQUENCES


def context_length(arguments: Arguments, checkpoint: Checkpoint) -> int:
    """
    Raises:
        ArgumentError: more was asked for than the model has.
    """
    stretched = "hf_overrides" in (arguments.vllm_config or {})
    return sizes.context_length(arguments, checkpoint, "vllm_maxlen", stretched=stretched)


def engine_options(
    arguments: Arguments, checkpoint: Checkpoint, kind: CheckpointKind, platform: Platform
) -> dict[str, Any]:
    """Keyword arguments of ``AsyncEngineArgs``, less those of pooling and logging.

    Raises:
        ArgumentError: ``vllm_config`` holds a name that vLLM does not know.
    """
    further = arguments.vllm_config or {}
    for name in further:
        if name not in platform.fields or name.startswith("_"):
            guess = nearest(name, platform.fields)
            raise ArgumentError(
                f"vllm_config has an unknown engine argument {name!r}",
                why="vLLM's EngineArgs has no such field",
                fix=f"did you mean {guess}?" if guess else "leave it out",
                argument="vllm_config",
            )
    length = context_length(arguments, checkpoint)
    options: dict[str, Any] = {
        "model": str(checkpoint.path),
        # Its grammars need the tokenizer; prompts and answers go as ids all the same.
        "skip_tokenizer_init": kind != "causal",
        "trust_remote_code": arguments.trust_remote_code,
        "dtype": _dtype(arguments, checkpoint),
        "max_model_len": length,
        "max_num_seqs": max_sequences(arguments, cpu=platform.cpu),
        "enforce_eager": _eager(arguments, platform),
        "generation_config": "vllm",
        "logprobs_mode": "raw_logprobs",
        "max_logprobs": MAX_TOP_LOGPROBS,
        "disable_log_stats": True,
        "runner": "generate" if kind == "causal" else "pooling",
    }
    if kind == "causal":
        options["enable_prefix_caching"] = True
        options["structured_outputs_config"] = {
            "backend": "xgrammar"
        }  # "auto" would try others, of other languages
    if platform.cpu:
        options |= _cpu_options(arguments, checkpoint, options)
    else:
        options["gpu_memory_utilization"] = arguments.vllm_gpu_util
    if has_lora(arguments):
        rank = next((rank for rank in _LORA_RANKS if rank >= arguments.vllm_max_lora_rank), _LORA_RANKS[-1])
        # One more than there may be: with as many, vLLM 0.32 on a CPU gave a request without an adapter the last one's
        # weights when both were in one batch (logits 8 off; none with the spare one).
        options |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": adapter_room(arguments) + 1}
        further = {name: value for name, value in further.items() if name != "max_loras"}
    return {**options, **further}


def _dtype(arguments: Arguments, checkpoint: Checkpoint) -> str:
    """vLLM's ``auto`` makes 16 bits of float32; ours is the checkpoint's own type."""
    if arguments.infer_dtype != "auto":
        return arguments.infer_dtype
    return sizes.stored_dtype(checkpoint) or "auto"


def _eager(arguments: Arguments, platform: Platform) -> bool:
    """On a CPU, compiling takes a minute and a C++ compiler and gains little: it is done if asked for by name."""
    if "vllm_enforce_eager" in arguments.model_fields_set:
        return arguments.vllm_enforce_eager
    return platform.cpu


def _cpu_options(arguments: Arguments, checkpoint: Checkpoint, options: Mapping[str, Any]) -> dict[str, Any]:
    """A cache as large as its requests can fill, instead of a share of all memory; no second process; whole prompts.

    Raises:
        ArgumentError: layers are to be spread over processes; or prompts to be divided. vLLM 0.32 then rewinds the random generator of a request with a seed
            (``GPUModelRunner._bookkeeping_sync``), which a CPU's can't, and the engine dies of it.
    """
    further = arguments.vllm_config or {}
    if further.get("enable_chunked_prefill"):
        raise ArgumentError(
            "vllm_config enable_chunked_prefill=true is not supported on a CPU",
            why="vLLM's engine would die of the first request with a seed whose prompt it divides",
            fix="leave enable_chunked_prefill out",
            argument="vllm_config",
        )
    if further.get("pipeline_parallel_size", 1) != 1:
        raise ArgumentError(
            "vllm_config pipeline_parallel_size is not supported on a CPU",
            why="vLLM 0.32's engine dies of its first request so",
            fix='use {"tensor_parallel_size": …}',
            argument="vllm_config",
        )
    cpu: dict[str, Any] = {"enable_chunked_prefill": False} if options["runner"] == "generate" else {}
    parallel = any(further.get(f"{kind}_parallel_size", 1) != 1 for kind in ("tensor", "pipeline", "data"))
    if not parallel:
        cpu["distributed_executor_backend"] = "uni"
    if "vllm_gpu_util" in arguments.model_fields_set:
        cpu["gpu_memory_utilization"] = arguments.vllm_gpu_util
    else:
        tokens: int = options["max_model_len"] * options["max_num_seqs"]
        # A page of slack for each request: vLLM counts in blocks.
        wanted = cache_bytes(checkpoint, tokens + 128 * options["max_num_seqs"], options["dtype"])
        least = cache_bytes(checkpoint, options["max_model_len"] + 256, options["dtype"])
        cpu["kv_cache_memory_bytes"] = max(min(wanted or _CPU_CACHE_LIMIT, _CPU_CACHE_LIMIT), least or 0)
    return cpu
