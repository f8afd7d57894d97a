"""Reading arguments: from a mapping, a YAML or JSON file, or command-line words.

Every argument is known, or refused by name. A training-only argument is refused as such.
"""

from __future__ import annotations

import json
import os
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import ValidationError

from engineroom.arguments import ArgumentDoc, Arguments, allowed, argument_names, describe
from engineroom.errors import (
    ArgumentError,
    ParameterError,
    TrainingArgumentError,
    UnknownArgumentError,
    nearest,
    shown,
)
from engineroom.params import SamplingParams

__all__ = [
    "ArgumentDoc", "ArgumentSource", "Arguments", "argument_names", "describe", "is_config_file", "max_concurrent",
    "parse_arguments", "parse_words", "read_config", "training_argument_names",
]  # fmt: skip

ArgumentSource: TypeAlias = "Mapping[str, Any] | str | os.PathLike[str] | Sequence[str] | Arguments | None"

MAX_CONCURRENT = "MAX_CONCURRENT"
"""LLaMA-Factory's environment variable for the argument of that name."""

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")


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
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a null byte in the path
        raise ArgumentError(
            f"can't read the configuration {str(path)!r}",
            why=str(error),
            fix="check the path, or leave it out",
        ) from error
    try:
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ArgumentError(
            f"{str(path)!r} is not valid {kind}",
            why=" ".join(str(error).split()),
            fix='correct it; it holds settings such as "temperature": 0.7'
            if kind == "JSON"
            else "correct it; it holds a setting a line, such as temperature: 0.7",
        ) from error
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
    for word in rest:
        if not isinstance(word, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentError(f"{shown(word)} is not a command-line word", why="words are text")
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
        if isinstance(value, bool) and "true" not in allowed(name):  # pydantic would take it for 0 or 1
            raise _refusal(name, value)
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
    _check_together(arguments)
    return arguments


def _check_together(arguments: Arguments) -> None:
    """Arguments that are each allowed and make no sense side by side."""
    given, adapters = arguments.model_fields_set, bool(arguments.adapter_name_or_path)
    kind = arguments.finetuning_type
    for name, contradicts, why in (
        ("finetuning_type", kind in ("full", "freeze") and adapters, f"a model tuned by {kind} has no adapter_name_or_path"),
        ("adapter_folder", "adapter_folder" in given and not adapters, "it is where adapter_name_or_path is looked for"),
        ("adapter_merge", "adapter_merge" in given and not adapters, "it says what to do with adapter_name_or_path"),
        ("device", bool(arguments.device and arguments.device_map), "device_map places the model; device would be ignored"),
        (
            "quantization_device_map",
            bool(arguments.quantization_device_map) and arguments.quantization_bit != 4,
            "it places a model of quantization_bit=4",
        ),
        (
            "quantization_bit",
            arguments.quantization_bit == 4 and arguments.infer_dtype == "float32",
            "a model of 4 bits computes in 16; infer_dtype=float32 would be ignored",
        ),
    ):  # fmt: skip
        if contradicts:
            raise ArgumentError(
                f"{name}={shown(getattr(arguments, name))} makes no sense here",
                why=why,
                fix="leave one of the two out, or give both",
                argument=name,
            )


_MEDIA = "images, videos and audio are not supported yet"
_HUB = "models come from the Hugging Face hub or from a folder"
_VOCABULARY = "the tokenizer is used as the checkpoint has it; save it with its new tokens instead"
_KT = "the ktransformers engine is chosen by infer_backend, not by this switch"
_OLD_KT = "it belongs to an older integration of KTransformers"

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
        **dict.fromkeys(
            (
                "kt_optimize_rule",
                "cpu_infer",
                "chunk_size",
                "mode",
                "kt_maxlen",
                "kt_mode",
                "kt_use_cuda_graph",
            ),
            _OLD_KT,
        ),
        "kt_force_think": _OLD_KT,
        "split_special_tokens": "special-token strings in user text never become control tokens; nothing to split",
        "preserve_thinking": "the chat template decides whether earlier thinking stays in the prompt",
        "tool_format": "tools are rendered by the chat template",
    }
)
"""Inference arguments of LLaMA-Factory that engineroom does not have, and why."""


OTHER_NAMES: Mapping[str, str] = types.MappingProxyType(
    {
        **dict.fromkeys(("model", "model_name", "base_model", "pretrained"), "model_name_or_path"),
        **dict.fromkeys(("engine", "framework"), "infer_backend"),
        **dict.fromkeys(("lora", "lora_path", "lora_modules", "peft"), "adapter_name_or_path"),
        **dict.fromkeys(("context_length", "max_seq_len", "num_ctx", "n_ctx", "ctx_size"), "model_maxlen"),
        **dict.fromkeys(("load_in_4bit", "load_in_8bit"), "quantization_bit"),
        "temp": "temperature",
        "num_return_sequences": "n",
        "stop_words": "stop",
        "chat_template": "template",
        "gpu_memory_utilization": "vllm_gpu_util",
    }
)
"""What other projects call an argument, where spelling alone would not lead to it."""


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
    guess = OTHER_NAMES.get(name) or nearest(name, argument_names())
    raise UnknownArgumentError(
        f"unknown argument {name!r}",
        fix=f"did you mean {guess}?" if guess else "`engineroom settings` lists them all",
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
    return _refusal(name, first.get("input"))


def _refusal(name: str, value: Any) -> ArgumentError:
    return ArgumentError(
        f"{name}={shown(value)} is not allowed", why=f"allowed: {allowed(name)}", argument=name
    )


def max_concurrent(arguments: Arguments) -> int | None:
    """The argument, or LLaMA-Factory's environment variable.

    Raises:
        ArgumentError: the variable holds no number of requests.
    """
    text = os.environ.get(MAX_CONCURRENT)
    if arguments.max_concurrent is not None or text is None:
        return arguments.max_concurrent
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentError(
            f"{MAX_CONCURRENT}={shown(text)} is not allowed",
            why="allowed: an integer of at least 1",
            argument="max_concurrent",
        )
    return int(text)
