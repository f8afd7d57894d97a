"""What the two processes say to each other. A new method of ``BaseEngine`` is one line in ``CALLS``, a new attribute
one in ``FACTS``.

::

    to the host                              from the host
    ["call", id, method, [value, …]]         ["done", id, result]      a call's or an answer's end
    ["answer", id, prompt, params]           ["error", id, error]      the other end
    ["more", id, count]                      ["chunk", id, chunk]
    ["cancel", id]                           ["progress", stage, share]
                                             ["facts", {name: value}]

Ids are integers, chosen by whoever calls. Every call and every answer has exactly one end, cancelled ones too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from engineroom.engines.hosted.codec import (
    BOOLEAN,
    INTEGER,
    NOTHING,
    NUMBER,
    OBJECT,
    PARAMS,
    PATH,
    POOLING,
    PROMPT,
    SUPPORT,
    TEXT,
    VECTOR,
    Codec,
    items_of,
    list_of,
    map_of,
    optional,
)

WINDOW = 64
"""Chunks of one answer that may be on their way. The host waits until the reader has taken half of them."""


@dataclass(frozen=True, slots=True)
class Call:
    """A method's values and its result.

    Attributes:
        counted: a request, which ``Health.running`` counts.
    """

    values: tuple[Codec[Any], ...] = ()
    result: Codec[Any] = NOTHING
    counted: bool = False

    def encode(self, values: Sequence[Any]) -> list[Any]:
        return [codec.encode(value) for codec, value in zip(self.values, values, strict=True)]

    def decode(self, values: Any) -> list[Any]:
        """
        Raises:
            ProtocolError: these are not the method's values.
        """
        items = items_of(values, len(self.values))
        return [codec.decode(item) for codec, item in zip(self.values, items, strict=True)]


CALLS: Mapping[str, Call] = MappingProxyType(
    {
        "start": Call((TEXT, TEXT, OBJECT)),  # the engine's name, its class, the arguments that were given
        "prepare": Call((PARAMS,)),
        "score": Call((list_of(PROMPT),), list_of(NUMBER), counted=True),
        "embed": Call((list_of(PROMPT),), list_of(VECTOR), counted=True),
        "load_adapter": Call((TEXT, PATH)),
        "unload_adapter": Call((TEXT,)),
        "sleep": Call(),
        "wake": Call(),
        "flush_cache": Call(),
        "update_weights": Call((PATH,)),
        "close": Call(),
    }
)
"""The methods of ``BaseEngine`` that answer once; ``start`` makes the engine too."""

FACTS: Mapping[str, Codec[Any]] = MappingProxyType(
    {
        "capabilities": map_of(SUPPORT),
        "lacks": map_of(TEXT),
        "max_concurrency": INTEGER,
        "context_length": optional(INTEGER),
        "can_generate": BOOLEAN,
        "can_embed": BOOLEAN,
        "pooling": POOLING,
        "adapters": map_of(PATH),
    }
)
"""The attributes of ``BaseEngine`` that the engine itself sets. They are sent when they have changed."""
