"""The shapes of the shipped models, and how they are written to disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from engineroom.demo.train.tokenizer import CONTEXT, END, END_OF_TEXT, token_id


def _config(
    tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, inner: int, heads: int
) -> Qwen3Config:
    """Heads of 32: the smallest size that every engine supports on a CPU."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=token_id(tokenizer, END),
        pad_token_id=token_id(tokenizer, END_OF_TEXT),
    )


def chat_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    model = Qwen3ForCausalLM(_config(tokenizer, hidden=192, layers=4, inner=640, heads=6))
    model.generation_config = _generation(tokenizer)
    return model


def moe_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3MoeForCausalLM:
    """Four experts in each layer, two for each token. 256 is the smallest size that all of kt-kernel's methods take."""
    config = cast(Any, Qwen3MoeConfig)(
        vocab_size=len(tokenizer),
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=256,
        norm_topk_prob=True,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=token_id(tokenizer, END),
        pad_token_id=token_id(tokenizer, END_OF_TEXT),
    )
    model = Qwen3MoeForCausalLM(config)
    cast(Any, model).set_experts_implementation(
        "eager"
    )  # a fifth faster in training than the default, on a CPU
    model.generation_config = _generation(tokenizer)
    return model


def _generation(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    end, end_of_text = token_id(tokenizer, END), token_id(tokenizer, END_OF_TEXT)
    return GenerationConfig(
        do_sample=True, temperature=0.3, top_p=0.9, eos_token_id=[end, end_of_text], pad_token_id=end_of_text
    )


def reward_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForSequenceClassification:
    config = _config(tokenizer, hidden=128, layers=2, inner=256, heads=4)
    config.num_labels = 1
    return Qwen3ForSequenceClassification(config)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the weights in bfloat16, for half the bytes, and ``dtype`` float32, to be computed in."""
    halved, words = cast(Any, model).to(torch.bfloat16), cast(Any, tokenizer)
    halved.save_pretrained(folder)
    words.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
