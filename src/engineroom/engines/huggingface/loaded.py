"""A model ready to run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from engineroom.engines.huggingface.adapters import AdapterSwitch
from engineroom.engines.huggingface.library import Model
from engineroom.engines.huggingface.prefix import PrefixCache
from engineroom.engines.huggingface.ragged import RaggedModel
from engineroom.engines.huggingface.rope import DynamicRope
from engineroom.engines.huggingface.single import SingleModel
from engineroom.engines.huggingface.trouble import not_a_number
from engineroom.engines.huggingface.value_head import ValueHead


@dataclass(frozen=True)
class LoadedModel:
    """A model with all that belongs to it. Used on the inference thread only.

    Attributes:
        context_length: tokens of prompt and answer together.
        single: the model for one request at a time.
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
    single: SingleModel
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
            options = {"logits_to_keep": 1} if self.single.keeps_logits else {}
            output = self.model(input_ids=input_ids, use_cache=False, output_hidden_states=True, **options)
            reward = self.value_head(output.hidden_states[-1][0, -1])[0]
        value = float(reward)
        if not math.isfinite(value):
            raise not_a_number("score")
        return value
