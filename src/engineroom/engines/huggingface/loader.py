"""Loading a checkpoint as the arguments ask: device, dtype, attention, rope, quantisation, adapters, value head."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engineroom.checkpoint import VALUE_HEAD_FILES, Checkpoint
from engineroom.config import Arguments
from engineroom.engines.base import Progress
from engineroom.errors import ArgumentError, EngineroomError, ModelLoadError, ModelNotFoundError

_ATTENTION = {"disabled": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2", "fa3": "flash_attention_3"}

_log = logging.getLogger(__name__)


class ValueHead(nn.Module):
    """One score from the last hidden state, as TRL's ``AutoModelForCausalLMWithValueHead`` and LLaMA-Factory save it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.summary = nn.Linear(weight.shape[1], 1, bias=bias is not None)
        self.summary.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})

    def forward(self, hidden: Tensor) -> Tensor:
        return self.summary(hidden.to(self.summary.weight.dtype))


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run. Used on the inference thread only.

    Attributes:
        context_length: tokens of prompt and answer together.
        adapters: names of the LoRA adapters that were kept apart.
        keeps_logits: ``forward`` takes ``logits_to_keep`` and so can skip the logits of all positions but the last.
    """

    model: Any
    device: torch.device
    context_length: int
    value_head: ValueHead | None
    adapters: tuple[str, ...]
    keeps_logits: bool
    pad_token_id: int | None

    def new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    @contextmanager
    def adapter(self, name: str | None) -> Generator[None, None, None]:
        """Runs the model with the named adapter, or with none."""
        if not self.adapters:
            yield
        elif name is None:
            with self.model.disable_adapter():
                yield
        else:
            self.model.set_adapter(name)
            yield

    def score(self, input_ids: Tensor) -> float:
        """The reward at the last of ``input_ids``, [1, tokens]."""
        if self.value_head is None:
            return float(self.model(input_ids=input_ids, use_cache=False).logits[0, -1].float())
        with self.adapter(self.adapters[-1] if self.adapters else None):
            output = self.model(
                input_ids=input_ids, use_cache=False, output_hidden_states=True, **self._one_logit()
            )
        return float(self.value_head(output.hidden_states[-1][0, -1])[0])

    def _one_logit(self) -> dict[str, Any]:
        return {"logits_to_keep": 1} if self.keeps_logits else {}


class Loader:
    """Decides cheaply what the checkpoint is, then loads it on the thread that will own it."""

    def __init__(self, arguments: Arguments, checkpoint: Checkpoint) -> None:
        self._arguments = arguments
        self._checkpoint = checkpoint
        self._value_head_file = _value_head_file(checkpoint, self._adapter_folders())
        self.kind = self._kind()
        self.can_generate = self.kind == "causal"

    def _kind(self) -> str:
        stage, kind = self._arguments.stage, self._checkpoint.kind
        if self._value_head_file is not None and kind in ("causal", "unknown"):
            kind = "value_head"
        if stage == "rm" and kind not in ("sequence_classification", "value_head"):
            raise ModelLoadError(
                f"stage=rm, but {self._checkpoint.name} has no reward head",
                why="there are neither v_head weights nor a sequence-classification head",
                fix="name a reward model, or leave stage out",
            )
        if stage == "sft":
            return "sequence_classification" if kind == "sequence_classification" else "causal"
        return "causal" if kind == "unknown" else kind

    def load(self, progress: Progress) -> LoadedModel:
        """Loads weights, adapters and head.

        Raises:
            ModelLoadError: corrupt or missing weights, an architecture that Transformers does not know.
            ArgumentError: a device or quantisation that this machine does not have.
        """
        progress("importing transformers", None)
        device = _device(self._arguments)
        try:
            model = self._load_model(device, progress)
            model, adapters = self._add_adapters(model, progress)
            head = self._load_value_head(model)
        except (EngineroomError, MemoryError):
            raise
        except Exception as error:  # whatever Transformers, safetensors or peft raise on a broken checkpoint
            raise ModelLoadError(
                f"{self._checkpoint.name} can't be loaded",
                why=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}",
                fix=f"engineroom doctor {self._checkpoint.name}",
            ) from error
        model.eval()
        parameters = inspect.signature(model.forward).parameters
        base = model.get_base_model() if adapters else model
        progress("ready", 1.0)
        return LoadedModel(
            model=model,
            device=base.device,
            context_length=self._context_length(),
            value_head=head,
            adapters=adapters,
            keeps_logits="logits_to_keep" in inspect.signature(base.forward).parameters
            or "logits_to_keep" in parameters,
            pad_token_id=_pad_token_id(base),
        )

    # --- the model -------------------------------------------------------------------------------------------------

    def _load_model(self, device: torch.device, progress: Progress) -> Any:
        import transformers

        transformers.logging.disable_progress_bar()  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]  # our own stages say it
        classification = self.kind == "sequence_classification"
        family: Any = (
            transformers.AutoModelForSequenceClassification
            if classification
            else transformers.AutoModelForCausalLM
        )
        _ = self._checkpoint.tensors  # a corrupt header is found before any memory is taken
        if not self._checkpoint.weight_files:
            raise ModelLoadError(
                f"{self._checkpoint.name} has no weights",
                why="there is no *.safetensors and no pytorch_model*.bin file",
                fix="download or save the model again",
            )
        progress("reading the weights", None)
        arguments = self._arguments
        model, info = family.from_pretrained(
            self._checkpoint.path,
            config=self._config(),
            dtype=arguments.infer_dtype
            if arguments.infer_dtype == "auto"
            else getattr(torch, arguments.infer_dtype),
            device_map=arguments.device_map or {"": device},
            attn_implementation=_ATTENTION.get(arguments.flash_attn),
            quantization_config=_quantization(arguments),
            offload_folder=arguments.offload_folder if arguments.device_map else None,
            trust_remote_code=arguments.trust_remote_code,
            output_loading_info=True,
        )
        missing = sorted(info["missing_keys"])
        if missing:
            raise ModelLoadError(
                f"{self._checkpoint.name} lacks weights that its architecture needs",
                why=f"missing: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}",
                fix="download or save the model again; running it would answer with random weights",
            )
        if classification and model.config.num_labels != 1:
            raise ModelLoadError(
                f"{self._checkpoint.name} classifies into {model.config.num_labels} labels",
                why="a reward model has one",
                fix="name a reward model",
            )
        return model

    def _config(self) -> Any:
        """The checkpoint's config, with the rope scaling that was asked for."""
        from transformers import AutoConfig

        config: Any = AutoConfig.from_pretrained(
            self._checkpoint.path, trust_remote_code=self._arguments.trust_remote_code
        )
        native, wanted = self._checkpoint.context_length, self._arguments.model_maxlen
        kind = self._arguments.rope_scaling
        if kind is None:
            if native and wanted and wanted > native:
                raise ArgumentError(
                    f"model_maxlen={wanted} is more than the model's {native}",
                    fix="add rope_scaling=yarn (or linear, dynamic), or lower model_maxlen",
                    argument="model_maxlen",
                )
            return config
        if native is None or wanted is None or wanted <= native:
            raise ArgumentError(
                f"rope_scaling={kind} needs model_maxlen above the model's own context ({native})",
                fix=f"add model_maxlen={2 * (native or 4096)}",
                argument="rope_scaling",
            )
        text: Any = config.get_text_config()
        text.rope_parameters = _rope_parameters(
            getattr(text, "rope_parameters", None) or {}, kind, native, wanted
        )
        return config

    def _context_length(self) -> int:
        native, wanted = self._checkpoint.context_length, self._arguments.model_maxlen
        return wanted or native or 4096

    # --- adapters and head -----------------------------------------------------------------------------------------

    def _adapter_folders(self) -> list[Path]:
        base = self._arguments.adapter_folder
        folders: list[Path] = []
        for name in self._arguments.adapter_name_or_path:
            folder = Path(name).expanduser() / base if base else Path(name).expanduser()
            if not (folder / "adapter_config.json").is_file():
                raise ModelNotFoundError(
                    f"{str(folder)!r} is not a LoRA adapter",
                    why="there is no adapter_config.json in it",
                    fix="check adapter_name_or_path (and adapter_folder)",
                )
            folders.append(folder)
        return folders

    def _add_adapters(self, model: Any, progress: Progress) -> tuple[Any, tuple[str, ...]]:
        """Merges the adapters in order, or keeps them apart by the names of their folders."""
        folders = self._adapter_folders()
        if not folders:
            return model, ()
        from peft import PeftModel

        progress("adding adapters", None)
        if self._arguments.adapter_merge:
            for folder in folders:
                adapted: Any = PeftModel.from_pretrained(model, str(folder))
                model = adapted.merge_and_unload()
            return model, ()
        names = _adapter_names(folders)
        adapted = PeftModel.from_pretrained(model, str(folders[0]), adapter_name=names[0])
        for name, folder in zip(names[1:], folders[1:], strict=True):
            adapted.load_adapter(str(folder), adapter_name=name)
        return adapted, names

    def _load_value_head(self, model: Any) -> ValueHead | None:
        if self.kind != "value_head" or self._value_head_file is None:
            return None
        tensors = _read_tensors(self._value_head_file)
        weight = tensors.get("v_head.summary.weight")
        if weight is None:
            raise ModelLoadError(
                f"{str(self._value_head_file)!r} has no v_head.summary.weight",
                fix="save the reward model again",
            )
        head = ValueHead(
            weight.float(), None if (b := tensors.get("v_head.summary.bias")) is None else b.float()
        )
        return head.to(model.device)


def _value_head_file(checkpoint: Checkpoint, adapters: list[Path]) -> Path | None:
    """Where the ``v_head`` weights are: beside the last adapter, beside the model, or among its own weights."""
    for folder in [*reversed(adapters), checkpoint.path]:
        for name in VALUE_HEAD_FILES:
            if (folder / name).is_file():
                return folder / name
    if any(tensor.name.startswith("v_head.") for tensor in checkpoint.tensors):
        return next(
            file for file in checkpoint.weight_files if "v_head.summary.weight" in _tensor_names(file)
        )
    return None


def _tensor_names(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:  # pyright: ignore[reportUnknownVariableType]
        return [str(name) for name in tensors.keys()]  # noqa: SIM118  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportUnknownArgumentType]


def _read_tensors(file: Path) -> Mapping[str, Tensor]:
    """The ``v_head`` tensors of a file. A ``.bin`` is read without running what a pickle may hold."""
    if file.suffix == ".bin":
        return torch.load(file, map_location="cpu", weights_only=True)
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:  # pyright: ignore[reportUnknownVariableType]
        return {name: tensors.get_tensor(name) for name in _tensor_names(file) if name.startswith("v_head.")}  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _adapter_names(folders: list[Path]) -> tuple[str, ...]:
    names: list[str] = []
    for folder in folders:
        name = folder.resolve().name
        names.append(name if name not in names else f"{name}-{len(names)}")
    return tuple(names)


def _device(arguments: Arguments) -> torch.device:
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if arguments.device is None:
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    device = torch.device(arguments.device)
    if not available[device.type] or (device.index or 0) >= max(1, torch.cuda.device_count()):
        raise ArgumentError(
            f"device={arguments.device} is not here",
            why=f"devices found: {', '.join(name for name, there in available.items() if there)}",
            fix="leave device out to take the best one",
            argument="device",
        )
    return device


def _quantization(arguments: Arguments) -> Any:
    """bitsandbytes' settings, or None."""
    if arguments.quantization_bit is None:
        return None
    if not torch.cuda.is_available():
        raise ArgumentError(
            f"quantization_bit={arguments.quantization_bit} needs an NVIDIA GPU",
            why="bitsandbytes quantises on CUDA, and no CUDA device was found",
            fix="leave quantization_bit out; infer_dtype=bfloat16 halves the memory of a float32 model",
            argument="quantization_bit",
        )
    from transformers import BitsAndBytesConfig

    if arguments.quantization_bit == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=arguments.quantization_type,
        bnb_4bit_use_double_quant=arguments.double_quantization,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _rope_parameters(own: Mapping[str, Any], kind: str, native: int, wanted: int) -> dict[str, Any]:
    """Rotary parameters that stretch ``native`` positions to ``wanted`` (transformers.modeling_rope_utils)."""
    scaled = {**own, "rope_type": kind, "factor": wanted / native}
    if kind in ("yarn", "llama3", "dynamic"):
        scaled["original_max_position_embeddings"] = native
    if kind == "llama3":
        scaled.update(low_freq_factor=1.0, high_freq_factor=4.0)
    return scaled


def _pad_token_id(model: Any) -> int | None:
    for value in (model.config.get_text_config().pad_token_id, model.config.get_text_config().eos_token_id):
        if isinstance(value, list) and value:
            return int(value[0])  # pyright: ignore[reportUnknownArgumentType]
        if isinstance(value, int):
            return value
    return None
