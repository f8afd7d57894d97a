"""What a caller asks for, as it came through one of the facade's methods: not read yet, not checked yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast

from engineroom.types import Message, Tool

Conversation: TypeAlias = "str | Sequence[Mapping[str, Any] | Message]"

RawPrompt: TypeAlias = "str | Sequence[int]"
"""A text or token ids to go on with as they are, without a template."""

_RENDERING = ("enable_thinking", "continue_final")
_DEPTH = 6  # a well-formed conversation's text lies no deeper, nor that of several

LONG_TEXT = 20_000
"""Characters, and parts of a conversation: to make the tokens of more would hold up other streams, so a thread does it."""


T = TypeVar("T")


async def beside(work: Callable[[], T], length: int, *, most: int = LONG_TEXT) -> T:
    """Does what takes time with the length of something: at once, or of more than ``most`` on a thread."""
    return work() if length <= most else await asyncio.to_thread(work)


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
        """About how many characters there are to render; a little more than ``LONG_TEXT`` is as far as it counts."""
        return text_length((self.messages, self.system, self.tools, self.prompts))


def raw_prompts(prompt: RawPrompt | Sequence[RawPrompt]) -> Sequence[RawPrompt]:
    """One or several, in the forms of OpenAI's ``prompt``: a text, token ids, or a list of either."""
    if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int):
        return (cast("RawPrompt", prompt),)
    return cast("Sequence[RawPrompt]", prompt)


def text_length(value: Any, depth: int = _DEPTH, enough: int = LONG_TEXT) -> int:
    """About how many characters a conversation, or several of them, have; a part of one counts as a character at least.

    Args:
        enough: from here on it does not matter how many more there are.
    """
    if isinstance(value, str):
        return len(value)
    if isinstance(value, (Message, Tool)):
        return len(repr(value))
    if not depth or not isinstance(value, (Mapping, Sequence)):
        return 1
    if isinstance(value, Mapping):
        parts = list(cast("Mapping[Any, Any]", value).values())
    else:
        parts = cast("Sequence[Any]", value)
        if parts and isinstance(parts[0], int):
            return len(parts)  # token ids
    length = 1
    for part in parts:
        if length > enough:
            break
        length += text_length(part, depth - 1, enough - length)
    return length
