"""How a reward model scores, for engines that give its hidden states or its logit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engineroom.checkpoint import Checkpoint
from engineroom.errors import GenerationError, ModelLoadError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Reward:
    """A classifier's own head is in the engine, which gives its logit. A value head stays here: the engine gives the hidden
    state of the last token, behind the final norm, and the head's one row is multiplied in this process.
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

    def score(self, values: Tensor) -> float:
        """
        Args:
            values: [1], the logit; for a value head [width], the hidden state.

        Raises:
            GenerationError: the score is not a number.
        """
        value = float((values if self.head is None else self.head(values).detach())[0])
        if not math.isfinite(value):
            raise GenerationError(
                "the model's score is not a number (NaN or infinite)",
                why="the weights are broken, or infer_dtype overflows on this prompt",
                fix="try infer_dtype=float32 or infer_dtype=bfloat16",
            )
        return value
