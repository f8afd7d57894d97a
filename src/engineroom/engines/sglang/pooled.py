"""What SGLang makes of a text: a classifier's logits, or its hidden states as one vector."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engineroom.engines.sglang.client import Client


async def pooled(client: Client, token_ids: Sequence[int], rid: str, adapter: str | None) -> list[float]:
    """[labels] or [width]. ``/classify`` and ``/encode`` are one and the same in SGLang; it puts no activation on."""
    body = {"rid": rid, "input_ids": list(token_ids)}
    answer = await client.post("/encode", body if adapter is None else {**body, "lora_path": adapter})
    return [math.nan if value is None else float(value) for value in answer["embedding"]]
