"""Loading a checkpoint as the arguments ask: device, dtype, attention, rope, quantisation, adapters, value head."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from typing import Any, cast

import torch

from engineroom.checkpoint import Checkpoint, CheckpointKind, find_value_head
from engineroom.config import Arguments
from engineroom.engines.adapter_folder import AdapterFolder, adapter_names, open_adapters
from engineroom.engines.base import BaseEngine, Progress
from engineroom.engines.huggingface.adapters import AdapterSwitch, merge
from engineroom.engines.huggingface.allocator import give_back, keep_freed_memory
from engineroom.engines.huggingface.arrangement import arrange
from engineroom.engines.huggingface.int8 import int8_engine, quantize
from engineroom.engines.huggingface.kv_cache import KVCache, default_budget, tokens_within
from engineroom.engines.huggingface.library import LoadModel, Model, ModelConfig, TextConfig
from engineroom.engines.huggingface.loaded import LoadedModel
from engineroom.engines.huggingface.norms import simplify
from engineroom.engines.huggingface.prefix import PrefixCache
from engineroom.engines.huggingface.ragged import RaggedModel, make_ragged
from engineroom.engines.huggingface.rope import DynamicRope, scale_rope
from engineroom.engines.huggingface.single import (
    SingleModel,
    cache_argument,
    keeps_logits,
    make_single,
)
from engineroom.engines.huggingface.value_head import load_value_head
from engineroom.errors import ArgumentError, EngineroomError, ModelLoadError

_log = logging.getLogger("engineroom")
_SMALLEST = 64
"""Tokens of the smallest KV memory that is of any use."""

_ATTENTION = {"disabled": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2", "fa3": "flash_attention_3"}


class Loader:
    """Decides cheaply what the checkpoint is, then loads it on the thread that will own it.

    Raises:
        ModelError: the checkpoint, an adapter, or what ``stage`` asks of them is not there.
    """

    def __init__(self, arguments: Arguments, checkpoint: Checkpoint) -> None:
        self._arguments = arguments
        self._checkpoint = checkpoint
        self._adapters = open_adapters(arguments.adapter_name_or_path, arguments.adapter_folder)
        beside = (find_value_head(folder.path) for folder in reversed(self._adapters))
        self.value_head_file = next(filter(None, beside), None) or checkpoint.value_head_file
        self._head_in_adapter = any(folder.is_classifier for folder in self._adapters)
        self.kind: CheckpointKind = self._kind()
        self.can_generate = self.kind == "causal"

    @property
    def separate_adapters(self) -> dict[str, AdapterFolder]:
        """Those that requests choose from, by name."""
        if self._arguments.adapter_merge:
            return {}
        return dict(zip(adapter_names(self._adapters), self._adapters, strict=True))

    @property
    def exact(self) -> bool:
        """Is all of a float32 model computed in float32?"""
        return True

    def _kind(self) -> CheckpointKind:
        kind, name = self._checkpoint.kind, self._checkpoint.name
        if self._arguments.stage == "embed" or (kind == "embedding" and self._arguments.stage is None):
            return self._embedding(kind)
        kind = "causal" if kind == "embedding" else kind
        if kind in ("causal", "unknown", "value_head"):
            kind = "value_head" if self.value_head_file else "causal"
            kind = "sequence_classification" if self._head_in_adapter else kind
        if self._arguments.stage == "rm" and kind == "causal":
            raise ModelLoadError(
                f"stage=rm, but {name} has no reward head",
                why="there are neither v_head weights nor a sequence-classification head",
                fix="name a reward model, or leave stage out",
            )
        if self._arguments.stage == "sft" and kind == "sequence_classification":
            raise ModelLoadError(
                f"stage=sft, but {name} is a sequence classifier: it scores, and can't generate",
                fix="stage=rm, or leave stage out",
            )
        return "causal" if self._arguments.stage == "sft" else kind

    def _embedding(self, kind: CheckpointKind) -> CheckpointKind:
        """An embedding model, if there is nothing in it that would be left out."""
        name, head = self._checkpoint.name, self.value_head_file
        if kind == "sequence_classification" or self._head_in_adapter or head:
            raise ModelLoadError(
                f"stage=embed, but {name} is a reward model",
                why="its head would be left out",
                fix="stage=rm, or leave stage out",
            )
        if self._adapters and not self._arguments.adapter_merge:
            raise ArgumentError(
                "adapter_merge=false makes no sense with an embedding model",
                why="requests for embeddings choose no adapter",
                fix="leave adapter_merge out",
                argument="adapter_merge",
            )
        return "embedding"

    def load(self, progress: Progress) -> LoadedModel:
        """Loads weights, adapters and head.

        Raises:
            ModelLoadError: corrupt or missing weights, an architecture that Transformers does not know.
            ArgumentError: a device or quantisation that this machine does not have.
        """
        progress("importing transformers", None)
        device = _device(self._arguments)
        try:
            return self._load(device, progress)
        except (EngineroomError, MemoryError):
            raise
        except Exception as error:  # whatever Transformers, safetensors or peft raise on a broken checkpoint
            raise ModelLoadError(
                f"{self._checkpoint.name} can't be loaded",
                why=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}",
                fix=f"engineroom doctor {self._checkpoint.name}",
            ) from error

    def close(self) -> None:
        """Frees what does not go with the model. Nothing may be computing."""

    def _load(self, device: torch.device, progress: Progress) -> LoadedModel:
        model = self._load_model(device, progress)
        for folder in self._adapters:
            folder.check_fits(self._checkpoint)
        if self._adapters:
            progress("adding adapters", None)
        if self._arguments.adapter_merge:
            model = merge(model, self._adapters)
        adapters = AdapterSwitch(model)
        for name, folder in self.separate_adapters.items():
            adapters.add(name, folder)
        text = model.config.get_text_config()
        head = None
        if self.kind == "value_head" and self.value_head_file is not None:
            head = load_value_head(self.value_head_file, text.hidden_size).to(model.device)
        model.eval()
        note = self._arrange(model, progress)
        context = self._arguments.model_maxlen or self._checkpoint.context_length or 4096
        ragged, prefixes = self._batching(model, context, progress)
        progress("ready", 1.0)
        return LoadedModel(
            model=model,
            device=model.device,
            context_length=min(context, prefixes.cache.size) if prefixes is not None else context,
            value_head=head,
            adapters=adapters,
            rope=DynamicRope.of(model),
            single=self._single(model, proven=prefixes is not None),
            pad_token_id=_padding(text),
            ragged=ragged,
            prefixes=prefixes,
            note=note,
        )

    def _arrange(self, model: Model, progress: Progress) -> str:
        """Gives norms and linear layers the form that suits a CPU; what a user should know of it."""
        if model.device.type != "cpu" or self._arguments.device_map:
            return ""
        error = None
        with torch.inference_mode():
            if self.can_generate:
                simplify(model)  # whole texts gain little by it, and a score is a sum of all roundings
            if self._arguments.quantization_bit is None:
                arrange(model, decodes=self.can_generate)
            else:
                progress("quantising", None)
                error = quantize(model)
        give_back()
        keep_freed_memory()
        if error is None:
            return ""
        note = f"int8 weights: a relative error of {error:.2g} in the logits"
        _log.info("%s has %s", self._checkpoint.name, note)
        return note

    def _batching(
        self, model: Model, context: int, progress: Progress
    ) -> tuple[RaggedModel | str, PrefixCache | None]:
        """The model for several requests at once and the memory for them, or why it takes one at a time."""
        if not self.can_generate:
            return "", None
        progress("trying several requests at once", None)
        with torch.inference_mode():
            ragged = make_ragged(
                model,
                attention=self._arguments.flash_attn,
                keeps_logits=keeps_logits(model),
                cached=self._arguments.use_kv_cache and cache_argument(model) is not None,
                exact=self.exact,
            )
        if isinstance(ragged, str):
            _log.warning("%s answers one request at a time: %s", self._checkpoint.name, ragged)
            return ragged, None
        return ragged, PrefixCache(self._kv_cache(ragged, context))

    def _single(self, model: Model, *, proven: bool) -> SingleModel:
        with torch.inference_mode():
            return make_single(
                model,
                cached=self._arguments.use_kv_cache,
                exact=self.exact and model.dtype == torch.float32 and not self._arguments.quantization_bit,
                proven=proven or not self.can_generate,
            )

    def _kv_cache(self, ragged: RaggedModel, context: int) -> KVCache:
        """
        Raises:
            ArgumentError: hf_kv_cache_memory is too small for any request.
        """
        given = self._arguments.hf_kv_cache_memory
        budget = default_budget(ragged.device) if given is None else int(given * 2**30)
        requests = self._arguments.max_concurrent or BaseEngine.max_concurrency
        size = tokens_within(budget, ragged.layers, requests * context)
        if size < min(context, _SMALLEST):
            raise ArgumentError(
                f"hf_kv_cache_memory={budget / 2**30:.3g} is too small for this model",
                why=f"a token takes {ragged.bytes_per_token} bytes, so it holds {size} tokens",
                fix=f"give at least {ragged.bytes_per_token * min(context, 4096) / 2**30:.2g} (GiB)",
                argument="hf_kv_cache_memory",
            )
        if size < context:
            _log.warning(
                "hf_kv_cache_memory=%.3g (GiB) holds %d tokens: the context is that long, not %d",
                budget / 2**30,
                size,
                context,
            )
        return KVCache(ragged.layers, size, ragged.device)

    def _load_model(self, device: torch.device, progress: Progress) -> Model:
        import transformers

        arguments = self._arguments
        cast("Any", transformers.logging).disable_progress_bar()  # our own stages say it
        self._checkpoint.check_weights()  # before any memory is taken
        progress("reading the weights", None)
        family = (
            transformers.AutoModelForSequenceClassification
            if self.kind == "sequence_classification"
            else transformers.AutoModelForCausalLM
        )
        spread = arguments.quantization_device_map if arguments.quantization_bit else None
        config = self._config()
        options: dict[str, object] = {
            "config": config,
            "dtype": "auto" if arguments.infer_dtype == "auto" else getattr(torch, arguments.infer_dtype),
            "device_map": arguments.device_map or spread or {"": device},
            "attn_implementation": _attention(arguments),
            "quantization_config": _quantization(arguments),
            "offload_folder": arguments.offload_folder if arguments.device_map else None,
            "trust_remote_code": arguments.trust_remote_code,
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,  # its own error does not say which weights; _check_loaded does
        }
        given = {name: value for name, value in options.items() if value is not None}
        load = cast("LoadModel", self._load_class(family, config).from_pretrained)
        model, info = load(str(self._checkpoint.path), **given)
        self._check_loaded(model, info)
        return model

    def _load_class(self, family: Any, config: ModelConfig) -> Any:
        """Whose ``from_pretrained`` loads the model."""
        return family

    def _check_loaded(self, model: Model, info: Mapping[str, Any]) -> None:
        """Nothing random may be left in the model, and no head that was trained be left out."""
        name = self._checkpoint.name
        missing = sorted(k for k in info["missing_keys"] if not self._is_dispensable(k))
        if missing:
            raise ModelLoadError(
                f"{name} lacks weights that its architecture needs",
                why=f"missing: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}",
                fix="download or save the model again; running it would answer with random weights",
            )
        for weight, found, wanted in sorted(info["mismatched_keys"]):
            raise ModelLoadError(
                f"{name} has weights of another shape than its architecture needs",
                why=f"{weight} is {list(found)}, and has to be {list(wanted)}",
                fix="download or save the model again",
            )
        heads = [key for key in info["unexpected_keys"] if "v_head." in key]
        if heads and self.kind == "causal" and self._arguments.stage != "sft":
            raise ModelLoadError(
                f"{name} has a value head that was not recognised as one",
                why=f"{heads[0]} lies in a pickled pytorch_model.bin",
                fix="save the reward model as safetensors, or say stage=sft to generate with it",
            )
        if self.kind == "sequence_classification" and model.config.num_labels != 1:
            raise ModelLoadError(
                f"{name} classifies into {model.config.num_labels} labels",
                why="a reward model has one",
                fix="name a reward model",
            )

    def _is_dispensable(self, weight: str) -> bool:
        """A head that an adapter brings, or that an embedding does not need."""
        return (self._head_in_adapter and "score" in weight) or (
            self.kind == "embedding" and weight.startswith("lm_head.")
        )

    def _config(self) -> ModelConfig:
        """The checkpoint's config, with the rope scaling that was asked for."""
        from transformers import AutoConfig

        read = cast("Any", AutoConfig).from_pretrained
        config: Any = read(self._checkpoint.path, trust_remote_code=self._arguments.trust_remote_code)
        if self._head_in_adapter:
            config.num_labels = 1
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
        scale_rope(config.get_text_config(), kind, native, wanted)
        return config


def _padding(text: TextConfig) -> int | None:
    """The padding token, or else an end token; the configs of some architectures have neither."""
    end: int | list[int] | None = getattr(text, "eos_token_id", None)
    padding: int | None = getattr(text, "pad_token_id", None)
    return padding if padding is not None else end[0] if isinstance(end, list) else end


def _attention(arguments: Arguments) -> str | None:
    """Transformers' name for the attention implementation; None lets it choose.

    Raises:
        ArgumentError: its library is not installed.
    """
    module = {"fa2": "flash_attn", "fa3": "flash_attn_interface"}.get(arguments.flash_attn)
    if module is not None and importlib.util.find_spec(module) is None:
        raise ArgumentError(
            f"flash_attn={arguments.flash_attn} needs FlashAttention",
            why=f"the module {module} is not installed",
            fix="leave flash_attn out: auto takes the fastest that is here",
            argument="flash_attn",
        )
    return _ATTENTION.get(arguments.flash_attn)


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
        if arguments.quantization_bit == 8 and int8_engine() is not None and not arguments.device_map:
            return None  # our own int8 layers, once it is loaded
        raise ArgumentError(
            f"quantization_bit={arguments.quantization_bit} needs an NVIDIA GPU",
            why="bitsandbytes quantises on CUDA, and no CUDA device was found",
            fix="quantization_bit=8 runs on this CPU; infer_dtype=bfloat16 halves the memory of a float32 model"
            if int8_engine() is not None
            else "leave quantization_bit out; infer_dtype=bfloat16 halves the memory of a float32 model",
            argument="quantization_bit",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ArgumentError(
            f"quantization_bit={arguments.quantization_bit} needs bitsandbytes",
            why="it is not installed",
            fix="pip install 'engineroom[bitsandbytes]'",
            argument="quantization_bit",
        )
    from transformers import BitsAndBytesConfig

    if arguments.quantization_bit == 8:
        if arguments.infer_dtype == "float32":
            raise ArgumentError(
                "quantization_bit=8 does not go with infer_dtype=float32 on a GPU",
                why="bitsandbytes' int8 layers compute in 16 bits",
                fix="leave infer_dtype out",
                argument="infer_dtype",
            )
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=arguments.quantization_type,
        bnb_4bit_use_double_quant=arguments.double_quantization,
        bnb_4bit_compute_dtype=torch.float16 if arguments.infer_dtype == "float16" else torch.bfloat16,
    )
