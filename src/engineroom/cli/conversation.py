"""A conversation in the terminal: what was said, and how each answer came about. Frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

Speaker: TypeAlias = Literal["system", "user", "assistant"]

STOPPED = "stopped"
"""``ended`` of an answer that the user stopped; else it is the engine's finish reason."""


@dataclass(frozen=True, slots=True)
class Said:
    """One message.

    Attributes:
        text: what was said, the thinking left out.
        reasoning: what the assistant thought before, without its tags.
        ended: how an answer ended: a finish reason, or ``stopped``; None where that is not known.
        prompt_tokens: tokens of the prompt that was answered.
        completion_tokens: tokens generated for this answer.
        first_token_seconds: from the request to the first token.
        seconds: from the request to the last token.
    """

    role: Speaker
    text: str
    reasoning: str = ""
    ended: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_token_seconds: float | None = None
    seconds: float | None = None

    def as_message(self) -> dict[str, str]:
        """The message as ChatModel and OpenAI's API know it."""
        thought = {"reasoning_content": self.reasoning} if self.reasoning else {}
        return {"role": self.role, "content": self.text, **thought}


@dataclass(frozen=True, slots=True)
class Summary:
    """A kept conversation, without what was said.

    Attributes:
        name: given by the user, or None.
        title: the name, or how the first user message begins.
        settings: the arguments that the model was loaded with.
        created, updated: with time zone.
        messages: how many there are.
    """

    id: int
    name: str | None
    title: str
    model: str
    engine: str
    settings: Mapping[str, Any]
    created: datetime
    updated: datetime
    messages: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """A kept conversation, whole."""

    summary: Summary
    messages: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that a search found. ``excerpt`` is the part of it around the words."""

    conversation: Summary
    role: Speaker
    excerpt: str


def title_of(messages: Sequence[Said], length: int = 60) -> str:
    """How the first user message begins, on one line."""
    first = next((message.text for message in messages if message.role == "user"), "")
    line = " ".join(first.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"
