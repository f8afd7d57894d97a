"""``response_format``: what is read, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineroom import ChatModel, Reply, ScriptedEngine
from engineroom.config import parse_arguments
from engineroom.errors import ParameterError, UnsupportedError
from engineroom.params import MAX_FORMAT, ResponseFormat, SamplingParams

SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}

READ: list[tuple[Any, ResponseFormat | None]] = [
    (None, None),
    ({"type": "text"}, None),
    ({"type": "json_object"}, ResponseFormat("json_object")),
    ({"type": "json_schema", "schema": SCHEMA}, ResponseFormat("json_schema", json.dumps(SCHEMA))),
    (
        {
            "type": "json_schema",
            "json_schema": {"name": "n", "strict": True, "description": "d", "schema": SCHEMA},
        },
        ResponseFormat("json_schema", json.dumps(SCHEMA)),
    ),
    ({"type": "regex", "pattern": "a+"}, ResponseFormat("regex", "a+")),
    ({"type": "choice", "choices": ["a", "b"]}, ResponseFormat("choice", '["a", "b"]')),
    ({"type": "grammar", "grammar": 'root ::= "a"'}, ResponseFormat("grammar", 'root ::= "a"')),
    (ResponseFormat("regex", "a"), ResponseFormat("regex", "a")),
]

_RING: dict[str, Any] = {}
_RING["ring"] = _RING

REFUSED: list[Any] = [
    "json_object",
    {},
    {"type": None},
    {"type": ["json_object"]},
    {"type": "json"},
    {"type": "json_object", "schema": {}},
    {"type": "json_schema"},
    {"type": "json_schema", "json_schema": "x"},
    {"type": "json_schema", "json_schema": {"name": "n"}},
    {"type": "json_schema", "json_schema": {"schema": SCHEMA, "stict": True}},
    {"type": "json_schema", "schema": []},
    {"type": "json_schema", "schema": {"const": object()}},
    {"type": "json_schema", "schema": {"const": float("nan")}},
    {"type": "json_schema", "schema": _RING},
    {"type": "json_schema", "schema": {"enum": ["x" * MAX_FORMAT]}},
    {"type": "regex"},
    {"type": "regex", "pattern": ""},
    {"type": "regex", "pattern": "a\0"},
    {"type": "regex", "pattern": ["a"]},
    {"type": "choice", "choices": []},
    {"type": "choice", "choices": "ab"},
    {"type": "choice", "choices": ["a", ""]},
    {"type": "choice", "choices": [1]},
    {"type": "grammar", "grammar": " "},
    {"type": "grammar", "grammar": "x" * (MAX_FORMAT + 1)},
]


@pytest.mark.parametrize(("given_value", "expected"), READ, ids=str)
def test_loose_forms_are_read(given_value: Any, expected: ResponseFormat | None) -> None:
    assert SamplingParams(response_format=given_value).response_format == expected


@pytest.mark.parametrize("value", REFUSED, ids=lambda v: repr(v)[:60])
def test_what_is_none_of_them_is_refused(value: Any) -> None:
    with pytest.raises(ParameterError, match="response_format") as error:
        SamplingParams(response_format=value)
    assert error.value.parameter == "response_format"


def test_an_object_made_by_hand_is_checked_too() -> None:
    kind: Any = "xml"
    with pytest.raises(ParameterError, match="json_schema"):
        ResponseFormat(kind)


def test_the_callers_object_is_not_changed() -> None:
    value: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    before = json.dumps(value)
    ResponseFormat.parse(value)
    assert json.dumps(value) == before


def test_text_takes_a_default_back() -> None:
    params = SamplingParams(response_format=ResponseFormat("json_object"))
    assert params.updated(response_format={"type": "text"}).response_format is None
    assert params.updated(response_format=None).response_format is not None


def test_as_an_argument_it_is_an_object_or_its_json() -> None:
    for value in ({"type": "json_object"}, '{"type": "json_object"}'):
        arguments = parse_arguments({"response_format": value})
        assert SamplingParams.create(**arguments.sampling()).response_format == ResponseFormat("json_object")


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=5,
)
_LOOSE = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "json_object", "json_schema", "regex", "choice", "grammar"]) | _JSON},
    optional=dict.fromkeys(("json_schema", "schema", "pattern", "choices", "grammar", "strict"), _JSON),
)


@given(_LOOSE | _JSON)
def test_anything_is_read_or_refused(value: Any) -> None:
    try:
        form = ResponseFormat.parse(value)
    except ParameterError:
        return
    assert ResponseFormat.parse(form) == form
    assert form is None or isinstance(hash(form), int)


def test_the_scripted_engine_refuses_it_by_name() -> None:
    with ChatModel(engine=ScriptedEngine([Reply("x")])) as model, pytest.raises(UnsupportedError) as error:
        model.chat("hi", response_format={"type": "json_object"})
    assert error.value.engines == ("huggingface", "vllm", "sglang", "ktransformers")
