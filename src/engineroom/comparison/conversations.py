"""The conversations that are put to both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ComparedConversation:
    """Messages and tools as ``ChatModel.chat`` takes them, and a name for reports."""

    name: str
    messages: Any
    tools: Any = None


def _turns(*texts: str) -> list[dict[str, str]]:
    return [
        {"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(texts)
    ]


DEFAULT_CONVERSATIONS: tuple[ComparedConversation, ...] = (
    ComparedConversation("short", _turns("Hi")),
    ComparedConversation("question", _turns("What is 7 plus 5?")),
    ComparedConversation(
        "system", [{"role": "system", "content": "Answer in one word."}, *_turns("What colour is the sky?")]
    ),
    ComparedConversation("several turns", _turns("My name is Ada.", "Hello, Ada!", "What is my name?")),
    ComparedConversation("unicode", _turns("Übersetze ins Englische: „Schöne Grüße“ 日本語 👋🏽")),
    ComparedConversation(
        "long",
        _turns("Continue the list.\n" + "\n".join(f"{place}. item number {place}" for place in range(1, 31))),
    ),
)
"""Short and long, with and without a system prompt, one turn and several, letters of several scripts."""
