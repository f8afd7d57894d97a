"""What a caller asks for, as it came through one of the facade's methods: not read yet, not checked yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from engineroom.types import Message, Tool

Conversation: TypeAlias = "str | Sequence[Mapping[str, Any] | Message]"

RawPrompt: TypeAlias = "str | Sequence[int]"
"""A text or token ids to go on with as they are, without a template."""

_RENDERING = ("enable_thinking", "continue_final")
_DEPTH = 4  # a well-formed conversation's text lies no deeper


def nobody() -> None:
    """Is told that a call was accepted, where nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of ``chat`` and of its kin, LLaMA-Factory's names kept, as one value.

    Attributes:
        options: sampling parameters, and the switches of rendering.
        prompts: one or several to go on with as they are, without a template, instead of ``messages``.
        accepted: called when nothing is left that could be refused, before the engine is asked for the first token.
    """

    messages: Conversation
    system: str | None = None
    tools: Any = None
    images: Any = None
    videos: Any = None
    audios: Any = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    prompts: Sequence[RawPrompt] = ()
    accepted: Callable[[], object] = nobody

    @property
    def rendering(self) -> dict[str, Any]:
        """The options that change the prompt, where given: ``enable_thinking``, ``continue_final``."""
        return {name: self.options[name] for name in _RENDERING if self.options.get(name) is not None}

    @property
    def sampling(self) -> dict[str, Any]:
        """The options that change how the answer is drawn."""
        return {name: value for name, value in self.options.items() if name not in _RENDERING}

    @property
    def length(self) -> int:
        """About how many characters there are to render."""
        return text_length((self.messages, self.system, self.tools, self.prompts))


def raw_prompts(prompt: RawPrompt | Sequence[RawPrompt]) -> Sequence[RawPrompt]:
    """One or several, in the forms of OpenAI's ``prompt``: a text, token ids, or a list of either."""
    if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int):
        return (cast("RawPrompt", prompt),)
    return cast("Sequence[RawPrompt]", prompt)


def text_length(value: Any, depth: int = _DEPTH) -> int:
    """About how many characters a conversation, or several of them, have."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, (Message, Tool)):
        return len(repr(value))
    if depth and isinstance(value, Mapping):
        return sum(text_length(item, depth - 1) for item in cast("Mapping[Any, Any]", value).values())
    if isinstance(value, Sequence) and value and isinstance(value[0], int):
        return len(cast("Sequence[int]", value))  # token ids
    if depth and isinstance(value, Sequence):
        return sum(text_length(item, depth - 1) for item in cast("Sequence[Any]", value))
    return 0
