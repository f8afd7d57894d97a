"""Several requests in one forward pass: whether a model can do that, and doing it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.cache_utils import CacheLayerMixin, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from engineroom.engines.huggingface.attention import BatchCache, UnknownAttentionError, at_work
from engineroom.engines.huggingface.batch import Span, build
from engineroom.engines.huggingface.kv_cache import KVCache, LayerShape
from engineroom.engines.huggingface.library import Model
from engineroom.engines.huggingface.rope import rope_kinds


@dataclass(frozen=True)
class RaggedModel:
    """A model that reads the tokens of several requests in one pass. Used on the inference thread only.

    Attributes:
        layers: what each layer keeps of a token.
        keeps_logits: ``forward`` computes the logits of chosen tokens only.
        eager: attention by plain matrix products.
    """

    model: Model
    device: torch.device
    layers: tuple[LayerShape, ...]
    configs: tuple[Any, ...]
    keeps_logits: bool
    eager: bool

    @property
    def bytes_per_token(self) -> int:
        return sum(shape.bytes_per_token for shape in self.layers)

    def logits(self, spans: Sequence[Span], cache: KVCache) -> list[Tensor]:
        """Reads the spans' tokens; their keys and values go into the cache.

        Returns:
            For each span [tokens, vocabulary] where all were wanted, [1, vocabulary] where the last one was, else
            [0, vocabulary].
        """
        batch, order = build(spans, cache, self.device, eager=self.eager)
        # 0 is all of them, without a copy.
        keep = batch.wanted if len(batch.wanted) < batch.input_ids.shape[1] else 0
        with at_work(batch, self.configs):
            output = self.model(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                past_key_values=BatchCache(len(self.layers)),
                use_cache=True,
                **({"logits_to_keep": keep} if self.keeps_logits else {}),
            )
        rows = output.logits[0] if self.keeps_logits else output.logits[0, batch.wanted]
        sizes = [len(spans[i].token_ids) if spans[i].every else int(spans[i].final) for i in order]
        parts = dict(zip(order, torch.split(rows, sizes), strict=True))
        return [parts[i] for i in range(len(spans))]


def make_ragged(
    model: Model, *, attention: str, keeps_logits: bool, cached: bool, exact: bool = True
) -> RaggedModel | str:
    """The model for batches, or why it takes one request at a time.

    The model's own declarations are asked first. Then it proves itself on a few tokens: what it answers in pieces and
    beside others must be what it answers alone; more nearly so if it is ``exact``, a float32 model without rounded parts.
    """
    reason = _declared(model, attention, cached)
    if reason is not None:
        return reason
    vocabulary = int(cast("Any", model.config.get_text_config()).vocab_size)
    long, short = ([(7919 * i + 13) % vocabulary for i in range(1, n)] for n in (14, 6))
    layers, expected = _reference(model, (long, short))
    if isinstance(layers, str):
        return layers
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    ragged = RaggedModel(
        model, model.device, layers, tuple(configs.values()), keeps_logits, attention == "disabled"
    )
    try:
        found = _in_pieces(ragged, long, short)
    except UnknownAttentionError as error:
        return f"its attention uses {error}"
    except Exception as error:  # remote code, or an architecture with ideas of its own
        return f"it does not run so ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    for mine, theirs in zip(found, expected, strict=True):
        error = float(
            (mine - theirs).abs().max() / theirs.abs().max()
        )  # other orders of summation stay far below
        if not error <= (1e-3 if exact and layers[0].dtype == torch.float32 else 0.1):
            return f"beside others it answered differently (relative error {error:.2g} in the logits)"
    return ragged


def _declared(model: Model, attention: str, cached: bool) -> str | None:
    """What the model says of itself that rules batches out."""
    if not cached:
        return "it keeps no cache of keys and values, or use_kv_cache is off"
    config: Any = model.config
    declared: Any = model
    parameters = inspect.signature(model.forward).parameters
    kinds = {kind for module in model.modules() for kind in rope_kinds(module).values()}
    layers = DynamicCache(config=config).layers
    unusual = {type(x).__name__ for x in layers if type(x) not in (DynamicLayer, DynamicSlidingWindowLayer)}
    chunked = "chunked_attention" in (getattr(config.get_text_config(), "layer_types", None) or ())
    for ruled_out, reason in (
        (getattr(declared, "_is_stateful", False), "it keeps a state instead of keys and values"),
        (getattr(config, "is_encoder_decoder", False), "it is an encoder with a decoder"),
        (
            type(model).generate is not cast("Any", GenerationMixin).generate,
            "it brings a generate of its own",
        ),
        (not getattr(declared, "_supports_attention_backend", False), "its attention is not exchangeable"),
        (not {"position_ids", "past_key_values"} <= set(parameters), "its forward takes no positions"),
        (unusual, f"it keeps {', '.join(sorted(unusual))}"),
        (chunked, "its attention is divided into chunks"),
        (len(layers) != config.get_text_config().num_hidden_layers, "its layers share keys and values"),
        (kinds & {"dynamic", "longrope"}, "its rotary embeddings depend on the length of the sequence"),
        (attention in ("fa2", "fa3"), f"flash_attn={attention} was asked for; batches use torch's attention"),
        (len(set(getattr(declared, "hf_device_map", {}).values())) > 1, "it is spread over several devices"),
    ):
        if ruled_out:
            return reason
    return None


def _reference(
    model: Model, prompts: Sequence[list[int]]
) -> tuple[tuple[LayerShape, ...] | str, list[Tensor]]:
    """What the layers keep, and the logits behind each prompt, [vocabulary], by the model as Transformers runs it."""
    expected: list[Tensor] = []
    layers: list[LayerShape] = []
    for prompt in prompts:
        cache = DynamicCache(config=cast("Any", model.config))
        ids = torch.tensor([prompt], device=model.device)
        output = model(input_ids=ids, use_cache=True, past_key_values=cache)
        expected.append(output.logits[0, -1].float())
        if not bool(expected[-1].isfinite().all()):
            return "its logits are not finite", []
        layers = [_shape(layer) for layer in cast("list[CacheLayerMixin]", cache.layers)]
    return tuple(layers), expected


def _shape(layer: CacheLayerMixin) -> LayerShape:
    keys, values = cast("Tensor", layer.keys), cast("Tensor", layer.values)
    window: int | None = getattr(layer, "sliding_window", None)
    return LayerShape(keys.shape[1], keys.shape[3], values.shape[3], keys.dtype, window)


def _in_pieces(ragged: RaggedModel, long: list[int], short: list[int]) -> tuple[Tensor, Tensor]:
    """The same two logits, of prompts that came in pieces, side by side: read and decoded in one pass."""
    cache = KVCache(ragged.layers, 128, ragged.device)
    first, second = cache.extents.allocate(len(long)), cache.extents.allocate(len(short))
    assert first is not None
    assert second is not None
    last: list[Tensor] = []
    for a, b in ((6, 4), (len(long) - 1, 5)):
        done = 0 if a == 6 else 6, 0 if b == 4 else 4
        spans = [
            Span(long[done[0] : a], first.start, first.capacity, done[0], final=False),
            Span(short[done[1] : b], second.start, second.capacity, done[1]),
        ]
        last = ragged.logits(spans, cache)
    end = ragged.logits([Span(long[-1:], first.start, first.capacity, len(long) - 1)], cache)
    return end[0][0].float(), last[1][0].float()
