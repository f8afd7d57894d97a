"""Our arguments as SGLang's server arguments. Pure: what is known of the machine is handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from engineroom.checkpoint import Checkpoint, CheckpointKind
from engineroom.config import Arguments
from engineroom.engines import sizes
from engineroom.engines.adapter_folder import AdapterFolder
from engineroom.engines.honoured import check_honoured
from engineroom.errors import ArgumentError

MAX_REQUESTS = 256
CPU_MAX_REQUESTS = 64
"""Requests that SGLang runs side by side, unless ``sglang_config`` says otherwise."""

SPARE_CONTEXT = 16
"""SGLang takes prompts that are a few tokens shorter than its context; ours may fill it."""

_CPU_CACHE_LIMIT = 4 << 30
_LEAST_RANK = 64
_LEAST_ROOM = 8
_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

RESERVED: Mapping[str, str] = MappingProxyType(
    {
        "model_path": "model_name_or_path",
        "tokenizer_path": "",
        "skip_tokenizer_init": "",
        "is_embedding": "stage",
        "dtype": "infer_dtype",
        "device": "device",
        "trust_remote_code": "trust_remote_code",
        "context_length": "sglang_maxlen",
        "mem_fraction_static": "sglang_mem_fraction",
        "tp_size": "sglang_tp_size",
        "lora_backend": "sglang_lora_backend",
        "enable_lora": "enable_lora",
        "lora_paths": "adapter_name_or_path",
        "host": "",
        "port": "",
        "api_key": "",
        "admin_api_key": "",
        "incremental_streaming_output": "",
        "skip_server_warmup": "",
        "grammar_backend": "",
        "preferred_sampling_params": "",
    }
)
"""Server arguments that engineroom sets itself → the argument to use instead; empty where there is none."""

_OF_OTHER_ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "device_map": "to spread a model: sglang_tp_size=2",
        "flash_attn": 'to choose: sglang_config={"attention_backend": "fa3"}',
        "rope_scaling": 'to stretch the context: sglang_config={"json_model_override_args": "…"}',
        "quantization_bit": 'to quantise on loading: sglang_config={"quantization": "fp8"}',
        "use_kv_cache": "SGLang always keeps keys and values",
    }
)
"""Arguments that other engines read and SGLang could not honour → what to do instead."""


def check_arguments(arguments: Arguments) -> None:
    """
    Raises:
        ArgumentError: an argument that this engine would have to ignore.
    """
    check_honoured(arguments, "sglang", foreign=_OF_OTHER_ENGINES, reserved=RESERVED)
    if arguments.device == "mps":
        raise ArgumentError("the sglang engine does not run on mps", fix="device=cpu", argument="device")
    if arguments.sglang_url is not None:
        _check_url(arguments)


def _check_url(arguments: Arguments) -> None:
    """Nothing of a server that runs already can be set from here."""
    given = arguments.model_fields_set
    for name in (
        *("sglang_python", "sglang_config", "sglang_maxlen", "sglang_mem_fraction", "sglang_tp_size"),
        *("sglang_lora_backend", "model_maxlen", "device", "infer_dtype", "enable_lora"),
        # kt_num_gpu_experts stays: it says that the server is sglang-kt's.
        *("kt_method", "kt_weight_path", "kt_cpuinfer", "kt_threadpool_count", "kt_numa_nodes"),
        *("kt_max_deferred_experts_per_token", "kt_chunked_prefill_size"),
    ):
        if name in given and getattr(arguments, name) is not None:
            raise ArgumentError(
                f"{name} can't be combined with sglang_url",
                why="the server at sglang_url has been started already, with arguments of its own",
                fix=f"leave {name} out, or start the server with it",
                argument=name,
            )
    if not arguments.sglang_url or not arguments.sglang_url.startswith(("http://", "https://")):
        raise ArgumentError(
            f"sglang_url={arguments.sglang_url!r} is not an address",
            why="it begins with http:// or https://",
            argument="sglang_url",
        )


def max_requests(arguments: Arguments, *, cpu: bool) -> int:
    given: object = (arguments.sglang_config or {}).get("max_running_requests")
    if isinstance(given, int) and given > 0:
        return given
    return CPU_MAX_REQUESTS if cpu else MAX_REQUESTS


def context_length(arguments: Arguments, checkpoint: Checkpoint) -> int:
    """
    Raises:
        ArgumentError: more was asked for than the model has.
    """
    stretched = "json_model_override_args" in (arguments.sglang_config or {})
    return sizes.context_length(arguments, checkpoint, "sglang_maxlen", stretched=stretched)


def server_options(
    arguments: Arguments,
    checkpoint: Checkpoint,
    kind: CheckpointKind,
    adapters: Sequence[AdapterFolder],
    *,
    gpus: int,
) -> dict[str, Any]:
    """Fields of SGLang's ``ServerArgs``, less host, port and key.

    Args:
        adapters: those of the start.
        gpus: how many there are; with none, or ``device=cpu``, it runs on the CPU.
    """
    cpu = runs_on_cpu(arguments, gpus)
    options: dict[str, Any] = {
        "model_path": str(checkpoint.path),
        "trust_remote_code": arguments.trust_remote_code,
        "dtype": arguments.infer_dtype
        if arguments.infer_dtype != "auto"
        else sizes.stored_dtype(checkpoint) or "auto",
        "context_length": context_length(arguments, checkpoint) + SPARE_CONTEXT,
        "max_running_requests": max_requests(arguments, cpu=cpu),
        "is_embedding": kind != "causal",
        # Its grammars need the tokenizer; prompts and answers go as ids all the same.
        "skip_tokenizer_init": kind != "causal",
        "incremental_streaming_output": True,
        "skip_server_warmup": True,
        # With it, penalties would learn of each token one step late: SGLang takes the last one from what the CPU has seen.
        "disable_overlap_schedule": True,
        "device": "cpu" if cpu else "cuda",
        "tp_size": (gpus if arguments.sglang_tp_size < 1 else arguments.sglang_tp_size) if not cpu else 1,
    }
    if kind == "causal":
        options["grammar_backend"] = "xgrammar"
    if cpu:
        options |= _cpu_options(arguments, checkpoint, options)
    else:
        options["mem_fraction_static"] = arguments.sglang_mem_fraction
        if arguments.device and ":" in arguments.device:
            options["base_gpu_id"] = int(arguments.device.partition(":")[2])
            options["tp_size"] = max(arguments.sglang_tp_size, 1)
    if has_lora(arguments):
        options |= _lora_options(arguments, adapters, cpu=cpu)
    return {**options, **(arguments.sglang_config or {})}


def runs_on_cpu(arguments: Arguments, gpus: int) -> bool:
    return arguments.device == "cpu" or (arguments.device is None and not gpus)


def _cpu_options(arguments: Arguments, checkpoint: Checkpoint, options: Mapping[str, Any]) -> dict[str, Any]:
    """Plain torch, and a cache as large as its requests can fill, instead of a share of all memory."""
    cpu: dict[str, Any] = {
        "attention_backend": "torch_native",
        "sampling_backend": "pytorch",
        "disable_cuda_graph": True,
        "sleep_on_idle": True,  # its scheduler turns in circles otherwise, and takes a core from the others
        "mem_fraction_static": 0.2,
    }
    if "sglang_mem_fraction" in arguments.model_fields_set:
        return {**cpu, "mem_fraction_static": arguments.sglang_mem_fraction}
    tokens: int = options["context_length"] * options["max_running_requests"]
    size = sizes.cache_bytes(checkpoint, 1, options["dtype"])
    fitting = _CPU_CACHE_LIMIT // size if size else 1 << 16
    return {**cpu, "max_total_tokens": min(tokens, max(fitting, 2 * options["context_length"]))}


def has_lora(arguments: Arguments) -> bool:
    return arguments.enable_lora or bool(arguments.adapter_name_or_path)


def _lora_options(arguments: Arguments, adapters: Sequence[AdapterFolder], *, cpu: bool) -> dict[str, Any]:
    """Room for adapters that are loaded later, too: any number, of the usual modules and ranks."""
    named: set[str] = set()
    for adapter in adapters:
        modules: object = adapter.config.get("target_modules")
        if isinstance(modules, list):
            named |= {str(module).rpartition(".")[2] for module in cast("list[object]", modules)}
    default = cpu and "sglang_lora_backend" not in arguments.model_fields_set
    return {
        "enable_lora": True,
        "max_lora_rank": max([_LEAST_RANK, *(adapter.rank for adapter in adapters)]),
        "max_loras_per_batch": max(len(adapters) + 1, _LEAST_ROOM),  # no adapter takes a place, too
        "lora_target_modules": sorted({*_LINEARS, *named}),
        "lora_backend": "torch_native" if default else arguments.sglang_lora_backend,
    }
