"""Tiny random checkpoints with the shipped tokenizer and chat template, saved as Transformers saves real ones.

What is compared with Transformers needs no model that knows anything. It needs one whose logits lie far enough apart
that nothing hangs on rounding, and sizes that every engine takes: heads of 32 numbers, for vLLM on a CPU.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

from engineroom import demo

STORY = "Tell me a story."
"""The prompt whose greedy answer, by the tiny model, comes to an end of its own."""

CONTEXT = 4096
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def causal(folder: Path, *, seed: int = 7, sparse: bool = False, **changes: Any) -> Path:
    """A model that answers, with experts if it is to be sparse.

    Its greedy answer to STORY soon says a token that ``generation_config.json`` calls an end.
    """
    from transformers import Qwen3ForCausalLM, Qwen3MoeForCausalLM

    _seed(seed)
    family: Any = Qwen3MoeForCausalLM if sparse else Qwen3ForCausalLM
    _save(family(_config(sparse, **changes)).eval(), folder)
    _end_story(folder)
    return folder


def sparse_classifier(folder: Path) -> Path:
    """A reward model with experts: a sequence classifier of one label."""
    from transformers import Qwen3MoeForSequenceClassification

    _seed(11)
    model: Any = Qwen3MoeForSequenceClassification(_config(sparse=True, num_labels=1))
    _save(model.eval(), folder)
    return folder


def with_value_head(base: Path, folder: Path) -> Path:
    """The same model with a value head beside it: a reward model as TRL and LLaMA-Factory save one."""
    import torch
    from safetensors import torch as safetensors

    shutil.copytree(base, folder)
    _seed(5)
    width = json.loads((base / "config.json").read_text("utf-8"))["hidden_size"]
    tensors = {"v_head.summary.weight": torch.randn(1, width), "v_head.summary.bias": torch.randn(1)}
    cast("Any", safetensors).save_file(tensors, folder / "value_head.safetensors")
    return folder


def with_a_hole(base: Path, folder: Path) -> Path:
    """The same model without the weights of one layer."""
    from safetensors import torch as safetensors

    shutil.copytree(base, folder)
    file = folder / "model.safetensors"
    weights = cast("dict[str, Any]", cast("Any", safetensors).load_file(file))
    hole = next(n for n in weights if n.startswith("model.layers.0.mlp.") and n.endswith(".down_proj.weight"))
    del weights[hole]
    cast("Any", safetensors).save_file(weights, file, metadata={"format": "pt"})
    return folder


def lora(base: Path, folder: Path, seed: int, **changes: Any) -> Path:
    """An adapter that changes its base a good deal. ``changes`` are those of its ``LoraConfig``."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    _seed(seed)
    options: dict[str, Any] = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    config = peft.LoraConfig(task_type="CAUSAL_LM", **{**options, **changes})
    load = cast("Any", AutoModelForCausalLM).from_pretrained
    model = cast("Any", peft).get_peft_model(load(base), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
    model.save_pretrained(str(folder))
    return folder


def add_tokenizer(folder: Path) -> None:
    """The shipped tokenizer and chat template, beside a model's weights."""
    for name in _TOKENIZER_FILES:
        shutil.copy(_demo() / name, folder / name)


def _seed(seed: int) -> None:
    import torch

    cast("Any", torch).manual_seed(seed)


def _config(sparse: bool = False, **changes: Any) -> Any:
    """The sizes of the sparse one are the smallest that all methods of kt-kernel take."""
    from transformers import Qwen3Config, Qwen3MoeConfig

    shipped = json.loads((_demo() / "config.json").read_text("utf-8"))
    values: dict[str, Any] = {
        "vocab_size": shipped["vocab_size"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
        **{name: shipped[name] for name in ("eos_token_id", "pad_token_id", "bos_token_id")},
    }
    experts = {
        "hidden_size": 256,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "norm_topk_prob": True,
        "initializer_range": 0.1,
    }
    family: Any = Qwen3MoeConfig if sparse else Qwen3Config
    return family(**{**values, **(experts if sparse else {}), **changes})


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    add_tokenizer(folder)
    _generation_config(folder, [model.config.eos_token_id])


def _end_story(folder: Path) -> None:
    """Makes the first new token behind the answer's fifth an end token.

    One of several letters: a grammar never needs it, since all single bytes are in the vocabulary.
    """
    from engineroom.preview import PromptPreview
    from engineroom.testing.reference import Reference

    reference = Reference(folder)
    preview = PromptPreview({"model_name_or_path": str(folder)})
    prompt = preview.render(STORY).token_ids
    answer = reference.greedy(prompt, 60)
    end = next(
        token
        for place, token in enumerate(answer)
        if place > 5
        and token not in answer[:place]
        and token not in prompt
        and len(preview.tokenizer.decode([token], skip_special_tokens=False)) > 1
    )
    _generation_config(folder, [json.loads((folder / "config.json").read_text("utf-8"))["eos_token_id"], end])


def _generation_config(folder: Path, ends: list[int]) -> None:
    text = json.dumps({"eos_token_id": ends})
    (folder / "generation_config.json").write_text(text, encoding="utf-8")


def _demo() -> Path:
    path = demo.resolve("demo")
    assert path is not None
    return path
