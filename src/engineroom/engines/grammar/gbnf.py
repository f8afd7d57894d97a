"""Every kind of ``ResponseFormat`` as a GBNF text. Runs where xgrammar is: in the worker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from engineroom.engines.grammar.schema import (
    JSON_OBJECT,
    UnsupportedSchemaError,
    check_regex,
    literal,
    schema_to_gbnf,
)
from engineroom.params import ResponseFormat


def to_gbnf(form: ResponseFormat) -> str:
    """
    Raises:
        UnsupportedSchemaError: a schema can't be kept to; the message says what and where.
        RuntimeError: xgrammar's, for a pattern or grammar that does not parse.
    """
    import xgrammar

    match form.kind:
        case "json_object":
            return JSON_OBJECT
        case "json_schema":
            return schema_to_gbnf(json.loads(form.source), _leaf)
        case "choice":
            return "root ::= " + " | ".join(literal(choice) for choice in json.loads(form.source))
        case "regex":
            check_regex(form.source, "pattern")
            return str(xgrammar.Grammar.from_regex(form.source))
        case "grammar":
            xgrammar.Grammar.from_ebnf(form.source)
            return form.source


def _leaf(schema: Mapping[str, Any]) -> str:
    import xgrammar

    if "pattern" in schema:
        return str(xgrammar.Grammar.from_regex(cast("str", schema["pattern"])))
    return str(xgrammar.Grammar.from_json_schema(json.dumps(dict(schema))))


__all__ = ["UnsupportedSchemaError", "to_gbnf"]
