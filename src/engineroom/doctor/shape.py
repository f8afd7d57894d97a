"""A model's sizes by its config, and what its KV cache takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True, slots=True)
class Shape:
    """What the KV cache depends on.

    Attributes:
        layers: all of them, those without a cache included.
        full_layers: layers that keep every token.
        window_layers: layers that keep the last ``window`` tokens only.
        values_per_token: numbers that one layer keeps of one token, keys and values together.
    """

    layers: int
    full_layers: int
    window_layers: int
    window: int
    values_per_token: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape | None:
        """Reads a language model's config; None if it does not tell enough."""
        layers = integer(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
        values = _values_per_token(config)
        if layers is None or values is None:
            return None
        window = integer(config, "sliding_window", "attention_chunk_size") or 0
        if config.get("use_sliding_window") is False:  # older Qwen2 configs name one that they do not use
            window = 0
        kinds = config.get("layer_types")
        if not isinstance(kinds, list):
            # Then a window is every layer's, as Transformers' DynamicCache has it.
            return cls(layers, 0 if window else layers, layers if window else 0, window, values)
        names = [str(kind) for kind in cast("list[Any]", kinds)]
        full = names.count("full_attention") + names.count("attention")
        windowed = names.count("sliding_attention") + names.count("chunked_attention")
        return cls(layers, full + (0 if window else windowed), windowed if window else 0, window, values)

    def kv_cache_bytes(self, tokens: int, bytes_per_value: int) -> int:
        """The cache of one conversation of this many tokens."""
        kept = self.full_layers * tokens + self.window_layers * min(tokens, self.window)
        return kept * self.values_per_token * bytes_per_value

    def tokens_in(self, room: int, bytes_per_value: int) -> int | None:
        """How many tokens' cache fits into ``room`` bytes; None if any number does."""
        room -= self.window_layers * self.window * self.values_per_token * bytes_per_value
        per_token = self.full_layers * self.values_per_token * bytes_per_value
        return None if per_token == 0 else max(0, room // per_token)


def integer(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of these keys that holds a positive integer."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _values_per_token(config: Mapping[str, Any]) -> int | None:
    heads = integer(config, "num_attention_heads", "n_head", "num_heads", "n_heads")
    hidden = integer(config, "hidden_size", "n_embd", "d_model")
    if heads is None or hidden is None:
        return None
    latent = integer(config, "kv_lora_rank")
    if latent is not None:
        # DeepSeek's latent attention: one compressed vector and one rotary key for all heads.
        return latent + (integer(config, "qk_rope_head_dim") or 0)
    kv_heads = integer(config, "num_key_value_heads", "num_kv_heads") or heads
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):  # Falcon, StarCoder
        kv_heads = 1
    return 2 * kv_heads * (integer(config, "head_dim", "kv_channels") or hidden // heads)
