"""The fields of sampling to the options of ``ChatModel``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engineroom.errors import ParameterError
from engineroom.server.errors import WIRE_NAMES
from engineroom.server.wire.common import DrawingFields, SamplingFields

_DRAWING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "repetition_penalty",
    "length_penalty",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
    "num_beams",
)


def drawing_options(body: DrawingFields, adapter: str | None, timeout: float | None) -> dict[str, Any]:
    """What was given of the fields that all protocols have, by ``SamplingParams``' names.

    Args:
        timeout: seconds for the whole request.
    """
    options = {name: getattr(body, name) for name in _DRAWING}
    return given(**options, adapter=adapter, timeout=timeout)


def given(**options: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def sampling_options(body: SamplingFields, adapter: str | None, timeout: float | None) -> dict[str, Any]:
    """What was given, by ``SamplingParams``' names.

    Args:
        timeout: seconds for the whole request.

    Raises:
        ParameterError: fields contradict each other.
    """
    if body.stream_options is not None and not body.stream:
        raise ParameterError(
            "stream_options needs stream=true", fix="leave stream_options out", parameter="stream_options"
        )
    return drawing_options(body, adapter, timeout) | given(
        n=body.n,
        prompt_logprobs=body.prompt_logprobs,
        max_new_tokens=body.max_tokens,
        response_format=response_format(body),
    )


_FORMATS = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
)
"""The fields that say what the answer must look like."""


def wire_names(body: SamplingFields) -> Mapping[str, str]:
    """Our parameters that have another name in this body."""
    return {**WIRE_NAMES, "response_format": next(iter(_formats(body)), "response_format")}


def response_format(body: SamplingFields) -> dict[str, Any] | None:
    """What the answer must look like, from whichever of the fields says it.

    Raises:
        ParameterError: two of them do, or one is malformed.
    """
    said = _formats(body)
    if len(said) > 1:
        raise ParameterError(
            f"{said[1]} and {said[0]} both say what the answer must look like",
            fix="give one of the two",
            parameter=said[1],
        )
    if not said:
        return None
    name, value = said[0], getattr(body, said[0])
    match name:
        case "response_format":
            return value
        case "structured_outputs":
            return _structured(value)
        case _:
            return _format(name.removeprefix("guided_"), value, name)


def _formats(body: SamplingFields) -> list[str]:
    return [name for name in _FORMATS if getattr(body, name) is not None]


def of_schema(schema: Any) -> dict[str, Any]:
    """The ``response_format`` of a JSON schema."""
    return {"type": "json_schema", "json_schema": {"schema": schema}}


def _structured(wanted: Mapping[str, Any]) -> dict[str, Any]:
    named = {name: value for name, value in wanted.items() if value is not None}
    if len(named) != 1:
        raise ParameterError(
            "structured_outputs must have one of json, json_object, regex, choice, grammar",
            parameter="structured_outputs",
        )
    (kind, value), *_ = named.items()
    return _format(kind, value, "structured_outputs")


def _format(kind: str, value: Any, field: str) -> dict[str, Any]:
    match kind:
        case "json":
            return of_schema(_schema(value, field))
        case "json_object" if value is True:
            return {"type": "json_object"}
        case "regex":
            return {"type": "regex", "pattern": value}
        case "choice":
            return {"type": "choice", "choices": value}
        case "grammar":
            return {"type": "grammar", "grammar": value}
        case _:
            raise ParameterError(
                f"{field}.{kind} is not supported",
                why="known: json, json_object (true), regex, choice, grammar",
                parameter=field,
            )


def _schema(value: Any, field: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ParameterError(
            f"{field} holds JSON that can't be read", why=str(error), parameter=field
        ) from error
