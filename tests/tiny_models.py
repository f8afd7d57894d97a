"""Tiny random checkpoints, saved as Transformers saves real ones, with the shipped tokenizer and chat template.

What is tested against Transformers needs no model that knows anything; it needs one whose logits differ enough from
each other that nothing hangs on rounding. They are smaller than those of the conformance suite, which every engine has
to take.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from engineroom.testing import models

END, PAD = 1017, 1015  # <|im_end|>, <|endoftext|>


def config(**changes: Any) -> Qwen3Config:
    values = {
        "vocab_size": 1024,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "bos_token_id": None,
        "initializer_range": 0.4,
    }
    return Qwen3Config(**{**values, **changes})


def save(model: Any, folder: Path, **generation_config: Any) -> Path:
    model.save_pretrained(folder)
    models.add_tokenizer(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": END, **generation_config}))
    return folder


def causal(folder: Path, seed: int = 0, generation: dict[str, Any] | None = None, **changes: Any) -> Path:
    torch.manual_seed(seed)
    return save(Qwen3ForCausalLM(config(**changes)).eval(), folder, **(generation or {}))


def classifier(folder: Path, seed: int = 0, **changes: Any) -> Path:
    torch.manual_seed(seed)
    return save(Qwen3ForSequenceClassification(config(num_labels=1, **changes)).eval(), folder)


def lora(base: Path, folder: Path, seed: int, **changes: Any) -> Path:
    return models.lora(base, folder, seed, **{"target_modules": ["q_proj", "v_proj", "down_proj"], **changes})


def reference(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def quantised(base: Path, folder: Path) -> Path:
    """The model with linear layers in int8, a scale per output, as llm-compressor saves W8A8 (compressed-tensors)."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        scale = weights[name].float().abs().amax(1, keepdim=True) / 127
        weights[f"{name}_scale"] = scale
        weights[name] = (weights[name].float() / scale).round().to(torch.int8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    number = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**number, "strategy": "channel", "dynamic": False},
        "input_activations": {**number, "strategy": "token", "dynamic": True},
    }
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
