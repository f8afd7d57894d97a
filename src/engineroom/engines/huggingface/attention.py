"""Attention of one step's tokens over the KV memory, each request over its own range.

Transformers calls it in place of its own (its ``AttentionInterface``) while a batch is at work; the model's layers
around it see one long row of tokens and need not know of requests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer

from engineroom.engines.huggingface.batch import Group, RaggedBatch, Span
from engineroom.engines.huggingface.kv_cache import LayerShape

NAME = "engineroom_ragged"
"""In Transformers' table of attention functions. It has no mask function there, so that models make no masks for it."""


class UnknownAttentionError(Exception):
    """The model asks its attention for something that this one does not do."""


class _Current(threading.local):
    """Each engine has a thread of its own, and each thread a batch of its own."""

    batch: RaggedBatch | None = None
    layer: int = 0


_current = _Current()


class BatchCache(Cache):
    """What the model takes for its cache: it puts each token's keys and values where the batch says."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[DynamicLayer() for _ in range(layers)])

    def update(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Keys and values are [1, heads, tokens, size], and come back as they are: attention reads the memory."""
        batch = _current.batch
        assert batch is not None
        batch.cache.keys[layer_idx].index_copy_(0, batch.slots, key_states[0].transpose(0, 1))
        batch.cache.values[layer_idx].index_copy_(0, batch.slots, value_states[0].transpose(0, 1))
        _current.layer = layer_idx
        return key_states, value_states


@contextmanager
def at_work(batch: RaggedBatch, configs: Iterable[Any]) -> Generator[None, None, None]:
    """Within, models with these configs run this batch."""
    before = [(config, config._attn_implementation) for config in configs]
    _current.batch = batch
    try:
        for config, _ in before:
            config._attn_implementation = NAME
        yield
    finally:
        _current.batch = None
        for config, name in before:
            config._attn_implementation = name


_HARMLESS = frozenset(
    ("dropout", "is_causal", "position_ids", "use_cache", "output_attentions", "output_hidden_states",
     "return_dict", "sliding_window", "logits_to_keep", "cache_position", "output_router_logits")
)  # fmt: skip
"""What models pass on to attention and what changes nothing here; windows are the config's."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Query is [1, heads, tokens, size]; the result [1, tokens, heads, value size].

    Raises:
        UnknownAttentionError: the model wants something else than causal softmax attention.
    """
    batch = _current.batch
    unknown = [name for name, given in options.items() if given is not None and name not in _HARMLESS]
    if batch is None or attention_mask is not None or unknown or not getattr(module, "is_causal", True):
        raise UnknownAttentionError(", ".join(unknown) or "a mask of its own")
    cache, layer = batch.cache, _current.layer
    kept = Kept(cache.layers[layer], cache.keys[layer], cache.values[layer], _expansion(module))
    rows = query.transpose(1, 2)[0]  # [tokens, heads, size]
    parts = [_decode(batch, group, rows, kept, scaling) for group in batch.groups]
    parts += [
        _prefill(batch, span, query[:, :, first : first + len(span.token_ids)], kept, scaling)
        for first, span in batch.prefills
    ]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None


_Expand = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_EXPANDED = 4096
"""Tokens whose keys and values are made at once: DeepSeek-V3's are 80 KiB for each in bf16, in each layer."""


class Kept(NamedTuple):
    """What a layer keeps of all tokens, and how attention reads it.

    Attributes:
        expand: makes keys and values, a head each, of what is kept: DeepSeek's layers keep a latent vector (arXiv
            2405.04434), and Transformers calls the way back ``expand_kv``.
    """

    shape: LayerShape
    keys: Tensor
    values: Tensor
    expand: _Expand | None

    def expanded(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Of the tokens in view: [requests, heads, tokens, size]."""
        return (key, value) if self.expand is None else self.expand(key, value)


def _expansion(module: nn.Module) -> _Expand | None:
    # A module looks for what it does not have in all its tables, and that at every token: its class is asked.
    return cast("Any", module).expand_kv if hasattr(type(module), "expand_kv") else None


cast("Any", AttentionInterface).register(NAME, attend)


class _Sight(NamedTuple):
    """What a group's requests see of the memory, in layers that keep the same: [count, heads, tokens, size] of it.

    Attributes:
        keys: as ``as_strided`` takes it: sizes, strides and the first number's place.
        mask: added to the scores, [count, 1, 1, tokens]. None if every request sees all that is there.
    """

    group: Group
    keys: _Lie
    values: _Lie
    mask: Tensor | None


_Lie = tuple[tuple[int, ...], tuple[int, ...], int]


def _sights(batch: RaggedBatch, group: Group, kept: Kept, rows: Tensor) -> list[_Sight]:
    """Worked out for the first of the layers that are alike; in parts of not too many tokens where they are expanded."""
    place = ("decode", group.first, kept.shape, kept.expand is None)
    found = cast("list[_Sight] | None", batch.known.get(place))
    if found is None:
        parts = [group] if kept.expand is None else group.split(max(1, _EXPANDED // max(group.lengths)))
        found = batch.known[place] = [_sight(part, kept, rows) for part in parts]
    return found


def _sight(group: Group, kept: Kept, rows: Tensor) -> _Sight:
    window, longest = kept.shape.window, max(group.lengths)
    first = max(0, min(group.lengths) - window) if window is not None else 0

    def lie(store: Tensor) -> _Lie:
        token, head, _ = store.stride()
        sizes = (group.count, store.shape[1], longest - first, store.shape[2])
        return sizes, (group.stride * token, head, token, 1), (group.start + first) * token

    return _Sight(group, lie(kept.keys), lie(kept.values), _decode_mask(group, first, longest, window, rows))


def _decode(batch: RaggedBatch, group: Group, rows: Tensor, kept: Kept, scaling: float | None) -> Tensor:
    """One token of each of a group's requests: of [tokens, heads, size] to [count, heads, value size].

    The query heads that share a head of keys stand where a sequence's tokens would: [count, key heads, sharing, size].
    """
    attention, parts = _attention(batch), list[Tensor]()
    for part, keys, values, mask in _sights(batch, group, kept, rows):
        key, value = kept.expanded(kept.keys.as_strided(*keys), kept.values.as_strided(*values))
        own = rows if part.count == len(rows) else rows[part.first : part.first + part.count]
        query = own.reshape(part.count, key.shape[1], -1, rows.shape[2])
        out = attention(query, key, value, mask, scaling)
        parts.append(out.reshape(part.count, rows.shape[1], -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _decode_mask(group: Group, first: int, longest: int, window: int | None, rows: Tensor) -> Tensor | None:
    """Added to the scores: [count, 1, 1, longest - first]. None if every request sees all that is there."""
    if min(group.lengths) == longest:
        return None
    lengths = torch.tensor(group.lengths, device=rows.device)[:, None]
    places = torch.arange(first, longest, device=rows.device)[None]
    seen = places < lengths
    if window is not None:
        seen &= places >= lengths - window
    mask = torch.zeros(seen.shape, dtype=rows.dtype, device=rows.device).masked_fill_(~seen, -torch.inf)
    return mask[:, None, None]


def _prefill(batch: RaggedBatch, span: Span, query: Tensor, kept: Kept, scaling: float | None) -> Tensor:
    """Several tokens of one request: [1, heads, tokens, size] to [tokens, heads, value size]."""
    window = kept.shape.window
    first = max(0, span.past + 1 - window) if window is not None else 0
    seen = slice(span.start + first, span.start + span.length)
    key, value = kept.expanded(kept.keys[seen].transpose(0, 1)[None], kept.values[seen].transpose(0, 1)[None])
    place = ("prefill", span.start, window)
    if place not in batch.known:
        batch.known[place] = _prefill_mask(span, first, window, query)
    out = _attention(batch)(query, key, value, cast("Tensor | None", batch.known[place]), scaling)
    return out[0].transpose(0, 1)


def _prefill_mask(span: Span, first: int, window: int | None, query: Tensor) -> Tensor | None:
    """Added to the scores: [tokens, length - first]. None if there is but one token, which sees all."""
    if len(span.token_ids) == 1:
        return None
    places = torch.arange(first, span.length, device=query.device)[None]
    own = torch.arange(span.past, span.length, device=query.device)[:, None]
    seen = places <= own
    if window is not None:
        seen &= places > own - window
    return torch.zeros(seen.shape, dtype=query.dtype, device=query.device).masked_fill_(~seen, -torch.inf)


_Attention = Callable[[Tensor, Tensor, Tensor, "Tensor | None", "float | None"], Tensor]


def _attention(batch: RaggedBatch) -> _Attention:
    return _eager if batch.eager else _fused


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    shared = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=shared)


def _eager(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """The same by matrix products, as Transformers' eager attention: softmax in fp32."""
    heads, tokens = query.shape[1], query.shape[2]
    sharing = heads // key.shape[1]
    query = query.reshape(query.shape[0], key.shape[1], sharing * tokens, query.shape[3])
    scores = query @ key.transpose(2, 3) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    if mask is not None:
        scores += mask if tokens == 1 or sharing == 1 else mask.repeat(sharing, 1)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).reshape(query.shape[0], heads, tokens, -1)
