"""What engineroom adds to SGLang: ``python benchmarks/sglang_overhead.py [--concurrent 32] [--tokens 64] [--rounds 7]``.

One server. In turn, round by round: 32 requests at once through ``ChatModel.achat``, and the same prompts as token ids
through a bare ``httpx.AsyncClient`` that streams from the same server. Exits with 1 below the ratio that is promised.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
import side_by_side

from engineroom import ChatModel

PROMISED = 0.9


def through_client(model: ChatModel, prompts: Sequence[Sequence[int]], tokens: int) -> side_by_side.Way:
    engine: Any = model.engine
    inner = engine._client._http
    sampling = {"temperature": 0.0, "max_new_tokens": tokens, "ignore_eos": True}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    client = httpx.AsyncClient(base_url=inner.base_url, headers=inner.headers, timeout=None, limits=limits)

    async def generate(prompt: Sequence[int]) -> int:
        body = {"input_ids": list(prompt), "sampling_params": sampling, "stream": True}
        count = 0
        async with client.stream("POST", "/generate", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    count += len(json.loads(line.removeprefix("data: "))["output_ids"])
        return count

    async def generate_all() -> int:
        return sum(await asyncio.gather(*map(generate, prompts)))

    return generate_all


if __name__ == "__main__":
    sys.exit(side_by_side.main(__doc__, "sglang", "httpx.AsyncClient", through_client, PROMISED))
