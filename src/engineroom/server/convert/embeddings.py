"""Vectors as OpenAI's clients read them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from engineroom.errors import ParameterError
from engineroom.server.convert.usage import of_prompts
from engineroom.server.wire.embeddings import EmbeddingRequest
from engineroom.types import Embedding

MAX_INPUTS = 2048
"""OpenAI's own limit."""


def inputs_of(body: EmbeddingRequest) -> list[Any]:
    """What to embed: texts, lists of token ids, or one conversation.

    Raises:
        ParameterError: there is none, or too much.
    """
    if (body.input is None) == (body.messages is None):
        raise ParameterError("give input or messages", parameter="input")
    given = body.input
    if given is None:
        return [body.messages]
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]
    if not 0 < len(given) <= MAX_INPUTS:
        raise ParameterError(
            f"input holds {len(given)} texts", why=f"1 to {MAX_INPUTS} go into one request", parameter="input"
        )
    for place, item in enumerate(given):
        if item == []:  # which would be a conversation without messages
            where = f"input[{place}]"
            raise ParameterError(f"{where} has no tokens", parameter=where)
    return list(given)


def embedding_list(vectors: Sequence[Embedding], model: str, *, as_base64: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": place, "embedding": _packed(v) if as_base64 else list(v.values)}
            for place, v in enumerate(vectors)
        ],
        "usage": of_prompts(sum(vector.prompt_length for vector in vectors)),
    }


def _packed(vector: Embedding) -> str:
    """The numbers as little-endian float32, which is what OpenAI's clients unpack."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector.values)).decode()
