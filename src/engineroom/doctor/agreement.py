"""Do config.json and the weights belong together?"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import Any, cast

from engineroom.checkpoint import Checkpoint, TensorInfo
from engineroom.doctor.finding import Finding, problem
from engineroom.doctor.shape import integer

_EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in)\.weight")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_FIX = "use the config.json and the weights that were saved together"


def agreement_findings(
    checkpoint: Checkpoint, tensors: Sequence[TensorInfo]
) -> Generator[Finding, None, None]:
    """Sizes that config.json and the weights tell differently.

    Only what is sure is said: of a model with several embeddings or towers, nothing.
    """
    config = checkpoint.text_config
    layers = integer(config, "num_hidden_layers", "n_layer", "num_layers")
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and layers is not None and len(cast("list[Any]", kinds)) != layers:
        count = len(cast("list[Any]", kinds))
        yield problem(
            f"config.json contradicts itself: {layers} layers, {count} layer_types", "", "correct it"
        )
    if config is not checkpoint.config or "quantization_config" in checkpoint.config:
        return
    tables = [t for t in tensors if _EMBEDDINGS.search(t.name) and len(t.shape) == 2]
    rows = tables[0].shape[0] if len(tables) == 1 else None
    if rows is not None and checkpoint.vocab_size is not None and rows != checkpoint.vocab_size:
        yield problem(
            f"config.json says vocab_size {checkpoint.vocab_size}; the embedding in the weights has {rows} rows",
            "the vocabulary was resized and only one of the two was saved, or they are of different models",
            _FIX,
        )
    numbers = [int(found[1]) for t in tensors if (found := _LAYER.search(t.name))]
    if layers is not None and numbers and max(numbers) + 1 < layers:
        yield problem(
            f"config.json says {layers} layers; the weights have {max(numbers) + 1}",
            "the missing ones would be random",
            _FIX,
        )
