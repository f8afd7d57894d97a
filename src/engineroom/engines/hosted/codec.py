"""Our frozen values as JSON, and back. Whatever is not exactly such a value is a :class:`ProtocolError`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast, get_args

from engineroom import errors
from engineroom.engines.hosted.wire import ProtocolError
from engineroom.engines.pooling import Pooling, PoolingKind
from engineroom.errors import EngineError, EngineroomError, MessageError, shown
from engineroom.params import ResponseFormat
from engineroom.types import Chunk, FinishReason, Prompt, SamplingParams, Support, TokenLogprob

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """``decode`` raises :class:`ProtocolError` for whatever ``encode`` can't have made."""

    encode: Callable[[T], Any]
    decode: Callable[[Any], T]


def _same(value: Any) -> Any:
    return value


def list_of(codec: Codec[T]) -> Codec[list[T]]:
    return Codec(
        lambda values: [codec.encode(value) for value in values],
        lambda value: [codec.decode(item) for item in _list(value)],
    )


def optional(codec: Codec[T]) -> Codec[T | None]:
    return Codec(
        lambda value: None if value is None else codec.encode(value),
        lambda value: None if value is None else codec.decode(value),
    )


def map_of(codec: Codec[T]) -> Codec[Mapping[str, T]]:
    return Codec(
        lambda values: {name: codec.encode(value) for name, value in values.items()},
        lambda value: MappingProxyType({name: codec.decode(item) for name, item in _object(value).items()}),
    )


# --- plain values ---------------------------------------------------------------------------------------------------


def _wrong(value: object, expected: str) -> ProtocolError:
    return ProtocolError(f"{shown(value)} is not {expected}")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(value, "a list")
    return cast("list[Any]", value)


def items_of(value: Any, count: int) -> list[Any]:
    """A list of just so many."""
    items = _list(value)
    if len(items) != count:
        raise _wrong(items, f"a list of {count}")
    return items


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(value, "an object")
    return cast("dict[str, Any]", value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(value, "text")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(value, "true or false")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise _wrong(value, "an integer")
    return value


def _number(value: Any) -> float:
    """NaN and infinities too, which Python's JSON has."""
    if type(value) is not float and type(value) is not int:
        raise _wrong(value, "a number")
    try:
        return float(value)
    except OverflowError as error:
        raise _wrong(value, "a number") from error


def _nothing(value: Any) -> None:
    if value is not None:
        raise _wrong(value, "nothing")


def _token_ids(value: Any) -> tuple[int, ...]:
    ids = _list(value)
    if not all(type(token_id) is int for token_id in ids):
        raise _wrong(ids, "a list of token ids")
    return tuple(ids)


TEXT: Codec[str] = Codec(_same, _text)
INTEGER: Codec[int] = Codec(_same, _integer)
NUMBER: Codec[float] = Codec(_same, _number)
BOOLEAN: Codec[bool] = Codec(_same, _boolean)
VECTOR: Codec[tuple[float, ...]] = Codec(list, lambda value: tuple(map(_number, _list(value))))
NOTHING: Codec[None] = Codec(_same, _nothing)
OBJECT: Codec[dict[str, Any]] = Codec(_same, _object)
PATH: Codec[Path] = Codec(lambda path: str(path.absolute()), lambda value: Path(_text(value)))
"""Absolute, for the other process may have stayed in a folder that this one has left."""

# --- what goes in ---------------------------------------------------------------------------------------------------


def _encode_prompt(prompt: Prompt) -> Any:
    if prompt.media:
        raise MessageError(
            "images, videos and audio do not go to an engine in another Python environment",
            fix="use the engine in this environment, or send text",
        )
    return [prompt.token_ids, prompt.text, prompt.inside_thinking]


def _decode_prompt(value: Any) -> Prompt:
    token_ids, text, inside_thinking = items_of(value, 3)
    return Prompt(_token_ids(token_ids), _text(text), inside_thinking=_boolean(inside_thinking))


_DEFAULTS = SamplingParams()


def _encode_params(params: SamplingParams) -> Any:
    """What differs from the defaults, by name."""
    values = {name: getattr(params, name) for name in SamplingParams.names()}
    values = {name: value for name, value in values.items() if value != getattr(_DEFAULTS, name)}
    if params.response_format is not None:
        values["response_format"] = [params.response_format.kind, params.response_format.source]
    return values


def _decode_params(value: Any) -> SamplingParams:
    """``SamplingParams`` checks each value itself, and reads lists as tuples and JSON's keys as token ids."""
    values = dict(_object(value))
    try:
        if "response_format" in values:
            kind, source = items_of(values["response_format"], 2)
            values["response_format"] = ResponseFormat(cast("Any", _text(kind)), _text(source))
        return SamplingParams(**values)
    except (EngineroomError, TypeError) as error:
        raise ProtocolError(f"these are no sampling parameters: {error}") from error


PROMPT = Codec(_encode_prompt, _decode_prompt)
PARAMS = Codec(_encode_params, _decode_params)

# --- what comes out -------------------------------------------------------------------------------------------------


def _encode_logprob(entry: TokenLogprob) -> Any:
    return [entry.token_id, entry.logprob, entry.top]


def _decode_logprob(value: Any) -> TokenLogprob:
    token_id, logprob, top = items_of(value, 3)
    pairs = (items_of(pair, 2) for pair in _list(top))
    return TokenLogprob(
        _integer(token_id), _number(logprob), tuple((_integer(i), _number(value)) for i, value in pairs)
    )


_LOGPROBS = optional(list_of(Codec(_encode_logprob, _decode_logprob)))
_PROMPT_LOGPROBS = optional(list_of(optional(Codec(_encode_logprob, _decode_logprob))))
_REASONS = (None, *get_args(FinishReason))


def _encode_chunk(chunk: Chunk) -> Any:
    """What is rare is left out where it says nothing: all but the first two, or all but the first three."""
    short = [chunk.token_ids, chunk.finish_reason]
    if chunk.logprobs is None and chunk.prompt_logprobs is None and not chunk.index:
        return [*short, chunk.cached_tokens] if chunk.cached_tokens else short
    logprobs, prompt_logprobs = cast("tuple[Any, Any]", (chunk.logprobs, chunk.prompt_logprobs))
    told = _LOGPROBS.encode(logprobs), _PROMPT_LOGPROBS.encode(prompt_logprobs)
    return [*short, chunk.cached_tokens, *told, chunk.index]


def _decode_chunk(value: Any) -> Chunk:
    items = _list(value)
    token_ids, reason, *rest = items_of(items, len(items) if len(items) in (2, 3) else 6)
    if reason is not None and reason not in _REASONS:
        raise _wrong(reason, "a finish reason")
    cached = _integer(rest[0]) if rest else 0
    if len(rest) < 2:
        return Chunk(_token_ids(token_ids), reason, cached_tokens=cached)
    logprobs, prompt_logprobs = _LOGPROBS.decode(rest[1]), _PROMPT_LOGPROBS.decode(rest[2])
    return Chunk(
        _token_ids(token_ids),
        reason,
        None if logprobs is None else tuple(logprobs),
        None if prompt_logprobs is None else tuple(prompt_logprobs),
        _integer(rest[3]),
        cached,
    )


CHUNK = Codec(_encode_chunk, _decode_chunk)

# --- what is told of the engine -------------------------------------------------------------------------------------

_SUPPORTS = get_args(Support)


def _support(value: Any) -> Support:
    if value not in _SUPPORTS:
        raise _wrong(value, "a kind of support")
    return value


def _decode_pooling(value: Any) -> Pooling:
    kind, normalize, max_tokens = items_of(value, 3)
    if kind not in get_args(PoolingKind):
        raise _wrong(kind, "a kind of pooling")
    return Pooling(kind, _boolean(normalize), optional(INTEGER).decode(max_tokens))


SUPPORT: Codec[Support] = Codec(_same, _support)
POOLING: Codec[Pooling] = Codec(lambda p: [p.kind, p.normalize, p.max_tokens], _decode_pooling)

# --- errors ---------------------------------------------------------------------------------------------------------

_ATTRIBUTES = (
    "argument", "parameter", "prompt_length", "context_length", "feature", "engine", "engines", "retry_after", "timeout",
    "tokens", "status", "place",
)  # fmt: skip
"""What errors have beside what, why and fix."""


class RemoteError(Exception):
    """An exception of the other process: its name and its message."""


def _encode_error(error: BaseException) -> Any:
    """One of ours as it is, a stranger as an ``EngineError``; causes by name and message."""
    ours = error if isinstance(error, EngineroomError) else _as_ours(error)
    name = next(cls.__name__ for cls in type(ours).__mro__ if getattr(errors, cls.__name__, None) is cls)
    more = {name: value for name, value in vars(ours).items() if name in _ATTRIBUTES}
    cause = ours.__cause__
    return [name, ours.what, ours.why, ours.fix, more, None if cause is None else _told(cause)]


def _as_ours(error: BaseException) -> EngineroomError:
    ours = EngineError("the engine failed in its own process", why=_told(error))
    ours.__cause__ = error
    return ours


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _decode_error(value: Any) -> EngineroomError:
    name, what, why, fix, more, cause = items_of(value, 6)
    found = getattr(errors, _text(name), None)
    cls = found if isinstance(found, type) and issubclass(found, EngineroomError) else EngineError
    error = cls.__new__(cls)  # each has a constructor of its own, which would word it anew
    EngineroomError.__init__(error, _text(what), why=_text(why), fix=_text(fix))
    for attribute, item in _object(more).items():
        if attribute not in _ATTRIBUTES:
            raise _wrong(attribute, "an error's attribute")
        setattr(error, attribute, tuple(cast("Sequence[Any]", item)) if isinstance(item, list) else item)
    if cause is not None:
        error.__cause__ = RemoteError(_text(cause))
    return error


ERROR: Codec[EngineroomError] = Codec(_encode_error, _decode_error)
encode_error: Callable[[BaseException], Any] = _encode_error
