"""Arguments: LLaMA-Factory's inference argument names, from a mapping, a YAML or JSON file, or command-line words.

Every argument is known, or refused by name. A training-only argument is refused as such. Sampling arguments default
to None, which means "what the model's own generation_config.json says".
"""

from __future__ import annotations

import json
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from engineroom.errors import (
    ArgumentError,
    ParameterError,
    TrainingArgumentError,
    UnknownArgumentError,
    nearest,
)
from engineroom.types import SamplingParams

ArgumentSource: TypeAlias = "Mapping[str, Any] | str | os.PathLike[str] | Sequence[str] | Arguments | None"

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")


def _split_commas(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _one_or_many(value: Any) -> Any:
    """YAML has lists, command lines one word: ``stop: END`` and ``stop: [END, STOP]`` both do."""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _json_object(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return json.loads(value)
    return value


Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
Options: TypeAlias = Annotated[dict[str, Any] | None, BeforeValidator(_json_object)]


class Arguments(BaseModel):
    """Everything that an engine, a prompt and an answer can be told. Frozen; unknown names are refused.

    The names are LLaMA-Factory's where it has one. ``help`` texts are the source of the documentation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    # --- the model --------------------------------------------------------------------------------------------
    model_name_or_path: str = Field(
        "demo", min_length=1, description="A folder, a hub repository, or a shipped model: demo, demo-reward."
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
    stage: Literal["sft", "rm"] | None = Field(
        None, description="rm scores with the value head, sft generates; None decides by the checkpoint."
    )
    finetuning_type: Literal["lora", "full", "freeze"] | None = Field(
        None,
        description="How the model was tuned. Only checked: lora goes with adapters, full and freeze do not.",
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
        None, description="Quantise on loading with bitsandbytes (CUDA)."
    )
    quantization_method: Literal["bnb"] = Field("bnb", description="Library for quantisation on loading.")
    quantization_type: Literal["fp4", "nf4"] = Field("nf4", description="4-bit number format.")
    double_quantization: bool = Field(True, description="Quantise the 4-bit constants too.")
    quantization_device_map: Literal["auto"] | None = Field(
        None, description="Device map of the 4-bit model."
    )
    offload_folder: str = Field("offload", description="Where device_map puts weights that fit nowhere else.")
    use_kv_cache: bool = Field(True, description="Keep keys and values between steps; False recomputes them.")
    low_cpu_mem_usage: Literal[True] = Field(
        True, description="Load weights without a second copy; always so."
    )

    # --- other engines: read by the engine that they name -----------------------------------------------------
    vllm_maxlen: int = Field(4096, ge=1, description="vLLM: context length.")
    vllm_gpu_util: float = Field(0.7, gt=0, le=1, description="vLLM: share of GPU memory to use.")
    vllm_enforce_eager: bool = Field(False, description="vLLM: no CUDA graphs.")
    vllm_max_lora_rank: int = Field(32, ge=1, description="vLLM: largest rank of any adapter.")
    vllm_config: Options = Field(None, description="vLLM: further engine arguments, an object.")
    sglang_maxlen: int = Field(4096, ge=1, description="SGLang: context length.")
    sglang_mem_fraction: float = Field(0.7, gt=0, le=1, description="SGLang: share of memory to use.")
    sglang_tp_size: int = Field(-1, ge=-1, description="SGLang: tensor parallel size; -1 takes all devices.")
    sglang_config: Options = Field(None, description="SGLang: further server arguments, an object.")
    sglang_lora_backend: str = Field("triton", description="SGLang: kernels for LoRA.")
    kt_method: str | None = Field(None, description="KTransformers: how expert weights are kept.")
    kt_weight_path: str | None = Field(None, description="KTransformers: folder of converted expert weights.")

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
        ArgumentDoc(name, _allowed(name), info.default, info.description or "")
        for name, info in Arguments.model_fields.items()
    ]


def argument_names() -> tuple[str, ...]:
    return tuple(Arguments.model_fields)


def parse_arguments(source: ArgumentSource = None, /, **overrides: Any) -> Arguments:
    """Reads arguments from wherever they are.

    Args:
        source: a mapping; the path of a YAML or JSON file; command-line words, in which a first ``file.yaml`` is the
            base that ``key=value``, ``--key value`` and ``--key=value`` override; None for the defaults.
        overrides: values that win over the source.

    Raises:
        UnknownArgumentError: names the nearest argument.
        TrainingArgumentError: the argument has no meaning for inference.
        ArgumentError: wrong type or range; says what is allowed.
    """
    if isinstance(source, Arguments):
        values: dict[str, Any] = source.model_dump(exclude_unset=True)
    elif isinstance(source, (str, os.PathLike)):
        values = read_config(Path(source))
    elif isinstance(source, Mapping):
        values = dict(source)
    elif source is None:
        values = {}
    elif isinstance(source, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        values = parse_words(source)
    else:
        raise ArgumentError(
            f"arguments can't be a {type(source).__name__}",
            why="allowed: a mapping, the path of a YAML or JSON file, or a list of command-line words",
        )
    return _validate({**values, **overrides})


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(
            f"can't read the configuration {str(path)!r}",
            why=str(error),
            fix="check the path, or leave it out",
        ) from error
    try:
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ArgumentError(f"{str(path)!r} is not valid {kind}", why=" ".join(str(error).split())) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ArgumentError(
            f"{str(path)!r} holds a {type(values).__name__}",
            why="a configuration is a map from argument to value",
        )
    return typing.cast("dict[str, Any]", values)


def parse_words(words: Sequence[str]) -> dict[str, Any]:
    """``[config.yaml] key=value --key value --key=value --flag`` as a mapping; later words win."""
    values: dict[str, Any] = {}
    rest = list(words)
    if rest and is_config_file(rest[0]):
        values.update(read_config(Path(rest.pop(0))))
    while rest:
        word = rest.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        name = name.replace("-", "_") if word.startswith("--") else name
        if not equals and not word.startswith("--"):
            raise ArgumentError(
                f"{word!r} is not a setting",
                why="settings are key=value or --key value; a configuration file comes first",
            )
        if not equals:
            has_value = bool(rest) and not rest[0].startswith("--")
            text = rest.pop(0) if has_value else "true"
        values[name] = _from_text(name, text)
    return values


def is_config_file(word: str) -> bool:
    """Does this word name a configuration file (rather than a setting or a model)?"""
    return word.endswith(CONFIG_SUFFIXES) and "=" not in word


def _from_text(name: str, text: str) -> Any:
    """A command-line value: plain text where the argument is text, else read as YAML (so 0, 1e-3, true, [a, b])."""
    info = Arguments.model_fields.get(name)
    if info is None or info.annotation is str:
        return text
    if text.lower() in {"none", "null", ""}:
        return None
    if _takes_text(info.annotation) and not text.lstrip().startswith(("{", "[")):
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if value is None else value


def _takes_text(annotation: Any) -> bool:
    if annotation is str:
        return True
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_takes_text(option) for option in inner)
    return origin is tuple and inner[0] is str


def _validate(values: Mapping[Any, Any]) -> Arguments:
    for name, value in values.items():
        _check_name(name)
        if isinstance(value, bool) and "true" not in _allowed(name):  # pydantic would take it for 0 or 1
            raise _not_allowed(name, value)
    try:
        arguments = Arguments.model_validate(dict(values))
    except ValidationError as error:
        raise _argument_error(error) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ArgumentError("an argument holds JSON that can't be read", why=str(error)) from error
    try:
        SamplingParams.create(**arguments.sampling())
    except ParameterError as error:
        raise ArgumentError(error.what, why=error.why, fix=error.fix, argument=error.parameter) from error
    if arguments.finetuning_type in ("full", "freeze") and arguments.adapter_name_or_path:
        raise ArgumentError(
            f"finetuning_type={arguments.finetuning_type} contradicts adapter_name_or_path",
            why="a fully tuned model has no adapter",
            fix="leave one of the two out",
            argument="finetuning_type",
        )
    return arguments


_MEDIA = "images, videos and audio are not supported yet"
_HUB = "models come from the Hugging Face hub or from a folder"
_VOCABULARY = "the tokenizer is used as the checkpoint has it; save it with its new tokens instead"
_KT = "the ktransformers engine is chosen by infer_backend, not by this switch"

NOT_SUPPORTED: Mapping[str, str] = types.MappingProxyType(
    {
        **dict.fromkeys(
            ("image_max_pixels", "image_min_pixels", "image_do_pan_and_scan", "crop_to_patches"), _MEDIA
        ),
        **dict.fromkeys(
            ("video_max_pixels", "video_min_pixels", "video_fps", "video_maxlen", "media_dir"), _MEDIA
        ),
        **dict.fromkeys(("use_audio_in_video", "audio_sampling_rate"), _MEDIA),
        **dict.fromkeys(("ms_hub_token", "om_hub_token"), _HUB),
        **dict.fromkeys(
            ("resize_vocab", "add_tokens", "add_special_tokens", "new_special_tokens_config"), _VOCABULARY
        ),
        **dict.fromkeys(("use_kt", "kt_expert_checkpoint_path", "kt_non_expert_weight_path"), _KT),
        "split_special_tokens": "special-token strings in user text never become control tokens; nothing to split",
        "preserve_thinking": "the chat template decides whether earlier thinking stays in the prompt",
        "tool_format": "tools are rendered by the chat template",
    }
)
"""Inference arguments of LLaMA-Factory that engineroom does not have, and why."""


def _check_name(name: Any) -> None:
    if name in Arguments.model_fields:
        return
    if not isinstance(name, str):
        raise UnknownArgumentError(f"argument names are words, not {name!r}", argument=str(name))
    if name in NOT_SUPPORTED:
        raise ArgumentError(
            f"{name} is not supported",
            why=NOT_SUPPORTED[name],
            fix=f"remove {name} from the configuration",
            argument=name,
        )
    if name in training_argument_names():
        raise TrainingArgumentError(
            f"{name} is a training argument",
            why="it has no meaning for inference, and engineroom ignores nothing in silence",
            fix=f"remove {name} from the configuration",
            argument=name,
        )
    guess = nearest(name, argument_names())
    raise UnknownArgumentError(
        f"unknown argument {name!r}",
        fix=f"did you mean {guess}?" if guess else "`engineroom chat --help` lists the settings",
        argument=name,
    )


@cache
def training_argument_names() -> frozenset[str]:
    """Names that LLaMA-Factory and Transformers know and that inference has no use for."""
    text = resources.files("engineroom").joinpath("training_arguments.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


def _argument_error(error: ValidationError) -> ArgumentError:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "?"
    return _not_allowed(name, first.get("input"))


def _not_allowed(name: str, value: Any) -> ArgumentError:
    shown = repr(value)
    return ArgumentError(
        f"{name}={shown if len(shown) <= 80 else shown[:77] + '...'} is not allowed",
        why=f"allowed: {_allowed(name)}",
        argument=name,
    )


def _allowed(name: str) -> str:
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
