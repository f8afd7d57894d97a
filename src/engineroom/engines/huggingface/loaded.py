"""A model ready to run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig

from engineroom.engines.huggingface.adapters import AdapterSwitch
from engineroom.engines.huggingface.library import Model
from engineroom.engines.huggingface.prefix import PrefixCache
from engineroom.engines.huggingface.ragged import RaggedModel
from engineroom.engines.huggingface.rope import DynamicRope
from engineroom.engines.huggingface.trouble import not_a_number
from engineroom.engines.huggingface.value_head import ValueHead

Cache: TypeAlias = DynamicCache


@dataclass(frozen=True)
class LoadedModel:
    """A model with all that belongs to it. Used on the inference thread only.

    Attributes:
        context_length: tokens of prompt and answer together.
        cache_argument: what ``forward`` calls its cache; None keeps none, and every step reads all tokens again.
        divides_prompts: a long prompt may go through ``forward`` in pieces.
        pad_token_id: what fills up the shorter ones of several beams.
        ragged: the model for several requests in one pass, or why it takes one at a time.
        prefixes: the memory of their keys and values, with what earlier requests left there.
        note: what a user should know of how the weights are kept.
    """

    model: Model
    device: torch.device
    context_length: int
    value_head: ValueHead | None
    adapters: AdapterSwitch
    rope: DynamicRope
    keeps_logits: bool
    cache_argument: str | None
    divides_prompts: bool
    pad_token_id: int | None
    ragged: RaggedModel | str
    prefixes: PrefixCache | None
    note: str

    @property
    def detail(self) -> str:
        """What a user should know of how this model runs; empty if all is as usual."""
        alone = (
            f"one request at a time: {self.ragged}" if isinstance(self.ragged, str) and self.ragged else ""
        )
        return "; ".join(filter(None, (alone, self.note)))

    def new_cache(self) -> Cache | None:
        if self.cache_argument is None:
            return None
        return DynamicCache(config=cast("PreTrainedConfig", self.model.config))

    def logits(
        self, token_ids: tuple[int, ...], *, cache: Cache | None, adapter: str | None, every: bool
    ) -> Tensor:
        """One forward pass over the tokens that follow what is in the cache, which takes them in.

        Returns:
            [positions, vocabulary] with ``every``, else [1, vocabulary] for the last one, where the model can do that.
        """
        self.adapters.use(adapter)
        self.rope.forget()
        output = self.model(
            input_ids=torch.tensor([token_ids], device=self.device),
            use_cache=cache is not None,
            **({self.cache_argument: cache} if self.cache_argument is not None else {}),
            **({"logits_to_keep": 0 if every else 1} if self.keeps_logits else {}),
        )
        return output.logits[0]

    def score(self, token_ids: tuple[int, ...]) -> float:
        """The reward of a sequence.

        A classifier pools as its own ``forward`` does: at the last token that is no padding. A value head scores the
        last hidden state, behind the final norm.

        Raises:
            GenerationError: it is not a number.
        """
        input_ids = torch.tensor([token_ids], device=self.device)
        self.adapters.use(self.adapters.names[-1] if self.adapters.names else None)
        self.rope.forget()
        if self.value_head is None:
            reward = self.model(input_ids=input_ids, use_cache=False).logits[0, -1]
        else:
            options = {"logits_to_keep": 1} if self.keeps_logits else {}
            output = self.model(input_ids=input_ids, use_cache=False, output_hidden_states=True, **options)
            reward = self.value_head(output.hidden_states[-1][0, -1])[0]
        value = float(reward)
        if not math.isfinite(value):
            raise not_a_number("score")
        return value


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
    ``use_precomputed_states and seq_len == 1``). Of the models with such a state none is trusted.
    """
    return not getattr(model, "_is_stateful", False)
