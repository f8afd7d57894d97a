"""Embeddings: the hidden states of a text, behind the final norm, as one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engineroom.engines.huggingface.library import floats
from engineroom.engines.huggingface.loaded import LoadedModel
from engineroom.engines.pooling import PoolingKind


def embed(loaded: LoadedModel, token_ids: Sequence[int], kind: PoolingKind) -> tuple[float, ...]:
    """One forward pass without the head; the vector is as long as the model's hidden size. On the inference thread."""
    loaded.adapters.use(None)
    loaded.rope.forget()
    input_ids = torch.tensor([token_ids], device=loaded.device)
    states = loaded.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state[0]
    return tuple(floats(_pooled(states.float(), kind)))


def _pooled(states: Tensor, kind: PoolingKind) -> Tensor:
    """[positions, width] → [width]."""
    if kind == "mean":
        return states.mean(0)
    return states[0] if kind == "cls" else states[-1]
