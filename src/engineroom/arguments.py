"""The arguments: their names, types, ranges and meanings. The table that everything else reads.

The names are LLaMA-Factory's where it has one. Sampling arguments default to None, which means "what the model's own
generation_config.json says".
"""

from __future__ import annotations

import json
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from engineroom.params import SamplingParams


def _split_commas(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _one_or_many(value: Any) -> Any:
    """YAML has lists, command lines one word: ``stop: END`` and ``stop: [END, STOP]`` both do."""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _gibibytes(value: Any) -> Any:
    """``2GiB`` and ``512MiB`` beside plain numbers."""
    if not isinstance(value, str):
        return value
    number, unit = value.strip().removesuffix("iB"), 1.0
    if number[-1:] in _UNITS:
        number, unit = number[:-1], _UNITS[number[-1]]
    try:
        return float(number) * unit
    except ValueError:
        return value


_UNITS = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2.0**10}


def _json_object(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return json.loads(value)
    return value


Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
Gibibytes: TypeAlias = Annotated[float | None, BeforeValidator(_gibibytes)]
Options: TypeAlias = Annotated[dict[str, Any] | None, BeforeValidator(_json_object)]


class Arguments(BaseModel):
    """Everything that an engine, a prompt and an answer can be told. Frozen; unknown names are refused.

    The names are LLaMA-Factory's where it has one. ``help`` texts are the source of the documentation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    # --- the model --------------------------------------------------------------------------------------------
    model_name_or_path: str = Field(
        "demo",
        min_length=1,
        description="A folder, a hub repository, or a shipped model: demo, demo-moe, demo-reward.",
    )
    adapter_name_or_path: Names = Field((), description="LoRA adapters, in order; commas separate several.")
    adapter_folder: str | None = Field(None, description="A folder in which the adapters lie.")
    adapter_merge: bool = Field(
        True,
        description="Merge the adapters into the weights, in order. False keeps them apart, chosen per request.",
    )
    cache_dir: str | None = Field(None, description="Where downloaded models are kept.")
    model_revision: str = Field("main", description="Branch, tag or commit of a hub repository.")
    hf_hub_token: str | None = Field(None, description="Token for private hub repositories.", repr=False)
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")
    use_fast_tokenizer: bool = Field(True, description="Use the Rust tokenizer where the model has one.")
    enable_lora: bool = Field(
        False,
        description="vLLM, SGLang: make room for adapters loaded while it runs; other engines need none.",
    )
    stage: Literal["sft", "rm", "embed"] | None = Field(
        None,
        description="sft generates, rm scores, embed makes vectors; None decides by the checkpoint.",
    )
    finetuning_type: Literal["lora", "oft", "full", "freeze"] | None = Field(
        None,
        description="How the model was tuned. Only checked: lora and oft go with adapters, full and freeze do not.",
    )

    # --- the engine -------------------------------------------------------------------------------------------
    infer_backend: str = Field(
        "huggingface", min_length=1, description="The engine; `engineroom env` lists them."
    )
    infer_dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        "auto", description="Type of weights and activations; auto is the checkpoint's own."
    )
    max_concurrent: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Requests in the engine at once; None is what it batches. Env: MAX_CONCURRENT.",
    )
    max_queue: int = Field(
        1024, ge=0, le=1_000_000, description="Requests that may wait; more get EngineBusyError."
    )

    # --- huggingface ------------------------------------------------------------------------------------------
    device: str | None = Field(
        None,
        pattern=r"^(cpu|mps|cuda(:\d+)?)$",
        description="cpu, mps, cuda or cuda:N; None takes the best found.",
    )
    device_map: str | dict[str, int | str] | None = Field(
        None, description="auto, balanced, sequential, or a map from module to device, to spread one model."
    )
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2", "fa3"] = Field(
        "auto", description="Attention implementation; disabled is the eager one."
    )
    rope_scaling: Literal["linear", "dynamic", "yarn", "llama3"] | None = Field(
        None, description="Stretch the context by scaling rotary embeddings; needs model_maxlen."
    )
    model_maxlen: int | None = Field(
        None,
        ge=1,
        description="Context length, tokens of prompt and answer together; None is the model's own.",
    )
    quantization_bit: Literal[4, 8] | None = Field(
        None,
        description="Quantise on loading: 4 or 8 with bitsandbytes (CUDA), 8 with torch's int8 on a CPU.",
    )
    quantization_method: Literal["bnb"] = Field("bnb", description="Library for quantisation on loading.")
    quantization_type: Literal["fp4", "nf4"] = Field("nf4", description="4-bit number format.")
    double_quantization: bool = Field(True, description="Quantise the 4-bit constants too.")
    quantization_device_map: Literal["auto"] | None = Field(
        None, description="Device map of the 4-bit model."
    )
    offload_folder: str = Field("offload", description="Where device_map puts weights that fit nowhere else.")
    use_kv_cache: bool = Field(True, description="Keep keys and values between steps; False recomputes them.")
    hf_kv_cache_memory: Gibibytes = Field(
        None,
        gt=0,
        description="Memory for keys and values: GiB, or text such as 512MiB. None is a share of what is free.",
    )
    low_cpu_mem_usage: Literal[True] = Field(
        True, description="Load weights without a second copy; always so."
    )

    # --- other engines: read by the engine that they name -----------------------------------------------------
    vllm_maxlen: int = Field(4096, ge=1, description="vLLM: context length.")
    vllm_gpu_util: float = Field(0.7, gt=0, le=1, description="vLLM: share of GPU memory to use.")
    vllm_enforce_eager: bool = Field(False, description="vLLM: no CUDA graphs.")
    vllm_max_lora_rank: int = Field(32, ge=1, description="vLLM: largest rank of any adapter.")
    vllm_config: Options = Field(None, description="vLLM: further engine arguments, an object.")
    vllm_python: str | None = Field(
        None,
        min_length=1,
        description="vLLM: the interpreter of another Python environment to run it in; None is this one.",
    )
    sglang_maxlen: int = Field(4096, ge=1, description="SGLang: context length.")
    sglang_mem_fraction: float = Field(0.7, gt=0, le=1, description="SGLang: share of memory to use.")
    sglang_tp_size: int = Field(-1, ge=-1, description="SGLang: tensor parallel size; -1 takes all devices.")
    sglang_python: str | None = Field(
        None,
        min_length=1,
        description="SGLang: its Python; None takes the one of `engineroom env install sglang`, or this one.",
    )
    sglang_url: str | None = Field(
        None, min_length=1, description="SGLang: a server that runs already, instead of starting one."
    )
    sglang_config: Options = Field(None, description="SGLang: further server arguments, an object.")
    sglang_lora_backend: str = Field(
        "triton", description="SGLang: kernels for LoRA; torch_native on a CPU unless given."
    )
    kt_method: str | None = Field(
        None,
        min_length=1,
        description="KTransformers: how experts are kept: BF16 (the default), AMXINT8, AMXINT4, FP8 or LLAMAFILE.",
    )
    kt_weight_path: str | None = Field(
        None,
        min_length=1,
        description="KTransformers: folder of converted experts, of `engineroom convert-experts` or GGUF files.",
    )
    kt_cpuinfer: int | None = Field(
        None,
        ge=1,
        description="KTransformers: threads that compute experts; None is one less than there are cores.",
    )
    kt_threadpool_count: int | None = Field(
        None, ge=1, description="KTransformers: pools of threads; None is one for each NUMA node."
    )
    kt_numa_nodes: Annotated[tuple[int, ...] | None, BeforeValidator(_split_commas)] = Field(
        None,
        min_length=1,
        description="KTransformers: the NUMA node of each pool; None takes one after another.",
    )
    kt_num_gpu_experts: int | None = Field(
        None,
        ge=0,
        description="KTransformers: experts of each layer on the GPU, served by sglang-kt; None runs in this process.",
    )
    kt_max_deferred_experts_per_token: int | None = Field(
        None,
        ge=0,
        description="KTransformers, with kt_num_gpu_experts: experts that may be computed a layer late.",
    )
    kt_chunked_prefill_size: int | None = Field(
        None, ge=1, description="KTransformers: tokens that an expert layer takes at once; None is 512."
    )

    # --- the prompt -------------------------------------------------------------------------------------------
    template: str | None = Field(
        None, min_length=1, description="A Jinja file, `chatml`, or None for the model's own chat template."
    )
    default_system: str | None = Field(None, description="System prompt for conversations that bring none.")
    enable_thinking: bool | None = Field(
        None,
        description="Think before answering, where the template has the switch; None is the template's default.",
    )

    # --- the answer: None is the model's own default ----------------------------------------------------------
    do_sample: bool | None = Field(None, description="False is temperature 0.")
    temperature: float | None = Field(
        None, description="Sharpness of sampling; 0 always takes the likeliest token."
    )
    top_p: float | None = Field(
        None, description="Keep the likeliest tokens that reach this probability, (0, 1]."
    )
    top_k: int | None = Field(None, description="Keep this many likeliest tokens; 0 or -1 keeps all.")
    min_p: float | None = Field(None, description="Drop tokens below this share of the likeliest, [0, 1].")
    repetition_penalty: float | None = Field(None, description="Above 1 discourages tokens already seen.")
    presence_penalty: float | None = Field(
        None, description="Subtracted once from tokens already answered, [-2, 2]."
    )
    frequency_penalty: float | None = Field(
        None, description="Subtracted for each earlier occurrence, [-2, 2]."
    )
    logit_bias: Annotated[dict[int, float] | None, BeforeValidator(_json_object)] = Field(
        None, description="Token id → added to its logit, [-100, 100]."
    )
    seed: int | None = Field(None, description="Makes sampling repeatable.")
    n: int | None = Field(None, description="Answers per request.")
    max_new_tokens: int | None = Field(None, description="Limit on the answer, tokens.")
    max_length: int | None = Field(None, description="Limit on prompt and answer together, tokens.")
    stop: Annotated[tuple[str, ...] | None, BeforeValidator(_one_or_many)] = Field(
        None, description="Strings that end the answer."
    )
    stop_token_ids: Annotated[tuple[int, ...] | None, BeforeValidator(_one_or_many)] = Field(
        None, description="Token ids that end the answer."
    )
    ignore_eos: bool | None = Field(None, description="Go on past the model's own end tokens.")
    logprobs: int | None = Field(
        None, description="Return log-probabilities, with this many of the likeliest."
    )
    prompt_logprobs: int | None = Field(None, description="The same for the prompt's tokens.")
    skip_special_tokens: bool | None = Field(None, description="Leave special tokens out of the text.")
    num_beams: int | None = Field(None, description="Above 1 searches with beams.")
    length_penalty: float | None = Field(None, description="Beam search: above 0 favours longer answers.")
    adapter: str | None = Field(None, description="Which LoRA adapter answers, of those kept apart.")
    response_format: Options = Field(
        None,
        description='What the whole answer must look like, an object: {"type": "json_object"}, json_schema, regex, choice or grammar.',
    )
    timeout: float | None = Field(
        None, description="Seconds that a request may take, waiting included; then it fails."
    )

    def sampling(self) -> dict[str, Any]:
        """The sampling arguments that were given, by :class:`SamplingParams`' names (and ``do_sample``)."""
        names = (*SamplingParams.names(), "do_sample")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True)
class ArgumentDoc:
    """One argument, for help texts and completion."""

    name: str
    type: str
    default: Any
    help: str


def describe() -> list[ArgumentDoc]:
    """Every argument, in the order of the documentation."""
    return [
        ArgumentDoc(name, allowed(name), info.default, info.description or "")
        for name, info in Arguments.model_fields.items()
    ]


def argument_names() -> tuple[str, ...]:
    return tuple(Arguments.model_fields)


def allowed(name: str) -> str:
    """What an argument takes, in words: ``number, > 0, ≤ 1``."""
    info = Arguments.model_fields[name]
    limits = [_limit(rule) for rule in info.metadata]
    return ", ".join([_type_text(info.annotation), *(limit for limit in limits if limit)])


def _type_text(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " | ".join(json.dumps(option) if isinstance(option, bool) else str(option) for option in inner)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_text(option) for option in inner)
    if origin is tuple:
        return f"list of {_type_text(inner[0])}"
    if origin is dict or annotation is dict:
        return "object"
    words = {
        str: "text",
        int: "integer",
        float: "number",
        bool: "true | false",
        type(None): "none",
        Any: "any",
    }
    return words.get(annotation, str(annotation))


def _limit(rule: Any) -> str:
    for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
        if hasattr(rule, attribute):
            return f"{sign} {getattr(rule, attribute)}"
    if getattr(rule, "pattern", None):
        return "cpu, mps, cuda or cuda:N"
    if getattr(rule, "min_length", None):
        return "not empty"
    return ""
