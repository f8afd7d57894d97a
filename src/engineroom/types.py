"""The values that travel through engineroom. All are frozen; nothing here imports an engine, torch or pydantic.

The life of a request, in these types::

    Message… ──render──▶ Prompt ──engine──▶ Chunk… ──parse──▶ Delta… ──fold──▶ Response
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from engineroom.params import SamplingParams

__all__ = [
    "AudioPart", "Channel", "Chunk", "Delta", "Embedding", "FinishReason", "ImagePart", "MediaPart", "Message", "Part",
    "Prompt", "ReasoningPart", "Response", "Role", "SamplingParams", "Support", "TextPart", "TokenLogprob",
    "Tokenizer", "Tool", "ToolCallPart", "ToolResultPart", "Usage", "VideoPart",
]  # fmt: skip

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal["stop", "length", "abort"]
"""``stop``: an end or stop token, or a stop string. ``length``: the token limit or the context's end.
``abort``: the engine gave the request up on its side."""

Channel: TypeAlias = Literal["answer", "reasoning"]
Support: TypeAlias = Literal["native", "emulated", "unsupported"]

# --- conversation -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """
    Attributes:
        place: where the caller's request has it (``messages[0].content[1]``), for errors to name; no part of what it is.
    """

    source: Any
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class VideoPart:
    source: Any
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class AudioPart:
    source: Any
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """What the assistant thought before it answered; templates show or drop it by their own rules."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A call that the assistant made. ``arguments`` is the parsed JSON object, never its encoding."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    """What a tool answered, as text (JSON where the tool speaks JSON)."""

    text: str
    name: str | None = None
    call_id: str | None = None


Part: TypeAlias = TextPart | ImagePart | VideoPart | AudioPart | ReasoningPart | ToolCallPart | ToolResultPart
MediaPart: TypeAlias = ImagePart | VideoPart | AudioPart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        name: who speaks, where several share a role; a template may show it.
    """

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None

    @property
    def text(self) -> str:
        """The message's plain text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. ``parameters`` is a JSON Schema object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])


# --- what reaches an engine -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prompt:
    """What every engine gets: the same token ids. ``text`` is their source, for people to read.

    ``inside_thinking``: the prompt ends within an open thinking block, so the answer begins with reasoning.
    """

    token_ids: tuple[int, ...]
    text: str = ""
    media: tuple[MediaPart, ...] = ()
    inside_thinking: bool = False

    def __len__(self) -> int:
        return len(self.token_ids)


# --- what leaves an engine --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's natural log-probability; ``top`` holds (id, logprob) of the likeliest, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next tokens of one answer, straight from an engine.

    The last chunk has a ``finish_reason``; a stop token is the last of its ``token_ids``.

    Attributes:
        index: which of several beams; 0 otherwise.
        logprobs: one entry for each token id, if asked for.
        prompt_logprobs: on the first chunk only, if asked for: one for each prompt token, None for the first.
        cached_tokens: on the first chunk, or on all: prompt tokens that were computed for earlier requests.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    index: int = 0
    cached_tokens: int = 0


# --- what reaches the caller ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer: those of the rendered prompt, and those generated, the end token included.

    Attributes:
        cached_tokens: those of the prompt that were computed for earlier requests. It tells how the answer was made, and
            not what it is, so equality leaves it out.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = field(default=0, compare=False)

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of one answer. The texts of an answer's deltas, joined, are its ``response_text``.

    ``text`` may be empty while a character or a possible stop string is held back; the last delta of an answer has
    ``finish_reason`` and ``usage``.

    Attributes:
        index: which of the ``n`` answers.
        channel: ``reasoning`` inside the model's thinking block (its tags included), else ``answer``.
        prompt_usage: on an answer's first delta, the tokens of its prompt, and none of the answer yet.
        stop_string: on the last delta, the stop string that ended the answer, if one did.
    """

    text: str
    index: int = 0
    channel: Channel = "answer"
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    prompt_usage: Usage | None = None
    stop_string: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """One whole answer. The first four fields are LLaMA-Factory's, with the same meaning.

    Attributes:
        response_text: the text as the model wrote it, thinking included.
        response_length: tokens generated, the end token included.
        prompt_length: tokens of the rendered prompt.
        cached_length: those of them that were computed for earlier requests; equality leaves it out.
        stop_string: the stop string that ended the answer, if one did.
    """

    response_text: str
    response_length: int
    prompt_length: int
    finish_reason: FinishReason
    reasoning_text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    cached_length: int = field(default=0, compare=False)
    stop_string: str | None = None

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_length, self.response_length, self.cached_length)


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text as a vector.

    Attributes:
        prompt_length: tokens of the text.
    """

    values: tuple[float, ...]
    prompt_length: int

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Reward:
    """What a reward model thinks of a text.

    Attributes:
        prompt_length: tokens of the text.
    """

    score: float
    prompt_length: int


# --- protocols --------------------------------------------------------------------------------------------------


class Tokenizer(Protocol):
    """What render and parse need of a tokenizer; the Transformers one and the scripted one both fit."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included: every id is below it."""
        ...

    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...

    @property
    def bos_token(self) -> str | None: ...

    @property
    def eos_token(self) -> str | None: ...

    @property
    def pad_token(self) -> str | None: ...

    @property
    def chat_template(self) -> str | Mapping[str, str] | None:
        """Jinja source, or several by name, or None."""
        ...

    @property
    def added_tokens(self) -> Mapping[str, bool]:
        """Each added token's string → whether it is special."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; strings of added tokens become those tokens; nothing is put in front or behind."""
        ...

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a raw string as the tokenizer's own default call gives them (BOS and the like included)."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...
