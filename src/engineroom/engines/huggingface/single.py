"""A model as it answers one request at a time: in a cache of its own, or without; a prompt in pieces, or whole."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from engineroom.engines.huggingface.library import Model

Cache: TypeAlias = DynamicCache


@dataclass(frozen=True)
class SingleModel:
    """Used on the inference thread only.

    Attributes:
        keeps_logits: ``forward`` computes the logits of chosen tokens only.
        takes_positions: ``forward`` is told where the tokens stand, as ``generate`` tells it. Bamba, for one, counts them
            from 0 in each call otherwise.
        cache_argument: what ``forward`` calls its cache; None keeps none, and every step reads all tokens again.
        divides_prompts: a long prompt may go through ``forward`` in pieces.
    """

    model: Model
    device: torch.device
    keeps_logits: bool
    takes_positions: bool
    cache_argument: str | None
    divides_prompts: bool

    def new_cache(self) -> Cache | None:
        if self.cache_argument is None:
            return None
        return DynamicCache(config=cast("PreTrainedConfig", self.model.config))

    def logits(self, token_ids: Sequence[int], *, past: int, cache: Cache | None, every: bool) -> Tensor:
        """One forward pass over the tokens that follow the ``past`` ones in the cache, which takes them in.

        Returns:
            [positions, vocabulary] with ``every``, else [1, vocabulary] for the last one, where the model can do that.
        """
        positions = torch.arange(past, past + len(token_ids), device=self.device)[None]
        output = self.model(
            input_ids=torch.tensor([token_ids], device=self.device),
            use_cache=cache is not None,
            **({"position_ids": positions} if self.takes_positions else {}),
            **({self.cache_argument: cache} if self.cache_argument is not None else {}),
            **({"logits_to_keep": 0 if every else 1} if self.keeps_logits else {}),
        )
        return output.logits[0]


def make_single(model: Model, *, cached: bool, exact: bool, proven: bool) -> SingleModel:
    """The model, used as it declares that it can be.

    Unless it is ``proven`` already, a few tokens show whether it does what it declares: in pieces they must lead to where
    they lead as ``generate`` has them, the prompt at once and then a token; more nearly so if the model is ``exact``, a
    float32 one without rounded parts.
    """
    declared = SingleModel(
        model,
        model.device,
        keeps_logits(model),
        "position_ids" in inspect.signature(model.forward).parameters,
        cache_argument(model) if cached else None,
        divides_prompts(model),
    )
    if proven or declared.cache_argument is None:
        return declared
    vocabulary = int(cast("Any", model.config.get_text_config()).vocab_size)
    ids = [(7919 * i + 13) % vocabulary for i in range(1, 14)]
    try:
        expected = _in_pieces(declared, ids[:12], ids[12:])
    except Exception:  # it goes on from its cache in a way of its own
        return replace(declared, cache_argument=None)
    if not declared.divides_prompts:
        return declared
    try:
        found = _in_pieces(declared, ids[:5], ids[5:12], ids[12:])
    except Exception:
        return replace(declared, divides_prompts=False)
    error = float((found - expected).abs().max() / expected.abs().max())
    return replace(declared, divides_prompts=error <= (1e-3 if exact else 0.1))


def _in_pieces(single: SingleModel, *pieces: list[int]) -> Tensor:
    """[vocabulary], the logits of the last token."""
    cache, past = single.new_cache(), 0
    last = torch.empty(0)
    for piece in pieces:
        last = single.logits(piece, past=past, cache=cache, every=False)[-1].float()
        past += len(piece)
    return last


def keeps_logits(model: Model) -> bool:
    """Can ``forward`` skip the logits of all positions but the last?"""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def cache_argument(model: Model) -> str | None:
    """What the model's ``forward`` calls a ``DynamicCache``; None if it takes none.

    A name that it does not know would vanish in its ``**kwargs``, and each token be computed as if it were the first:
    Mamba and its kin have a name of their own, and models older than ``Cache`` (GPT-1, RWKV, XLNet, …) have none.
    RecurrentGemma keeps half of its state in its modules (their ``_setup_cache``), where answers would mix theirs.
    """
    takes_one: Callable[[], bool] = getattr(model, "_supports_default_dynamic_cache", lambda: True)
    if not takes_one() or any(hasattr(module, "_setup_cache") for module in model.modules()):
        return None
    names = inspect.signature(model.forward).parameters
    return next((name for name in ("past_key_values", "cache_params") if name in names), None)


def divides_prompts(model: Model) -> bool:
    """Does ``forward`` go on from its cache with several tokens at once?

    Mamba's does so with one token only, and forgets its state before several (transformers 5.19, ``modeling_mamba.py``:
    ``use_precomputed_states and seq_len == 1``). Of the models with such a state none is trusted; nor are those whose
    layers keep more than keys and values, for what that is used for shows in long prompts only (DeepSeek-V3.2's index
    leads to other tokens in pieces).
    """
    if getattr(model, "_is_stateful", False):
        return False
    layers = DynamicCache(config=cast("PreTrainedConfig", model.config)).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
