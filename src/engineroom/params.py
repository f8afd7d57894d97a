"""How one answer is drawn: every sampling parameter, its range, and the error that a bad value gets."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeGuard, cast, get_args

from engineroom.errors import ParameterError, nearest, shown

MAX_SEED = 2**63 - 1
MAX_N = 128
MAX_TOP_LOGPROBS = 50
MAX_STOPS = 64
MAX_STOP_LENGTH = 512
"""Characters. Each token's text is held against every beginning of every stop string."""

MAX_STOP_TOKENS = 1024
MAX_BIASES = 32_768
MAX_FORMAT = 65_536
"""Characters of a schema, a pattern, a grammar, or of all choices together."""

MAX_TIMEOUT = 10_000_000

FormatKind: TypeAlias = Literal["json_object", "json_schema", "regex", "choice", "grammar"]


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What an answer must look like, from its first token to its last.

    Attributes:
        source: the JSON text of the schema or of the list of choices; the regular expression, matched as a whole; or the
            grammar, in the GBNF dialect that xgrammar reads, with a rule ``root``. Empty for ``json_object``.
    """

    kind: FormatKind
    source: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(FormatKind):
            raise _format_error(self.kind, f"one of {', '.join(get_args(FormatKind))}")
        if not isinstance(self.source, str) or len(self.source) > MAX_FORMAT:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _format_error(self.kind, f"text of at most {MAX_FORMAT:,} characters")

    @classmethod
    def parse(cls, value: object) -> ResponseFormat | None:
        """A loose value: OpenAI's ``response_format``, and ``regex``, ``choice`` and ``grammar`` in its manner.

        ``{"type": "text"}`` is None: any answer will do.

        Raises:
            ParameterError: it is none of these.
        """
        if value is None or isinstance(value, ResponseFormat):
            return value
        given = dict(cast("Mapping[object, object]", value)) if isinstance(value, Mapping) else {}
        kind = given.pop("type", None)
        if kind == "json_schema" and "json_schema" in given:
            wrapped = given.pop("json_schema")
            given |= (
                dict(cast("Mapping[object, object]", wrapped))
                if isinstance(wrapped, Mapping)
                else {"?": wrapped}
            )
            for name in ("name", "description", "strict"):  # every schema is kept to, whatever "strict" says
                given.pop(name, None)
        if not isinstance(kind, str) or kind not in _FORMAT_FIELDS or set(given) != set(_FORMAT_FIELDS[kind]):
            raise _format_error(cast("object", value), f"one of {', '.join(_FORMAT_FORMS)}")
        if kind == "text":
            return None
        read = _FORMAT_FIELDS[kind].values()
        return cls(
            cast("FormatKind", kind),
            "".join(check(item) for check, item in zip(read, given.values(), strict=True)),
        )


def _format_error(value: object, expected: str) -> ParameterError:
    return ParameterError(
        f"response_format={shown(value)} is not allowed",
        why=f"response_format must be {expected}",
        parameter="response_format",
    )


def _schema_text(value: object) -> str:
    if not isinstance(value, Mapping):
        raise _format_error(value, "given a JSON Schema, an object")
    return _json_text(cast("object", value))


def _choices_text(value: object) -> str:
    choices = value if _is_list(value) else ()
    if not choices or not all(isinstance(choice, str) and choice for choice in choices):
        raise _format_error(value, "given a list of non-empty strings as choices")
    return _json_text(list(choices))


def _json_text(value: object) -> str:
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _format_error(value, f"JSON ({error})") from error
    return text


def _source_text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise _format_error(value, "given a text that is not empty")
    return value


_FORMAT_FIELDS: Mapping[str, Mapping[str, Callable[[object], str]]] = MappingProxyType(
    {
        "text": {},
        "json_object": {},
        "json_schema": {"schema": _schema_text},
        "regex": {"pattern": _source_text},
        "choice": {"choices": _choices_text},
        "grammar": {"grammar": _source_text},
    }
)
"""Kind → the field beside ``type``, and how it is read."""

_FORMAT_FORMS = (
    '{"type": "text"}',
    '{"type": "json_object"}',
    '{"type": "json_schema", "json_schema": {"schema": {…}}}',
    '{"type": "regex", "pattern": "…"}',
    '{"type": "choice", "choices": ["…"]}',
    '{"type": "grammar", "grammar": "root ::= …"}',
)


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
        repetition_penalty: in [0.01, 100], for logits divided by much less overflow; above 1 makes tokens already seen less
            likely (Keskar et al. 2019, arXiv 1909.05858).
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
        response_format: what the whole answer must look like; see :class:`ResponseFormat` and its ``parse``.
        timeout: seconds that the request may take, waiting for its turn included; then it ends with
            :class:`~engineroom.errors.RequestTimeoutError`.
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
    response_format: ResponseFormat | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            problem, value = check(getattr(self, name))
            if problem:
                raise ParameterError(
                    f"{name}={shown(getattr(self, name))} is not allowed",
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
                f"do_sample={shown(do_sample)} is not allowed",
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
        if do_sample is True and given.get("temperature") == 0:
            raise ParameterError(
                "do_sample=true contradicts temperature=0",
                why="temperature 0 always takes the likeliest token",
                fix="leave one of the two out",
                parameter="do_sample",
            )
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


Check: TypeAlias = Callable[[Any], tuple[str, object]]
"""Takes a loose value; returns what is expected ("" if the value will do) and the value in its final form."""


def _is_number(value: object) -> TypeGuard[int | float]:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _number(low: float, high: float, *, open_low: bool = False, optional: bool = False) -> Check:
    span = f"{'(' if open_low else '['}{low:g}, {high:g}]"

    def check(value: object) -> tuple[str, object]:
        if value is None and optional:
            return "", None
        if not (_is_number(value) and low <= value <= high) or (open_low and value == low):
            return f"a number in {span}", value
        return "", float(value)

    return check


def _integer(low: int, high: int | None = None, *, optional: bool = False) -> Check:
    span = f"from {low} to {high}" if high is not None else f"of at least {low}, and below 2^31"

    def check(value: object) -> tuple[str, object]:
        if value is None and optional:
            return "", None
        ok = _is_int(value) and low <= value <= (2**31 - 1 if high is None else high)
        return ("" if ok else f"an integer {span}"), value

    return check


def _boolean(value: object) -> tuple[str, object]:
    return ("" if isinstance(value, bool) else "true or false"), value


def _stop_strings(value: object) -> tuple[str, object]:
    strings = (value,) if isinstance(value, str) else tuple(value) if _is_list(value) else (None,)
    if len(strings) > MAX_STOPS or not all(
        isinstance(s, str) and 0 < len(s) <= MAX_STOP_LENGTH for s in strings
    ):
        what = f"non-empty strings of at most {MAX_STOP_LENGTH} characters"
        return f"a string or a list of at most {MAX_STOPS} {what}", value
    return "", strings


def _is_token_id(value: object) -> TypeGuard[int]:
    return _is_int(value) and 0 <= value < 2**31


def _token_ids(value: object) -> tuple[str, object]:
    ids = tuple(value) if _is_list(value) else (value,)
    if len(ids) > MAX_STOP_TOKENS or not all(map(_is_token_id, ids)):
        return f"a token id or a list of at most {MAX_STOP_TOKENS} token ids, each 0 or more", value
    return "", ids


def _logit_bias(value: object) -> tuple[str, object]:
    expected = f"a map from at most {MAX_BIASES} token ids to numbers in [-100, 100]"
    if not isinstance(value, Mapping) or len(cast("Mapping[object, object]", value)) > MAX_BIASES:
        return expected, cast("object", value)
    bias: dict[int, float] = {}
    for key, amount in cast("Mapping[object, object]", value).items():
        # JSON has no integer keys. Ten digits are more than any token id has.
        token_id = int(key) if isinstance(key, str) and key.isdecimal() and len(key) <= 10 else key
        if not (_is_token_id(token_id) and _is_number(amount) and -100 <= amount <= 100):
            return expected, cast("object", value)
        bias[token_id] = float(amount)
    return "", bias


def _adapter(value: object) -> tuple[str, object]:
    ok = value is None or (isinstance(value, str) and value)
    return ("" if ok else "the name of an adapter"), value


def _response_format(value: object) -> tuple[str, object]:
    return "", ResponseFormat.parse(value)


_CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "temperature": _number(0, 100),
        "top_p": _number(0, 1, open_low=True),
        "top_k": _integer(-1),
        "min_p": _number(0, 1),
        "repetition_penalty": _number(0.01, 100),
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
        "response_format": _response_format,
        "timeout": _number(0, MAX_TIMEOUT, open_low=True, optional=True),
    }
)
