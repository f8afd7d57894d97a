"""Scores through vLLM's pooling runner, without the activation that it puts on by default."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engineroom.checkpoint import VALUE_HEAD_FILES, Checkpoint, holds_value_head
from engineroom.errors import GenerationError, ModelLoadError

if TYPE_CHECKING:
    from torch import Tensor, nn
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
        from vllm.inputs.engine import tokens_input
        from vllm.pooling_params import PoolingParams

        params = PoolingParams(task="embed" if self.head else "classify", use_activation=False)
        value = math.nan
        async for output in engine.encode(
            tokens_input(list(token_ids)), params, request_id, lora_request=adapter
        ):
            data = output.outputs.data.float()
            value = float(
                data.reshape(-1)[0] if self.head is None else self.head(data.reshape(-1)).detach()[0]
            )
        if not math.isfinite(value):
            raise GenerationError(
                "the model's score is not a number (NaN or infinite)",
                why="the weights are broken, or infer_dtype overflows on this prompt",
                fix="try infer_dtype=float32 or infer_dtype=bfloat16",
            )
        return value


def without_head(checkpoint: Checkpoint, folder: Path) -> Path:
    """The checkpoint as a causal model alone: links to its files, and a copy of a file that holds a head among others.

    Args:
        folder: an empty one.
    """
    import torch
    from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]

    for file in checkpoint.path.iterdir():
        if file.name in VALUE_HEAD_FILES:
            continue
        if file not in checkpoint.weight_files or not holds_value_head(file):
            (folder / file.name).symlink_to(file.resolve())
        elif file.suffix == ".safetensors":
            save_file(_headless(load_file(file)), folder / file.name, metadata={"format": "pt"})
        else:
            tensors: Mapping[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
            torch.save(_headless(tensors), folder / file.name)
    return folder


def _headless(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("v_head.")}
