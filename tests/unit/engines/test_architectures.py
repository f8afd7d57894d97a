"""Architectures that keep their past each in their own way: in a cache, in a state, in the modules, or not at all."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tiny_models
from engineroom import ChatModel
from engineroom.engines.huggingface import sequence

_IDS = {"vocab_size": 1024, "eos_token_id": tiny_models.END, "pad_token_id": tiny_models.PAD}
_STATE = {**_IDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
_LLAMA = {
    **_IDS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
_JAMBA = {
    "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "num_experts": 2,
    "num_experts_per_tok": 1, "mamba_d_state": 4, "use_mamba_kernels": False,
}  # fmt: skip
_DEEPSEEK = {
    **_LLAMA, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "moe_intermediate_size": 32, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_shared_experts": 1,
}  # fmt: skip
_SMALL_GPT = {"vocab_size": 1024, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}

MODELS: dict[str, Callable[[], Any]] = {
    "sliding windows": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(**_LLAMA, sliding_window=8)
    ),
    "windows in every other layer": lambda: transformers.Qwen3ForCausalLM(
        tiny_models.config(
            num_hidden_layers=4, use_sliding_window=True, sliding_window=8, max_window_layers=2
        )
    ),
    "positions from a table": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**_SMALL_GPT)),
    "experts": lambda: transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(**_LLAMA, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    ),
    "soft-capped scores": lambda: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(**_LLAMA, head_dim=8, sliding_window=8)
    ),
    "scores biased by distance": lambda: transformers.BloomForCausalLM(
        transformers.BloomConfig(
            vocab_size=1024, hidden_size=32, n_layer=2, n_head=4, eos_token_id=tiny_models.END
        )
    ),
    "attention sinks": lambda: transformers.GptOssForCausalLM(
        transformers.GptOssConfig(
            **_LLAMA, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=8
        )
    ),
    "compressed keys": lambda: transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**_DEEPSEEK)),
    "an index of compressed keys": lambda: transformers.DeepseekV32ForCausalLM(
        transformers.DeepseekV32Config(**_DEEPSEEK, index_head_dim=16, index_n_heads=2, index_topk=8)
    ),
    "states and positions of its own": lambda: transformers.BambaForCausalLM(
        transformers.BambaConfig(
            **{**_LLAMA, "num_hidden_layers": 2},
            attn_layer_indices=[1],
            mamba_n_heads=8,
            mamba_d_head=8,
            mamba_d_state=4,
            mamba_n_groups=1,
            mamba_expand=2,
        )
    ),
    "chunked attention": lambda: transformers.Llama4ForCausalLM(
        transformers.Llama4TextConfig(
            **_LLAMA, head_dim=8, intermediate_size_mlp=64, num_local_experts=2, attention_chunk_size=8
        )
    ),
    "a state under another name": lambda: transformers.MambaForCausalLM(transformers.MambaConfig(**_STATE)),
    "a state that takes many tokens": lambda: transformers.Mamba2ForCausalLM(
        transformers.Mamba2Config(**_STATE, num_heads=8, head_dim=8, n_groups=1)
    ),
    "states between attention": lambda: transformers.JambaForCausalLM(
        transformers.JambaConfig(**_LLAMA, **_JAMBA)
    ),
    "a state in its modules": lambda: transformers.RecurrentGemmaForCausalLM(
        transformers.RecurrentGemmaConfig(**_LLAMA, attention_window_size=8, lru_width=32)
    ),
    "a state of its own kind": lambda: transformers.RwkvForCausalLM(
        transformers.RwkvConfig(
            vocab_size=1024, hidden_size=32, num_hidden_layers=2, eos_token_id=tiny_models.END
        )
    ),
    "no cache": lambda: transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**_SMALL_GPT)),
}

BATCHED = {
    "sliding windows",
    "windows in every other layer",
    "positions from a table",
    "experts",
    "compressed keys",
}


@pytest.mark.parametrize("kind", MODELS)
def test_answers_are_those_of_generate_beside_others(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts go through in small pieces where they may, and four answers are made side by side."""
    monkeypatch.setitem(sequence.PREFILL_CHUNKS, "cpu", 5)
    torch.manual_seed(1)
    reference = MODELS[kind]().eval()
    for weight in reference.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    folder = tiny_models.save(reference, tmp_path / "model")
    texts = ["What is 7 plus 5?", "hi", "a long text, " * 4, "no"]
    with ChatModel({"model_name_or_path": str(folder)}) as model:
        alone = model.health().detail
        assert alone == "" if kind in BATCHED else alone.startswith("one request at a time: ")

        def answer(text: str) -> list[int]:
            return list(model.chat(text, temperature=0, max_new_tokens=10, ignore_eos=True)[0].token_ids)

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(answer, texts))
        prompts = [torch.tensor([model.render(text).token_ids]) for text in texts]
    for prompt, found in zip(prompts, answers, strict=True):
        with torch.inference_mode():
            whole = reference.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=10,
                eos_token_id=None,
                pad_token_id=tiny_models.PAD,
            )
        assert found == whole[0, prompt.shape[1] :].tolist()
