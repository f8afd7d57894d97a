"""What vLLM's pooling runner makes of a text: a classifier's logits, or its hidden states as one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

PoolingTask: TypeAlias = Literal["classify", "embed"]


async def pooled(
    engine: AsyncLLM,
    token_ids: Sequence[int],
    request_id: str,
    task: PoolingTask,
    adapter: LoRARequest | None,
) -> Tensor:
    """[labels] or [width] in float32, without the activation that vLLM puts on by default."""
    from vllm.inputs.engine import tokens_input
    from vllm.pooling_params import PoolingParams

    params = PoolingParams(task=task, use_activation=False)
    outputs = [
        output
        async for output in engine.encode(
            tokens_input(list(token_ids)), params, request_id, lora_request=adapter
        )
    ]
    return outputs[-1].outputs.data.float().reshape(-1)
