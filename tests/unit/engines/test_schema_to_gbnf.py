"""JSON Schema → GBNF: whatever is drawn from the grammar satisfies the schema; what can't be kept to is refused."""

from __future__ import annotations

import json
import random
from typing import Any, cast

import jsonschema
import pytest
import xgrammar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engineroom.engines.grammar.gbnf import UnsupportedSchemaError, to_gbnf
from engineroom.params import ResponseFormat

_VOCABULARY = [*(bytes([byte]) for byte in range(256)), "é".encode(), "日".encode(), b"", b"<end>"]
_END = len(_VOCABULARY) - 1
_COMPILER = xgrammar.GrammarCompiler(
    xgrammar.TokenizerInfo(_VOCABULARY, xgrammar.VocabType.RAW, stop_token_ids=[_END]), max_threads=1
)
_CLOSING = {ord(c) for c in '"}]'}


def drawn(text: str, count: int = 25, limit: int = 600) -> list[str]:
    """Texts from the grammar, drawn byte by byte; those that don't come to an end are left out."""
    compiled = _COMPILER.compile_grammar(text)
    mask = xgrammar.allocate_token_bitmask(1, len(_VOCABULARY))
    draw = random.Random(0)
    texts: list[str] = []
    for _ in range(count):
        matcher = xgrammar.GrammarMatcher(compiled)
        ids: list[int] = []
        while len(ids) < limit:
            mask.fill_(-1)
            matcher.fill_next_token_bitmask(mask, 0)
            words = cast("list[int]", cast("Any", mask)[0].tolist())
            allowed = [i for i in range(len(_VOCABULARY)) if words[i // 32] >> i % 32 & 1]
            assert allowed, f"no way on behind {ids}"
            closing = [i for i in allowed if i in _CLOSING]
            token = draw.choice(closing if closing and draw.random() < 0.3 else allowed)
            assert matcher.accept_token(token)
            if token == _END:
                texts.append(b"".join(_VOCABULARY[i] for i in ids).decode("utf-8"))
                break
            ids.append(token)
    return texts


def grammar(schema: Any) -> str:
    return to_gbnf(ResponseFormat("json_schema", json.dumps(schema)))


_A_B = {"a": {"type": "integer"}, "b": {"type": "boolean"}}
KEPT: dict[str, Any] = {
    "anything": {},
    "integer": {"type": "integer"},
    "integer range": {"type": "integer", "minimum": -3, "maximum": 17},
    "exclusive range": {"type": "integer", "exclusiveMinimum": -5, "exclusiveMaximum": 5},
    "number": {"type": "number"},
    "number range": {"type": "number", "minimum": -0.5, "maximum": 2.25},
    "string": {"type": "string"},
    "string length": {"type": "string", "minLength": 2, "maxLength": 5},
    "string of one length": {"type": "string", "minLength": 3, "maxLength": 3},
    "pattern": {"type": "string", "pattern": "^[a-c]+-\\d{2}$"},
    "pattern of anything": {"type": "string", "pattern": "^.{2,4}$"},
    "pattern of quotes": {"type": "string", "pattern": '^["\\\\]{2}$'},
    "pattern with a quote": {"type": "string", "pattern": '^a"b\\\\c\\n$'},
    "pattern of spaces": {"type": "string", "pattern": "^\\s\\w\\D$"},
    "pattern of all ASCII": {"type": "string", "pattern": "^[ -~]{1,3}$"},
    "pattern with a dash": {"type": "string", "pattern": "^[\\w.-]{1,3}$"},
    "pattern with choices": {"type": "string", "pattern": "^(ab|[^@]c)*$"},
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
    "enum": {"enum": ["a", 1, None, {"x": [1]}, True, 1.5, 'q"\\\n', "日"]},
    "enum of a type": {"type": "string", "enum": ["a", 1]},
    "const": {"const": {"a": 1}},
    "null": {"type": "null"},
    "anyOf": {"title": "T", "anyOf": [{"type": "string", "maxLength": 2}, {"type": "integer"}]},
    "oneOf by type": {"oneOf": [{"type": "boolean"}, {"type": "integer"}]},
    "oneOf by tag": {
        "$defs": {
            "x": {"type": "object", "properties": {"k": {"const": "x"}}, "required": ["k"]},
            "y": {"type": "object", "properties": {"k": {"const": "y"}, **_A_B}, "required": ["k", "a"]},
        },
        "oneOf": [{"$ref": "#/$defs/x"}, {"$ref": "#/$defs/y"}],
        "discriminator": {"propertyName": "k"},
    },
    "allOf of one": {"allOf": [{"type": "integer", "minimum": 3}]},
    "several types": {"type": ["string", "integer", "null"], "maxLength": 2, "maximum": 5},
    "optional": {"type": "object", "properties": {**_A_B, "c": {"type": "null"}}},
    "required": {"type": "object", "properties": {**_A_B, "c": {"type": "null"}}, "required": ["b"]},
    "all required": {"type": "object", "properties": _A_B, "required": ["a", "b"], "additionalProperties": False},
    "required without a schema": {"type": "object", "properties": _A_B, "required": ["a", "z"]},
    "no type": {"properties": _A_B, "required": ["a"]},
    "no type, a bound": {"minimum": 3},
    "a map": {"type": "object", "additionalProperties": {"type": "boolean"}},
    "a map of names": {
        "type": "object", "propertyNames": {"pattern": "^[ab]$"}, "additionalProperties": {"type": "null"},
    },
    "empty object": {"type": "object", "additionalProperties": False},
    "others beside": {"type": "object", "properties": _A_B, "additionalProperties": {"type": "string"}},
    "array": {"type": "array", "items": {"type": "integer"}},
    "array bounds": {"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 3},
    "array of none": {"type": "array", "items": {"type": "null"}, "maxItems": 0},
    "array of two": {"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 2},
    "at least two": {"type": "array", "items": {"type": "null"}, "minItems": 2},
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": False},
    "tuple, all": {"prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": False, "minItems": 2},
    "tuple, one": {"prefixItems": [{"type": "integer"}, {"type": "boolean"}], "minItems": 1, "maxItems": 1},
    "tuple and more": {
        "type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "null"}, "minItems": 2, "maxItems": 3,
    },
    "references": {
        "definitions": {"a/b c": {"type": "integer"}},
        "type": "object",
        "properties": {"x": {"$ref": "#/definitions/a~1b%20c"}, "y": {"$ref": "#/properties/x"}},
        "required": ["x", "y"],
    },
    "a tree": {
        "type": "object",
        "properties": {"v": {"type": "integer"}, "c": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
        "required": ["v"],
    },
    "odd names": {"type": "object", "properties": {'a"b\\\n日]^-': {"const": "x"}}, "required": ['a"b\\\n日]^-']},
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_what_the_grammar_lets_through_satisfies_the_schema(name: str) -> None:
    schema = KEPT[name]
    texts = drawn(grammar(schema))
    assert texts, "nothing that was drawn came to an end"
    validator = jsonschema.Draft202012Validator(schema)
    for text in texts:
        validator.validate(json.loads(text))


REFUSED: dict[str, tuple[Any, str]] = {
    "uniqueItems": ({"type": "array", "uniqueItems": True}, "uniqueItems is not supported"),
    "contains": ({"type": "array", "contains": {}}, "contains"),
    "multipleOf": ({"type": "integer", "multipleOf": 5}, "multipleOf"),
    "not": ({"type": "integer", "not": {"const": 1}}, "not is not supported"),
    "if": ({"if": {}, "then": {}}, "if is not supported"),
    "minProperties": ({"type": "object", "minProperties": 1}, "minProperties"),
    "patternProperties": ({"patternProperties": {"^x": {}}}, "patternProperties"),
    "an unknown keyword": ({"type": "object", "propertees": {}}, "propertees"),
    "an unknown type": ({"type": "strnig"}, "type must be of"),
    "beside anyOf": ({"anyOf": [{"minimum": 1}], "type": "integer"}, "type beside anyOf"),
    "beside $ref": ({"$defs": {"s": {}}, "$ref": "#/$defs/s", "maxLength": 2}, "maxLength beside"),
    "several allOf": ({"allOf": [{}, {}]}, "allOf"),
    "oneOf that overlaps": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "could satisfy several"),
    "length and pattern": ({"type": "string", "pattern": "a+", "maxLength": 3}, "maxLength beside pattern"),
    "a format": ({"type": "string", "format": "regex"}, "format is 'regex'"),
    "a pattern that does not parse": ({"type": "string", "pattern": "(("}, "parenthesis"),
    "lookahead": ({"type": "string", "pattern": "a(?=b)"}, "Lookahead"),
    "an anchor within": ({"type": "string", "pattern": "a^b"}, "two ends"),
    "a remote reference": ({"$ref": "https://example.org/s"}, "not within this schema"),
    "a reference to nothing": ({"$ref": "#/$defs/none"}, "there is no"),
    "false": ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "nothing satisfies"),
    "an empty enum": ({"enum": []}, "no value"),
    "bounds that cross": ({"type": "string", "minLength": 5, "maxLength": 3}, "more than"),
    "a range that crosses": ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum greater than maximum"),
    "a nested one": ({"type": "array", "items": {"anyOf": [{"type": "integer", "multipleOf": 2}]}}, "items/anyOf/0"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_kept_to_is_refused_by_name(name: str) -> None:
    schema, says = REFUSED[name]
    with pytest.raises(UnsupportedSchemaError, match=says):
        grammar(schema)


def test_deep_and_large_schemas_are_refused() -> None:
    deep: Any = {"type": "string"}
    for _ in range(100):
        deep = {"type": "array", "items": deep}
    with pytest.raises(UnsupportedSchemaError, match="nested more than 64"):
        grammar(deep)
    with pytest.raises(UnsupportedSchemaError, match="grammar rules"):
        grammar({"type": "object", "properties": {f"p{i}": {"enum": [1, 2]} for i in range(1800)}})


@pytest.mark.parametrize("name", ["json_object", "choice", "regex"])
def test_the_other_formats(name: str) -> None:
    if name == "json_object":
        assert all(
            isinstance(json.loads(text), dict) for text in drawn(to_gbnf(ResponseFormat("json_object")))
        )
    elif name == "choice":
        choices = ["yes", 'a "no"\\\n', "日本"]
        assert set(drawn(to_gbnf(ResponseFormat("choice", json.dumps(choices))), 60)) == set(choices)
    else:
        for text in drawn(to_gbnf(ResponseFormat("regex", "[a-z]{2}(-\\d+)?"))):
            assert len(text.split("-")[0]) == 2


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(
    ["type", "properties", "required", "items", "prefixItems", "minItems", "maxItems", "minLength", "pattern", "enum",
     "const", "anyOf", "oneOf", "$ref", "additionalProperties", "propertyNames", "minimum", "format", "title"]
)  # fmt: skip
_SCHEMAS = st.recursive(
    st.just({"type": "null"}) | st.just({"type": "boolean"}) | st.dictionaries(_KEYS, _VALUES, max_size=3),
    lambda inner: st.one_of(
        st.builds(
            lambda items, low: {"type": "array", "items": items, "maxItems": low}, inner, st.integers(0, 3)
        ),
        st.builds(
            lambda properties, required: {"type": "object", "properties": properties, "required": required},
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            st.lists(st.sampled_from("abc"), max_size=2),
        ),
        st.builds(lambda branches: {"anyOf": branches}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda first: {"type": "array", "prefixItems": first, "items": False}, st.lists(inner, max_size=3)
        ),
    ),
    max_leaves=8,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
@given(_SCHEMAS)
def test_any_schema_is_kept_to_or_refused(schema: Any) -> None:
    try:
        text = grammar(schema)
    except UnsupportedSchemaError:
        return
    for answer in drawn(text, 3, 200):
        jsonschema.Draft202012Validator(schema).validate(json.loads(answer))
