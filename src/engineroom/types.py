"""The values that travel through engineroom. All are frozen; nothing here imports an engine, torch or pydantic.

The life of a request, in these types::

    Message… ──render──▶ Prompt ──engine──▶ Chunk… ──parse──▶ Delta… ──fold──▶ Response
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

from engineroom.errors import ParameterError, nearest

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
    source: Any


@dataclass(frozen=True, slots=True)
class VideoPart:
    source: Any


@dataclass(frozen=True, slots=True)
class AudioPart:
    source: Any


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
    role: Role
    parts: tuple[Part, ...]

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


MAX_SEED = 2**63 - 1
MAX_N = 128
MAX_TOP_LOGPROBS = 50
MAX_STOPS = 64


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one answer is drawn. Checked when made: a bad value raises :class:`ParameterError` with its range.

    The logits pass, in this order: ``logit_bias``, ``repetition_penalty`` (over prompt and answer),
    ``presence_penalty`` and ``frequency_penalty`` (over the answer), ``temperature``, ``top_k``, ``top_p``, ``min_p``.

    Attributes:
        temperature: 0 takes the likeliest token (greedy) and leaves ``top_k``, ``top_p`` and ``min_p`` without effect.
        top_k: tokens kept; 0 or -1 keeps all.
        top_p: smallest set of likeliest tokens whose probability reaches this is kept, in (0, 1].
        min_p: tokens less likely than this times the likeliest are dropped, in [0, 1].
        repetition_penalty: > 0; above 1 makes tokens already seen less likely (Keskar et al. 2019, arXiv 1909.05858).
        presence_penalty: subtracted once from the logit of each token already answered, in [-2, 2].
        frequency_penalty: subtracted for each time that it was answered, in [-2, 2].
        logit_bias: token id → added to its logit, in [-100, 100].
        seed: makes the draw repeatable; the i-th of ``n`` answers draws with ``seed + i``. None draws freely.
        n: number of answers.
        max_new_tokens: limit on the answer, tokens; None leaves the rest of the context.
        max_length: limit on prompt and answer together, tokens; ``max_new_tokens`` wins where both are given.
        stop: strings that end the answer; they are not part of it.
        stop_token_ids: token ids that end the answer, beside the model's own end tokens.
        ignore_eos: go on past the model's own end tokens.
        logprobs: None for none; k ≥ 0 for the sampled token's and those of the k likeliest. Natural logarithms, of
            the model's own distribution, before bias, penalties, temperature and truncation.
        prompt_logprobs: the same for each prompt token but the first.
        skip_special_tokens: leave special tokens out of the text.
        num_beams: > 1 searches with beams instead of sampling.
        length_penalty: exponent of the length by which beam scores are divided.
        adapter: name of a LoRA adapter that was kept apart; None is the model as loaded.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    seed: int | None = None
    n: int = 1
    max_new_tokens: int | None = None
    max_length: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    num_beams: int = 1
    length_penalty: float = 1.0
    adapter: str | None = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            problem, value = check(getattr(self, name))
            if problem:
                raise ParameterError(
                    f"{name}={_shown(getattr(self, name))} is not allowed",
                    why=f"{name} must be {problem}",
                    parameter=name,
                )
            object.__setattr__(self, name, value)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(f.name for f in fields(cls))

    @classmethod
    def create(cls, **values: Any) -> SamplingParams:
        """Makes parameters from loose values: LLaMA-Factory's and OpenAI's other names are understood too.

        Raises:
            ParameterError: an unknown name (the nearest one is named), a wrong type or range.
        """
        return cls().updated(**values)

    def updated(self, **values: Any) -> SamplingParams:
        """A copy with some values changed; None means "as it was"."""
        given = {name: value for name, value in values.items() if value is not None}
        do_sample = given.pop("do_sample", None)
        if do_sample is not None and not isinstance(do_sample, bool):
            raise ParameterError(
                f"do_sample={_shown(do_sample)} is not allowed",
                why="do_sample must be true or false",
                parameter="do_sample",
            )
        for alias, name in PARAMETER_ALIASES.items():
            if alias not in given:
                continue
            if name in given:
                raise ParameterError(
                    f"{alias} and {name} are two names of one parameter; give one", parameter=alias
                )
            given[name] = given.pop(alias)
        for name in given:
            if name not in _CHECKS:
                raise unknown_parameter(name)
        if do_sample is False:
            given["temperature"] = 0.0
        if "max_length" in given and "max_new_tokens" not in given:
            given["max_new_tokens"] = None
        return replace(self, **given)


PARAMETER_ALIASES: Mapping[str, str] = MappingProxyType(
    {"num_return_sequences": "n", "max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}
)
"""Other projects' names for the same parameter (Transformers, OpenAI)."""


def unknown_parameter(name: str, known: Sequence[str] = ()) -> ParameterError:
    """The error for a sampling parameter that nobody knows."""
    names = (*SamplingParams.names(), "do_sample", *PARAMETER_ALIASES, *known)
    guess = nearest(name, names)
    return ParameterError(
        f"unknown parameter {name!r}",
        why=f"known parameters: {', '.join(sorted(names))}",
        fix=f"did you mean {guess}?" if guess else "leave it out",
        parameter=name,
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(low: float, high: float, *, open_low: bool = False) -> Any:
    span = f"{'(' if open_low else '['}{low:g}, {high:g}]"

    def check(value: Any) -> tuple[str, Any]:
        ok = _is_number(value) and (value > low if open_low else value >= low) and value <= high
        return ("", float(value)) if ok else (f"a number in {span}", value)

    return check


def _integer(low: int, high: int | None = None, *, optional: bool = False) -> Any:
    span = f"from {low} to {high}" if high is not None else f"of at least {low}"

    def check(value: Any) -> tuple[str, Any]:
        if value is None and optional:
            return "", None
        ok = _is_int(value) and value >= low and (high is None or value <= high)
        return ("", value) if ok else (f"an integer {span}", value)

    return check


def _boolean(value: Any) -> tuple[str, Any]:
    return ("", value) if isinstance(value, bool) else ("true or false", value)


def _stop_strings(value: Any) -> tuple[str, Any]:
    expected = f"a string or a list of at most {MAX_STOPS} non-empty strings"
    strings: tuple[Any, ...] = (
        (value,) if isinstance(value, str) else tuple(value) if _is_list(value) else (None,)
    )
    if len(strings) > MAX_STOPS or not all(isinstance(s, str) and s for s in strings):
        return expected, value
    return "", strings


def _token_ids(value: Any) -> tuple[str, Any]:
    ids: tuple[Any, ...] = (value,) if _is_int(value) else tuple(value) if _is_list(value) else (None,)
    if not all(_is_int(i) and 0 <= i < 2**31 for i in ids):
        return "a token id or a list of token ids, each 0 or more", value
    return "", ids


def _logit_bias(value: Any) -> tuple[str, Any]:
    expected = "a map from token id to a number in [-100, 100]"
    if not isinstance(value, Mapping):
        return expected, value
    bias: dict[int, float] = {}
    for key, amount in value.items():  # pyright: ignore[reportUnknownVariableType]
        if isinstance(key, str) and key.isdecimal():  # JSON has no integer keys
            key = int(key)
        if not (_is_int(key) and 0 <= key < 2**31 and _is_number(amount) and -100 <= amount <= 100):
            return expected, value
        bias[key] = float(amount)  # pyright: ignore[reportUnknownArgumentType]
    return "", bias


def _adapter(value: Any) -> tuple[str, Any]:
    return (
        ("", value)
        if value is None or (isinstance(value, str) and value)
        else ("the name of an adapter", value)
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


_CHECKS: Mapping[str, Any] = MappingProxyType(
    {
        "temperature": _number(0, 100),
        "top_p": _number(0, 1, open_low=True),
        "top_k": _integer(-1),
        "min_p": _number(0, 1),
        "repetition_penalty": _number(0, 100, open_low=True),
        "presence_penalty": _number(-2, 2),
        "frequency_penalty": _number(-2, 2),
        "logit_bias": _logit_bias,
        "seed": _integer(0, MAX_SEED, optional=True),
        "n": _integer(1, MAX_N),
        "max_new_tokens": _integer(1, optional=True),
        "max_length": _integer(1, optional=True),
        "stop": _stop_strings,
        "stop_token_ids": _token_ids,
        "ignore_eos": _boolean,
        "logprobs": _integer(0, MAX_TOP_LOGPROBS, optional=True),
        "prompt_logprobs": _integer(0, MAX_TOP_LOGPROBS, optional=True),
        "skip_special_tokens": _boolean,
        "num_beams": _integer(1, 64),
        "length_penalty": _number(-100, 100),
        "adapter": _adapter,
    }
)

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
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    index: int = 0


# --- what reaches the caller ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer: those of the rendered prompt, and those generated, the end token included."""

    prompt_tokens: int
    completion_tokens: int

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
    """

    text: str
    index: int = 0
    channel: Channel = "answer"
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """One whole answer. The first four fields are LLaMA-Factory's, with the same meaning.

    Attributes:
        response_text: the text as the model wrote it, thinking included.
        response_length: tokens generated, the end token included.
        prompt_length: tokens of the rendered prompt.
    """

    response_text: str
    response_length: int
    prompt_length: int
    finish_reason: FinishReason
    reasoning_text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_length, self.response_length)


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
