"""JSON Schema → GBNF. Every answer that the grammar lets through satisfies the schema; what can't be kept is refused.

xgrammar has a converter of its own, which leaves out without a word what it can't express: ``uniqueItems``, ``not``,
``minLength`` beside ``pattern``, whatever stands beside ``anyOf`` or ``$ref``, and more (measured with 0.2.8, by drawing
from its grammars and validating what came out). So the structure is converted here, and xgrammar converts the leaves:
regular expressions, ranges of numbers, and formats.

The grammar may say less than the schema allows, and never more: an object with ``properties`` has no others, a string
with a length or a pattern has no escapes it could do without, an integer has at most 19 digits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import unquote

MAX_NESTING = 64
"""Objects and arrays within each other, in the schema: the bound that vLLM has too."""

MAX_RULES = 3_000

_ANNOTATIONS = {
    "title", "description", "default", "examples", "$comment", "$schema", "$id", "$defs", "definitions", "deprecated",
    "readOnly", "writeOnly", "discriminator",
}  # fmt: skip
"""They say nothing about what is valid."""

_KEYWORDS: Mapping[str, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties", "propertyNames"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "boolean": (),
    "null": (),
}
"""Type → the keywords that are kept to."""

_FORMATS = ("date", "time", "date-time", "duration", "ipv4", "ipv6", "hostname", "uuid")

_NOT_PLAIN = r'"\\\x00-\x1f\ud800-\udfff'
_PLAIN = f"[^{_NOT_PLAIN}]"
"""A character that stands for itself in a JSON string. UTF-8 has no surrogates, and xgrammar would let them through."""

_BASE = r"""
ws ::= "" | " " | "\n" [ \t]{0,32}
char ::= PLAIN | "\\" (["\\/bfnrt] | "u" ([0-9a-cA-CefEF] hex | [dD] [0-7]) hex hex)
hex ::= [0-9a-fA-F]
string ::= "\"" char* "\""
integer ::= "-"? ("0" | [1-9] [0-9]{0,18})
number ::= integer ("." [0-9]{1,18})? ([eE] [+\-]? [0-9]{1,2})?
boolean ::= "true" | "false"
null ::= "null"
array ::= "[" ws (value (ws "," ws value)*)? ws "]"
object ::= "{" ws (member (ws "," ws member)*)? ws "}"
member ::= string ws ":" ws value
value ::= object | array | string | number | boolean | null
""".strip().replace("PLAIN", _PLAIN)
"""Any JSON. Space is bounded: a model that writes nothing else would never end. Half a surrogate pair is no text, and a
number must not overflow where it is read."""

JSON_OBJECT = f"root ::= object\n{_BASE}"


class UnsupportedSchemaError(ValueError):
    """The schema can't be kept to; the message names the keyword and its place."""


Leaf = Callable[[Mapping[str, Any]], str]
"""Converts a string's pattern or format, or a number's range, to a GBNF with a rule ``root``."""


def schema_to_gbnf(schema: Any, leaf: Leaf) -> str:
    """
    Raises:
        UnsupportedSchemaError: it can't be kept to, or nothing satisfies it.
    """
    converter = _Converter(schema, leaf)
    root = converter.rule(schema, "#", 0)
    return "\n".join([f"root ::= {root}", *converter.rules, _BASE])


class _Converter:
    def __init__(self, document: Any, leaf: Leaf) -> None:
        self.rules: list[str] = []
        self._document = document
        self._leaf = leaf
        self._named: dict[str, str] = {}

    def rule(self, schema: Any, place: str, depth: int) -> str:
        """The name of the rule for a schema, or an expression in its stead."""
        if depth > MAX_NESTING:
            raise UnsupportedSchemaError(f"{place} is nested more than {MAX_NESTING} deep")
        if schema is True:
            return "value"
        if schema is False:
            raise UnsupportedSchemaError(f"{place} is false: nothing satisfies it")
        if not isinstance(schema, dict):
            raise UnsupportedSchemaError(f"{place} is not a schema: an object, or true")
        node = cast("dict[str, Any]", schema)
        said = {k: v for k, v in node.items() if k not in _ANNOTATIONS and not k.startswith("x-")}
        for keyword, convert in self._special().items():
            if keyword in said:
                value = said.pop(keyword)
                self._check_alone(keyword, said, place)
                return convert(value, said, f"{place}/{keyword}", depth)
        return self._choice(self._typed(said, place, depth))

    def _special(self) -> Mapping[str, Callable[[Any, dict[str, Any], str, int], str]]:
        return {
            "$ref": self._reference, "enum": self._enum, "const": self._const, "anyOf": self._any_of,
            "oneOf": self._one_of, "allOf": self._all_of,
        }  # fmt: skip

    @staticmethod
    def _check_alone(keyword: str, others: Iterable[str], place: str) -> None:
        left = [name for name in others if not (name == "type" and keyword in ("enum", "const"))]
        if left:
            raise UnsupportedSchemaError(f"{place}: {left[0]} beside {keyword} is not supported")

    # --- several schemas in one -------------------------------------------------------------------------------------

    def _reference(self, target: Any, _: dict[str, Any], place: str, depth: int) -> str:
        if not isinstance(target, str) or (target != "#" and not target.startswith("#/")):
            raise UnsupportedSchemaError(f"{place} is not within this schema: only #/… is looked up")
        if target not in self._named:
            node: Any = self._document
            for step in target.split("/")[1:]:
                name = unquote(step).replace("~1", "/").replace("~0", "~")
                if isinstance(node, list) and name.isdecimal() and int(name) < len(cast("list[Any]", node)):
                    node = cast("list[Any]", node)[int(name)]
                elif isinstance(node, dict) and name in node:
                    node = cast("dict[str, Any]", node)[name]
                else:
                    raise UnsupportedSchemaError(f"{place}: there is no {target}")
            # Named before it is converted: a schema may hold itself.
            self._named[target] = name = f"ref{len(self._named)}"
            self._add(name, self.rule(node, target, depth + 1))
        return self._named[target]

    def _any_of(self, branches: Any, _: dict[str, Any], place: str, depth: int) -> str:
        if not isinstance(branches, list) or not branches:
            raise UnsupportedSchemaError(f"{place} must be a list of schemas")
        listed = enumerate(cast("list[Any]", branches))
        return self._choice([self.rule(branch, f"{place}/{i}", depth + 1) for i, branch in listed])

    def _one_of(self, branches: Any, said: dict[str, Any], place: str, depth: int) -> str:
        expression = self._any_of(branches, said, place, depth)
        if not self._disjoint([self._resolved(branch) for branch in branches]):
            raise UnsupportedSchemaError(
                f"{place}: a value could satisfy several; give the branches different types, or a required property "
                "with a const of its own in each, or use anyOf"
            )
        return expression

    def _all_of(self, branches: Any, said: dict[str, Any], place: str, depth: int) -> str:
        if not isinstance(branches, list) or len(cast("list[Any]", branches)) != 1:
            raise UnsupportedSchemaError(f"{place} with more than one schema is not supported")
        return self._any_of(branches, said, place, depth)

    def _resolved(self, branch: Any) -> dict[str, Any]:
        """A branch behind its references, as far as ten of them."""
        for _ in range(10):
            target = branch.get("$ref") if isinstance(branch, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            if not isinstance(target, str):
                break
            branch = self._document
            for step in target.split("/")[1:]:
                branch = branch[unquote(step).replace("~1", "/").replace("~0", "~")]
        return cast("dict[str, Any]", branch) if isinstance(branch, dict) else {}

    def _disjoint(self, branches: Sequence[dict[str, Any]]) -> bool:
        types = [b.get("type") for b in branches]
        if all(isinstance(t, str) for t in types):
            plain = ["number" if t == "integer" else t for t in types]
            if len(set(plain)) == len(plain):
                return True
        if any(t != "object" for t in types):
            return False
        tags = [self._tags(branch) for branch in branches]
        return any(self._differ([t.get(name, set()) for t in tags]) for name in tags[0])

    def _tags(self, branch: dict[str, Any]) -> dict[str, set[str]]:
        """Required property → the JSON of the values that it may have."""
        found: dict[str, set[str]] = {}
        properties = branch.get("properties")
        for name in branch.get("required", ()):
            schema = self._resolved(properties.get(name)) if isinstance(properties, dict) else {}  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
            values = [schema["const"]] if "const" in schema else schema.get("enum", [])
            found[name] = {_json(value) for value in values}
        return found

    @staticmethod
    def _differ(sets: Sequence[set[str]]) -> bool:
        return all(sets) and len(set[str]().union(*sets)) == sum(map(len, sets))

    # --- values -----------------------------------------------------------------------------------------------------

    def _const(self, value: Any, said: dict[str, Any], place: str, depth: int) -> str:
        return self._enum([value], said, place, depth)

    def _enum(self, values: Any, said: dict[str, Any], place: str, _: int) -> str:
        if not isinstance(values, list):
            raise UnsupportedSchemaError(f"{place} must be a list of values")
        types = _types(said.get("type", list(_KEYWORDS)), place)
        fitting = [v for v in cast("list[Any]", values) if any(_is_a(v, kind) for kind in types)]
        if not fitting:
            raise UnsupportedSchemaError(f"{place} has no value of the type that it must have")
        return self._choice([literal(_json(value)) for value in fitting])

    def _typed(self, said: dict[str, Any], place: str, depth: int) -> list[str]:
        """An alternative for each type, with the keywords that concern it."""
        known = {name for names in _KEYWORDS.values() for name in names}
        for name in said:
            if name != "type" and name not in known:
                raise UnsupportedSchemaError(f"{place}: {name} is not supported")
        if "type" in said:
            types = _types(said["type"], place)
        else:  # those that something is said about: nothing else need be let through
            types = [k for k, names in _KEYWORDS.items() if k != "integer" and any(n in said for n in names)]
        if not types:
            return ["value"]
        kept = {
            "object": self._object, "array": self._array, "string": self._string, "integer": self._number,
            "number": self._number,
        }  # fmt: skip
        return [
            kept[kind]({"type": kind, **{n: said[n] for n in _KEYWORDS[kind] if n in said}}, place, depth)
            if kind in kept
            else kind
            for kind in types
        ]

    def _number(self, said: dict[str, Any], place: str, _: int) -> str:
        if len(said) == 1:
            return said["type"]
        for name in said:
            if name != "type" and (isinstance(said[name], bool) or not isinstance(said[name], (int, float))):
                raise UnsupportedSchemaError(f"{place}/{name} must be a number")
        return self._embedded(said, place)

    def _string(self, said: dict[str, Any], place: str, _: int) -> str:
        bounds = {name: said.pop(name) for name in ("minLength", "maxLength") if name in said}
        if bounds and len(said) > 1:
            raise UnsupportedSchemaError(
                f"{place}: {next(iter(bounds))} beside pattern or format is not supported"
            )
        if "pattern" in said and "format" in said:
            raise UnsupportedSchemaError(f"{place}: format beside pattern is not supported")
        if bounds:
            low, high = _bounds(bounds, "minLength", "maxLength", place)
            # No escapes: alternatives within a repetition take minutes to compile for a vocabulary of 150,000.
            return self._new(f'"\\"" {_PLAIN}{_times(low, high)} "\\""')
        if "pattern" in said:
            check_regex(said["pattern"], f"{place}/pattern")
            return self._new(f'"\\"" {self._embedded(said, place, escaped=True)} "\\""')
        if "format" in said:
            if said["format"] not in _FORMATS:
                raise UnsupportedSchemaError(
                    f"{place}/format is {said['format']!r}; supported are {', '.join(_FORMATS)}"
                )
            return self._embedded(said, place)
        return "string"

    def _embedded(self, said: dict[str, Any], place: str, *, escaped: bool = False) -> str:
        """A leaf's grammar among ours, its rules renamed; with ``escaped``, what it matches as a JSON string holds it."""
        try:
            text = self._leaf(said)
        except RuntimeError as error:
            raise UnsupportedSchemaError(f"{place}: {error}") from error
        prefix = f"leaf{len(self.rules)}-"
        for name, body in _reachable(text).items():
            self._add(prefix + name, _renamed(body, prefix, escaped=escaped))
        return f"{prefix}root"

    def _array(self, said: dict[str, Any], place: str, depth: int) -> str:
        first: Any = said.get("prefixItems", [])
        if not isinstance(first, list):
            raise UnsupportedSchemaError(f"{place}/prefixItems must be a list of schemas")
        listed = enumerate(cast("list[Any]", first))
        prefix = [self.rule(item, f"{place}/prefixItems/{i}", depth + 1) for i, item in listed]
        low, high = _bounds(said, "minItems", "maxItems", place)
        prefix = prefix if high is None else prefix[:high]
        rest = said.get("items", True)
        if rest is False:
            if low > len(prefix):
                raise UnsupportedSchemaError(f"{place}: minItems is more than there can be")
            high = len(prefix)
        tail = ""
        if high is None or high > len(prefix):
            item = self.rule(rest, f"{place}/items", depth + 1)
            tail = self._items(item, max(low - len(prefix), 0), high and high - len(prefix), first=not prefix)
        # From the last of the prefix to the first: each may end the array, where so few items do.
        body, optional = tail, True
        for i in reversed(range(len(prefix))):
            here = f'ws "," ws {prefix[i]}' if i else prefix[i]
            joined = f"{here} {body}".strip()
            optional = i >= low
            body = f"({joined})?" if optional else joined
        return self._new(f'"[" ws {body} ws "]"')

    def _items(self, item: str, low: int, high: int | None, *, first: bool) -> str:
        """``low`` to ``high`` items; the first without a comma before it if it is the ``first`` of the array."""
        following = f'(ws "," ws {item})'
        if not first:
            return f"{following}{_times(low, high)}"
        if high == 0:
            return ""
        joined = f"{item} {following}{_times(max(low - 1, 0), None if high is None else high - 1)}"
        return joined if low else f"({joined})?"

    def _object(self, said: dict[str, Any], place: str, depth: int) -> str:
        properties: Any = said.get("properties", {})
        required: Any = said.get("required", [])
        if not isinstance(properties, dict):
            raise UnsupportedSchemaError(f"{place}/properties must be an object")
        if not isinstance(required, list) or not all(isinstance(n, str) for n in cast("list[Any]", required)):
            raise UnsupportedSchemaError(f"{place}/required must be a list of names")
        others = said.get("additionalProperties", True)
        named = dict(cast("dict[str, Any]", properties))
        for name in cast("list[str]", required):
            named.setdefault(name, others)  # required, and described by additionalProperties alone
        if not named:
            return self._map(said.get("propertyNames"), others, place, depth)
        if "propertyNames" in said:
            raise UnsupportedSchemaError(
                f"{place}: propertyNames beside properties or required is not supported"
            )
        if not isinstance(others, bool):
            self.rule(
                others, f"{place}/additionalProperties", depth + 1
            )  # none are let through, and yet it must be one
        pairs: list[tuple[str, bool]] = []
        for name, schema in named.items():
            if schema is False and name not in required:
                continue
            value = self.rule(schema, f"{place}/properties/{name}", depth + 1)
            pairs.append((f'{literal(_json(name))} ws ":" ws {value}', name in required))
        return self._new(f'"{{" ws {self._members(pairs)} ws "}}"')

    def _members(self, pairs: Sequence[tuple[str, bool]]) -> str:
        """The members in their order, those that are optional or not, with commas only between them.

        ``rest[i]``: those from the i-th on, of which each comes with a comma before it.
        """
        rest = ""
        starts: list[str] = []
        for member, is_required in reversed(pairs):
            start = f"{member} {rest}".strip()
            starts = [start] if is_required else [*starts, start]
            with_comma = f'ws "," ws {member}'
            whole = f"{with_comma if is_required else f'({with_comma})?'} {rest}".strip()
            rest = self._new(whole)
        one = " | ".join(reversed(starts))
        if not starts:
            return ""
        return f"({one})" if any(is_required for _, is_required in pairs) else f"({one})?"

    def _map(self, names: Any, others: Any, place: str, depth: int) -> str:
        """An object of any names."""
        key = "string"
        if names is not None and names is not True:
            typed = {"type": "string", **cast("dict[str, Any]", names)} if _is_plain(names) else names
            key = self.rule(typed, f"{place}/propertyNames", depth + 1)
        if others is False:
            return self._new('"{" ws "}"')
        value = self.rule(others, f"{place}/additionalProperties", depth + 1)
        member = self._new(f'{key} ws ":" ws {value}')
        return self._new(f'"{{" ws ({member} (ws "," ws {member})*)? ws "}}"')

    # --- rules ------------------------------------------------------------------------------------------------------

    def _choice(self, alternatives: Sequence[str]) -> str:
        return alternatives[0] if len(alternatives) == 1 else self._new(" | ".join(alternatives))

    def _new(self, body: str) -> str:
        if not body:
            return ""
        name = f"r{len(self.rules)}"
        self._add(name, body)
        return name

    def _add(self, name: str, body: str) -> None:
        if len(self.rules) >= MAX_RULES:
            raise UnsupportedSchemaError(f"it needs more than {MAX_RULES:,} grammar rules")
        self.rules.append(f"{name} ::= {body}")


def _is_plain(schema: Any) -> bool:
    return isinstance(schema, dict) and "$ref" not in schema


def _types(value: Any, place: str) -> list[str]:
    types = cast("list[Any]", value if isinstance(value, list) else [value])
    if not types or not all(isinstance(name, str) and name in _KEYWORDS for name in types):
        raise UnsupportedSchemaError(f"{place}/type must be of {', '.join(_KEYWORDS)}")
    return types


def _is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    kinds = {"object": dict, "array": list, "string": str, "number": (int, float), "null": type(None)}
    return isinstance(value, kinds.get(kind, ()))


def _bounds(said: Mapping[str, Any], lower: str, upper: str, place: str) -> tuple[int, int | None]:
    for name in (lower, upper):
        value = said.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1_000_000:
            raise UnsupportedSchemaError(f"{place}/{name} must be an integer from 0 to 1,000,000")
    low, high = said.get(lower, 0), said.get(upper)
    if high is not None and high < low:
        raise UnsupportedSchemaError(f"{place}: {lower} is more than {upper}")
    return low, high


def _times(low: int, high: int | None) -> str:
    return f"{{{low},}}" if high is None else f"{{{low},{high}}}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def literal(text: str) -> str:
    """A text as a GBNF string."""
    return '"' + "".join(_escaped(ord(c)) for c in text) + '"'


def _escaped(code: int) -> str:
    """A character within a GBNF string or class."""
    char = chr(code)
    if char in '"\\[]^-':
        # Four digits: xgrammar reads \x with as many as follow.
        return f"\\{char}" if char in '"\\' else f"\\u{code:04x}"
    return char if char.isascii() and char.isprintable() else f"\\U{code:08x}"


# --- regular expressions, and grammars as xgrammar prints them --------------------------------------------------------

_ANCHOR = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|([\^$])", re.DOTALL)


def check_regex(pattern: Any, place: str) -> None:
    """
    Raises:
        UnsupportedSchemaError: an anchor stands where xgrammar would read over it.
    """
    if not isinstance(pattern, str):
        raise UnsupportedSchemaError(f"{place} must be a regular expression")
    places = [match.start() for match in _ANCHOR.finditer(pattern) if match[1]]
    allowed = ({0} if pattern.startswith("^") else set[int]()) | (
        {len(pattern) - 1} if pattern.endswith("$") else set[int]()
    )
    if set(places) - allowed:
        raise UnsupportedSchemaError(f"{place}: ^ and $ are supported at its two ends only")


_TOKEN = re.compile(r'("(?:\\.|[^"\\])*")|(\[(?:\\.|[^\]\\])*\])|([A-Za-z_][\w-]*)')
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))|(.)", re.DOTALL)
_NAMED = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0, "a": 7, "b": 8}
_CUT = (*((code, code) for code in range(0x20)), (0x22, 0x22), (0x5C, 0x5C), (0xD800, 0xDFFF))
"""Code points, from and to, that are not plain in a JSON string."""


def _reachable(text: str) -> dict[str, str]:
    """The rules that ``root`` needs."""
    rules = dict(line.split(" ::= ", 1) for line in text.splitlines() if " ::= " in line)
    found: dict[str, str] = {}
    waiting = ["root"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = rules[name]
            waiting += [match[3] for match in _TOKEN.finditer(rules[name]) if match[3]]
    return found


def _renamed(body: str, prefix: str, *, escaped: bool) -> str:
    def changed(match: re.Match[str]) -> str:
        text, group, name = match.groups()
        if name:
            return prefix + name
        if not escaped:
            return match[0]
        return _json_literal(text) if text else _json_class(group)

    return _TOKEN.sub(changed, body.replace("{", " {")).replace(" {", "{")


def _codes(inner: str) -> list[int | None]:
    """The code points of a GBNF string or class; None for the dash of a range."""
    codes: list[int | None] = []
    for match in _ESCAPE.finditer(inner):
        digits = match[1] or match[2] or match[3]
        if digits:
            codes.append(int(digits, 16))
        elif match[4]:
            codes.append(_NAMED.get(match[4], ord(match[4])))
        else:
            codes.append(None if match[5] == "-" else ord(match[5]))
    return codes


def _json_literal(text: str) -> str:
    plain = "".join(chr(45 if code is None else code) for code in _codes(text[1:-1]))
    return literal(_json(plain)[1:-1])


def _json_class(group: str) -> str:
    """A character class without what JSON escapes; with nothing else in it, those escapes."""
    inner = group[1:-1]
    if inner.startswith("^"):
        return f"[{inner}{_NOT_PLAIN}]"
    ranges = _ranges(_codes(inner))
    kept = [part for low, high in ranges for part in _without_escapes(low, high)]
    if kept:
        return "[" + "".join(f"{_escaped(a)}-{_escaped(b)}" if a < b else _escaped(a) for a, b in kept) + "]"
    codes = sorted({code for low, high in ranges for code in range(low, min(high, 0x5C) + 1)})
    return "(" + " | ".join(literal(_json(chr(code))[1:-1]) for code in codes) + ")"


def _ranges(codes: Sequence[int | None]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    place = 0
    while place < len(codes):
        low = codes[place]
        low = 45 if low is None else low
        if place + 2 < len(codes) and codes[place + 1] is None:
            high = codes[place + 2]
            ranges.append((low, 45 if high is None else high))
            place += 3
        else:
            ranges.append((low, low))
            place += 1
    return ranges


def _without_escapes(low: int, high: int) -> list[tuple[int, int]]:
    parts: list[tuple[int, int]] = []
    for first, last in _CUT:
        if low <= last and first <= high:
            if low < first:
                parts.append((low, first - 1))
            low = last + 1
    return [*parts, (low, high)] if low <= high else parts
