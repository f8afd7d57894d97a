"""Scores through vLLM's pooling runner, without the activation that it puts on by default."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engineroom.checkpoint import Checkpoint
from engineroom.engines.vllm.pooled import pooled
from engineroom.errors import GenerationError, ModelLoadError

if TYPE_CHECKING:
    from torch import nn
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM


@dataclass(frozen=True)
class Reward:
    """How this model scores.

    A classifier's own head is in vLLM (task ``classify``). A value head stays here: vLLM gives the last hidden state
    behind the final norm (task ``embed``), and the head's one row is multiplied in this process.
    """

    head: nn.Module | None

    @classmethod
    def of(cls, checkpoint: Checkpoint, value_head_file: Path | None, hidden_size: int) -> Reward:
        """
        Args:
            value_head_file: None for a classifier.

        Raises:
            ModelLoadError: the head is of another size, or there are several labels.
        """
        from engineroom.engines.huggingface.value_head import load_value_head

        if value_head_file is not None:
            return cls(load_value_head(value_head_file, hidden_size))
        labels = checkpoint.config.get("num_labels", len(checkpoint.config.get("id2label", "12")))
        if labels != 1:
            raise ModelLoadError(
                f"{checkpoint.name} classifies into {labels} labels",
                why="a reward model has one",
                fix="name a reward model",
            )
        return cls(None)

    async def score(
        self, engine: AsyncLLM, token_ids: Sequence[int], request_id: str, adapter: LoRARequest | None
    ) -> float:
        """
        Raises:
            GenerationError: the score is not a number.
        """
        values = await pooled(engine, token_ids, request_id, "embed" if self.head else "classify", adapter)
        value = float((values if self.head is None else self.head(values).detach())[0])
        if not math.isfinite(value):
            raise GenerationError(
                "the model's score is not a number (NaN or infinite)",
                why="the weights are broken, or infer_dtype overflows on this prompt",
                fix="try infer_dtype=float32 or infer_dtype=bfloat16",
            )
        return value
