"""What engineroom adds to vLLM: ``python benchmarks/vllm_overhead.py [--concurrent 32] [--tokens 64] [--rounds 7]``.

One engine, one process. In turn, round by round: 32 requests at once through ``ChatModel.achat``, and the same prompts
as token ids through ``AsyncLLM.generate``, driven on the loop that the engine lives on. Exits with 1 below the ratio
that is promised.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import side_by_side

from engineroom import ChatModel

PROMISED = 0.95


def through_vllm(model: ChatModel, prompts: Sequence[Sequence[int]], tokens: int) -> side_by_side.Way:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    engine: Any = model.engine
    bridge: Any = model._bridge  # pyright: ignore[reportPrivateUsage]
    llm = engine._engine
    numbers = itertools.count()

    async def generate(prompt: Sequence[int]) -> int:
        params = SamplingParams(
            temperature=0.0,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        count = 0
        request_id = f"direct-{next(numbers)}"
        async for output in llm.generate({"prompt_token_ids": list(prompt)}, params, request_id):
            count += len(output.outputs[0].token_ids)
        return count

    async def together() -> int:
        return sum(await asyncio.gather(*map(generate, prompts)))

    async def generate_all() -> int:
        return await bridge.acall(together())

    return generate_all


if __name__ == "__main__":
    sys.exit(side_by_side.main(__doc__, "vllm", "AsyncLLM.generate", through_vllm, PROMISED))
