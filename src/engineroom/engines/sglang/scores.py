"""Scores: a classifier's logit, or a value head's value of SGLang's last hidden state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engineroom.checkpoint import Checkpoint
from engineroom.engines.sglang.client import Client
from engineroom.errors import GenerationError, ModelLoadError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Scorer:
    """How this model scores.

    A classifier's own head is in SGLang, which gives its logit without an activation. A value head stays here: SGLang
    gives the hidden state behind the final norm, of the last token, and the head's one row is multiplied in this process.
    """

    head: nn.Module | None

    @classmethod
    def of(cls, checkpoint: Checkpoint, value_head_file: Path | None) -> Scorer:
        """
        Args:
            value_head_file: None for a classifier.

        Raises:
            ModelLoadError: the head is of another size, or there are several labels.
        """
        if value_head_file is not None:
            from engineroom.engines.huggingface.value_head import load_value_head

            return cls(load_value_head(value_head_file, checkpoint.text_config["hidden_size"]))
        labels = checkpoint.config.get("num_labels", len(checkpoint.config.get("id2label", "12")))
        if labels != 1:
            raise ModelLoadError(
                f"{checkpoint.name} classifies into {labels} labels",
                why="a reward model has one",
                fix="name a reward model",
            )
        return cls(None)

    async def score(self, client: Client, token_ids: Sequence[int], rid: str, adapter: str | None) -> float:
        """
        Raises:
            GenerationError: the score is not a number.
        """
        values = await pooled_state(client, token_ids, rid, adapter)
        if self.head is None:
            value = values[0]
        else:
            import torch

            value = float(self.head(torch.tensor(values)).detach()[0])
        if not math.isfinite(value):
            raise GenerationError(
                "the model's score is not a number (NaN or infinite)",
                why="the weights are broken, or infer_dtype overflows on this prompt",
                fix="try infer_dtype=float32 or infer_dtype=bfloat16",
            )
        return value


async def pooled_state(
    client: Client, token_ids: Sequence[int], rid: str, adapter: str | None
) -> list[float]:
    """[labels] of a classifier, else [width]. ``/classify`` and ``/encode`` are one and the same in SGLang."""
    body = {"rid": rid, "input_ids": list(token_ids)}
    answer = await client.post("/encode", body if adapter is None else {**body, "lora_path": adapter})
    return [math.nan if value is None else float(value) for value in answer["embedding"]]
