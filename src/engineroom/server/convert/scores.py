"""Pairs and texts to what is scored, and scores to bodies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engineroom.errors import ParameterError
from engineroom.server.wire.scores import RerankRequest, ScoreRequest
from engineroom.types import Embedding

MAX_TEXTS = 2048


def pairs_of(body: ScoreRequest) -> list[tuple[str, str]]:
    """``text_1`` and ``text_2``, one to one or one to many.

    Raises:
        ParameterError: they don't go together.
    """
    if body.text_1 is None or body.text_2 is None:
        raise ParameterError("give input, or text_1 and text_2", parameter="input")
    first, second = _listed(body.text_1), _listed(body.text_2)
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second) or not 0 < len(first) <= MAX_TEXTS:
        raise ParameterError(
            f"text_1 holds {len(first)} texts, text_2 {len(second)}",
            why=f"one and 1 to {MAX_TEXTS}, or as many in both",
            parameter="text_2",
        )
    return list(zip(first, second, strict=True))


def inputs_of(body: ScoreRequest) -> list[Any]:
    """Texts or conversations.

    Raises:
        ParameterError: there are texts in pairs, too; or too many.
    """
    if body.text_1 is not None or body.text_2 is not None:
        raise ParameterError(
            "input and text_1 can't be combined", fix="give one of the two", parameter="input"
        )
    given: list[Any] = [body.input] if isinstance(body.input, str) else list(body.input or ())
    return checked(given, "input")


def checked(given: list[Any], name: str) -> list[Any]:
    if not 0 < len(given) <= MAX_TEXTS:
        raise ParameterError(
            f"{name} holds {len(given)} texts", why=f"1 to {MAX_TEXTS} go into one request", parameter=name
        )
    return given


def documents_of(body: RerankRequest) -> list[str]:
    """
    Raises:
        ParameterError: a document has no text.
    """
    texts: list[str] = []
    for place, document in enumerate(body.documents):
        text = document if isinstance(document, str) else document.get("text")
        if text is None:
            where = f"documents[{place}]"
            raise ParameterError(f"{where} has no text", why='a text, or {"text": …}', parameter=where)
        texts.append(text)
    return texts


def as_conversation(question: str, answer: str) -> list[dict[str, str]]:
    """How a reward model sees a pair."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def cosine(one: Embedding, other: Embedding) -> float:
    dot = math.fsum(a * b for a, b in zip(one.values, other.values, strict=True))
    lengths = math.hypot(*one.values) * math.hypot(*other.values)
    return dot / lengths if lengths else 0.0


def sigmoid(score: float) -> float:
    """Without overflow at either end."""
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))


def ranked(scores: Sequence[float], texts: Sequence[str], body: RerankRequest) -> list[dict[str, Any]]:
    """The best first; equal ones in their own order."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])[: body.top_n or None]
    document = body.return_documents is not False
    return [
        {
            "index": place,
            "relevance_score": scores[place],
            **({"document": {"text": texts[place]}} if document else {}),
        }
        for place in order
    ]


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
