"""Facts about a checkpoint on disk, read without loading it and without torch."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from engineroom import demo
from engineroom.config import Arguments
from engineroom.errors import ModelLoadError, ModelNotFoundError, nearest

CheckpointKind: TypeAlias = Literal["causal", "sequence_classification", "value_head", "embedding", "unknown"]

VALUE_HEAD_FILES = ("value_head.safetensors", "value_head.bin")
"""Where LLaMA-Factory keeps a reward model's head apart from the language model."""

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "n_ctx",
)
_OTHER_FORMATS = ("*.onnx", "*.gguf", "*.h5", "*.msgpack", "*.tflite", "original/*")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
_DTYPE_BYTES = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_MAX_HEADER = 100 << 20  # safetensors' own limit on its JSON header


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a safetensors file: its type (``F32``, ``BF16``…) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def bytes(self) -> int:
        return self.parameters * _DTYPE_BYTES.get(self.dtype, 1)


@dataclass(frozen=True)
class Checkpoint:
    """A model folder, found. Properties read files when first asked and raise :class:`ModelLoadError` if broken."""

    name: str
    path: Path

    @classmethod
    def open(cls, arguments: Arguments, *, weights: bool = True) -> Checkpoint:
        """Finds the model that the arguments name: shipped, in a folder, or on the hub (downloaded if need be).

        Args:
            weights: False leaves the weights of a hub repository where they are; its small files are enough.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        name = arguments.model_name_or_path
        path = demo.resolve(name) or _local_folder(name) or _from_hub(arguments, weights)
        checkpoint = cls(name, path)
        if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
            raise ModelNotFoundError(
                f"{str(path)!r} is not a model folder",
                why="it has no config.json",
                fix="name the folder that holds config.json and the weights",
            )
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(
                f"{str(path)!r} is a LoRA adapter, not a model",
                why="it has adapter_config.json and no config.json",
                fix=f"engineroom chat {_base_of(path)} adapter_name_or_path={name}",
            )
        return checkpoint

    @classmethod
    def glance(cls, arguments: Arguments) -> None:
        """Looks at a model of this machine, and at none of the hub: to import an engine only to find a name misspelt takes
        seconds.

        Raises:
            ModelError: ``open`` would raise it, or ``config``.
        """
        name = arguments.model_name_or_path
        if demo.resolve(name) or _local_folder(name) or not _may_be_on_the_hub(name):
            _ = cls.open(arguments).config

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """``config.json``."""
        return read_json(self.path / "config.json")

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        """``generation_config.json``; empty if there is none."""
        file = self.path / "generation_config.json"
        return read_json(file) if file.is_file() else {}

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The language model's part of the config, which multimodal models nest."""
        nested = self.config.get("text_config")
        return cast("Mapping[str, Any]", nested) if isinstance(nested, Mapping) else self.config

    @property
    def architecture(self) -> str:
        names: object = self.config.get("architectures")
        return (
            str(cast("list[object]", names)[0])
            if isinstance(names, list) and names
            else str(self.config.get("model_type", "unknown"))
        )

    @property
    def context_length(self) -> int | None:
        """Tokens that the model was made to attend to, if its config says."""
        for key in _CONTEXT_KEYS:
            value = self.text_config.get(key)
            if isinstance(value, int) and value > 0:
                return value
        return None

    @property
    def vocab_size(self) -> int | None:
        value = self.text_config.get("vocab_size")
        return value if isinstance(value, int) else None

    @property
    def hidden_size(self) -> int | None:
        """Numbers of a token's hidden state."""
        value = self.text_config.get("hidden_size", self.text_config.get("n_embd"))
        return value if isinstance(value, int) else None

    @property
    def dtype(self) -> str | None:
        """The type that the config names (``bfloat16``, …)."""
        value = self.config.get("dtype") or self.config.get("torch_dtype") or self.text_config.get("dtype")
        return str(value) if value else None

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """End tokens by generation_config.json, or else config.json."""
        value = self.generation_config.get("eos_token_id", self.text_config.get("eos_token_id"))
        ids: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
        return tuple(i for i in ids if isinstance(i, int) and not isinstance(i, bool))

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The safetensors (or, lacking those, ``.bin``) files of the model itself."""
        files = sorted(f for f in self.path.glob("*.safetensors") if f.name not in VALUE_HEAD_FILES)
        return tuple(files or sorted(f for f in self.path.glob("pytorch_model*.bin")))

    @cached_property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Every tensor of the safetensors files, from their headers alone."""
        files = [f for f in self.weight_files if f.suffix == ".safetensors"]
        return tuple(tensor for file in files for tensor in read_header(file))

    def check_weights(self) -> None:
        """Reads the headers of all files, without the weights themselves.

        Raises:
            ModelLoadError: a file is missing or corrupt.
        """
        _ = self.tensors
        if not self.weight_files:
            raise ModelLoadError(
                f"{self.name} has no weights",
                why="there is no *.safetensors and no pytorch_model*.bin file",
                fix="download or save the model again",
            )

    @property
    def parameters(self) -> int | None:
        return sum(t.parameters for t in self.tensors) if self.tensors else None

    @property
    def weight_bytes(self) -> int:
        return sum(t.bytes for t in self.tensors) or sum(f.stat().st_size for f in self.weight_files)

    @cached_property
    def value_head_file(self) -> Path | None:
        """The file with ``v_head`` weights beside or among a causal model's; None if this is no such reward model."""
        return find_value_head(self.path)

    @property
    def kind(self) -> CheckpointKind:
        if self.architecture.endswith(("ForSequenceClassification", "ForRewardModel")):
            return "sequence_classification"
        if self.value_head_file is not None:
            return "value_head"
        if (self.path / "modules.json").is_file():  # of sentence-transformers
            return "embedding"
        if self.architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
            return "causal"
        return "unknown"

    @property
    def has_chat_template(self) -> bool:
        if any((self.path / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
            return True
        file = self.path / "tokenizer_config.json"
        return file.is_file() and bool(read_json(file).get("chat_template"))


def _local_folder(name: str) -> Path | None:
    path = Path(name).expanduser()
    return path if passes(path.is_dir) else None


def passes(test: Callable[[], bool]) -> bool:
    """A test of a path; what is too long for a path, or can't be looked into, does not pass it."""
    try:
        return test()
    except OSError:
        return False


def _base_of(adapter: Path) -> str:
    """The model that a LoRA adapter was trained on, by its own account."""
    base = read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
    return str(base) if base else "BASE_MODEL"


def _from_hub(arguments: Arguments, weights: bool) -> Path:
    """Downloads a hub repository, or finds it in the cache."""
    name = arguments.model_name_or_path
    if not _may_be_on_the_hub(name):
        raise _not_found(name, "there is no such folder")
    for variable in ("USE_MODELSCOPE_HUB", "USE_OPENMIND_HUB"):  # LLaMA-Factory's
        if os.environ.get(variable, "").lower() in {"1", "true", "y"}:
            raise _not_found(
                name, f"{variable} is set, and engineroom downloads from the Hugging Face hub only"
            )
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        folder = snapshot_download(
            name,
            revision=arguments.model_revision,
            cache_dir=arguments.cache_dir,
            token=arguments.hf_hub_token,
            ignore_patterns=[*_OTHER_FORMATS, *(() if weights else _WEIGHTS)],
        )
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        OSError,
    ) as error:
        reason = " ".join(str(error).split())
        raise _not_found(name, f"no such folder, and the hub said: {reason[:300]}") from error
    return Path(folder)


def _may_be_on_the_hub(name: str) -> bool:
    return not (
        name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or _is_sentence(name)
        or passes(Path(name).exists)
    )


def _is_sentence(name: str) -> bool:
    return any(character.isspace() for character in name.strip())


def _not_found(name: str, why: str) -> ModelNotFoundError:
    guess = nearest(name, demo.NAMES)
    if passes(Path(name).is_file):
        why, fix = "it is a file, and a model is a folder", f"name the folder: {Path(name).parent}"
    elif _is_sentence(name):
        why, fix = "this looks like a message rather than a model", 'to ask something: engineroom chat -p "…"'
    elif guess:
        fix = f"did you mean {guess}?"
    else:
        fix = "check the path, or leave it out to use the shipped model `demo`"
    return ModelNotFoundError(f"model {name!r} was not found", why=why, fix=fix)


def read_json(file: Path) -> Mapping[str, Any]:
    """
    Raises:
        ModelLoadError: the file holds no JSON object.
    """
    return cast("Mapping[str, Any]", _read_json(file, dict, "object"))


def read_json_list(file: Path) -> list[Any]:
    """
    Raises:
        ModelLoadError: the file holds no JSON list.
    """
    return cast("list[Any]", _read_json(file, list, "list"))


def _read_json(file: Path, kind: type, word: str) -> object:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(
            f"{str(file)!r} can't be read", why=str(error), fix="download or save the model again"
        ) from error
    if not isinstance(value, kind):
        raise ModelLoadError(
            f"{str(file)!r} does not hold a JSON {word}", fix="download or save the model again"
        )
    return value


def find_value_head(folder: Path) -> Path | None:
    """The file of a model's or an adapter's folder that holds a reward model's ``v_head`` weights, if there is one.

    LLaMA-Factory saves them apart, TRL among the model's weights, or in a ``pytorch_model.bin`` beside an adapter.
    """
    apart = (file for file in (folder / name for name in VALUE_HEAD_FILES) if file.is_file())
    among = (*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("pytorch_model*.bin")))
    return next((file for file in (*apart, *filter(holds_value_head, among))), None)


def holds_value_head(file: Path) -> bool:
    """Are ``v_head`` weights among those of this file?"""
    if file.suffix == ".safetensors":
        return any(tensor.name.startswith("v_head.") for tensor in read_header(file))
    return _pickles_head(file)


def _pickles_head(file: Path) -> bool:
    """Does a file of ``torch.save`` hold ``v_head`` weights? The names in its pickle are read; nothing in it is run."""
    try:
        with zipfile.ZipFile(file) as archive:
            pickles = (name for name in archive.namelist() if name.endswith("data.pkl"))
            return any(b"v_head.summary" in archive.read(name) for name in pickles)
    except (OSError, ValueError, zipfile.BadZipFile):  # the format of before torch 1.6, or a broken file
        return False


def read_header(file: Path) -> Iterator[TensorInfo]:
    """The header of a safetensors file: 8 bytes of length, then JSON (format: huggingface/safetensors README)."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MAX_HEADER:
                raise ValueError(f"header of {length} bytes")
            header = json.loads(stream.read(length))
        size = file.stat().st_size - 8 - length
        entries = {k: v for k, v in header.items() if k != "__metadata__"}
        if any(v["data_offsets"][1] > size for v in entries.values()):
            raise ValueError("the file is shorter than its header says")
        infos = [
            TensorInfo(k, str(v["dtype"]), tuple(int(n) for n in v["shape"])) for k, v in entries.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise ModelLoadError(
            f"{str(file)!r} is corrupt", why=str(error), fix="download or save the model again"
        ) from error
    yield from infos
