# ruff: noqa: SIM905 -- lists of wordings, easier to read as they are
"""Conversations with tools: which one to call, with what, and what to say of its result."""

from __future__ import annotations

import json
import random
from typing import Any

from engineroom.demo.train.words import CITIES, any_word

Schema = dict[str, Any]

_FIELDS = (
    "weather temperature time population price height age status color speed humidity address score altitude rating "
    "language currency owner size weight distance level count balance"
).split()
_PARAMETERS = "city place location name query item key target user id topic address".split()
_VERBS = "get find look_up fetch read check".split()
_FRAMES = ("What is the {f} in {x}?", "Tell me the {f} of {x}.", "What's the {f} in {x}?", "Find the {f} for {x}.",
           "{f} of {x}?", "I need the {f} of {x}.", "Can you check the {f} in {x}?", "How is the {f} in {x}?")  # fmt: skip
_HELD_OUT_FRAMES = ("Please give me the {f} in {x}.", "Do you know the {f} of {x}?")
_EXPRESSIONS = ("Use the calculator for {}.", "Calculate {} with the tool.", "What is {}?", "Compute {}.")
_VALUES = (
    "sunny",
    "rainy",
    "cloudy",
    "red",
    "open",
    "closed",
    "high",
    "low",
    "12:30",
    "09:45",
    "cold",
    "euro",
    "English",
)


def _schema(name: str, description: str, parameters: tuple[str, ...]) -> Schema:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {parameter: {"type": "string"} for parameter in parameters},
                "required": list(parameters[:1]),
            },
        },
    }


def _lookup(rng: random.Random) -> tuple[Schema, str, str]:
    """A look-up tool with the field that it reads and the name of its argument."""
    field = rng.choice(_FIELDS) if rng.random() < 0.8 else any_word(rng, held_out=False)
    parameter = rng.choice(_PARAMETERS)
    extra = ("unit",) if rng.random() < 0.2 else ()
    name = f"{rng.choice(_VERBS)}_{field}"
    return _schema(name, f"Get the {field}", (parameter, *extra)), field, parameter


def _calculator(rng: random.Random) -> tuple[Schema, str, dict[str, str]]:
    expression = f"{rng.randint(2, 999)} {rng.choice('+-*/')} {rng.randint(2, 999)}"
    name = rng.choice(("calculator", "calculate", "compute"))
    schema = _schema(name, "Work out an expression", ("expression",))
    return schema, rng.choice(_EXPRESSIONS).format(expression), {"expression": expression}


def _search(rng: random.Random) -> tuple[Schema, str, dict[str, str]]:
    query = f"{any_word(rng, held_out=False)} {any_word(rng, held_out=False)}"
    schema = _schema(rng.choice(("search", "web_search")), "Search the web", ("query",))
    return (
        schema,
        rng.choice(("Search for {}.", "Look up {}.", "search {}", "Find {} on the web.")).format(query),
        {"query": query},
    )


def tool_choice(rng: random.Random, held_out: bool = False) -> tuple[list[Schema], str, str, dict[str, str]]:
    """Tools on offer, a question, and the call that answers it: name and arguments."""
    kind = rng.random()
    if kind < 0.12:
        wanted, question, arguments = _calculator(rng)
    elif kind < 0.24:
        wanted, question, arguments = _search(rng)
    else:
        wanted, field, parameter = _lookup(rng)
        subject = rng.choice(CITIES) if rng.random() < 0.5 else any_word(rng, held_out).capitalize()
        question = rng.choice(_HELD_OUT_FRAMES if held_out else _FRAMES).format(f=field, x=subject)
        arguments = {parameter: subject}
    tools = [wanted]
    for _ in range(rng.choice((0, 0, 1, 2))):
        other, _, _ = _lookup(rng)
        if other["function"]["name"].split("_")[-1] != wanted["function"]["name"].split("_")[-1]:
            tools.append(other)
    rng.shuffle(tools)
    return tools, question, wanted["function"]["name"], arguments


def call_text(name: str, arguments: dict[str, str]) -> str:
    return (
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"
    )


def tool_result(rng: random.Random, name: str) -> tuple[str, str]:
    """What the tool called ``name`` returns, and the sentence that says so."""
    first = name.split("_")[-1] if "_" in name else "result"
    fields = [first] if rng.random() < 0.6 else [first, rng.choice(_FIELDS)]
    result = {
        field: rng.randint(0, 9999)
        if rng.random() < 0.5
        else rng.choice((*_VALUES, any_word(rng, held_out=False)))
        for field in fields
    }
    if len(result) == 1 and rng.random() < 0.25:
        value = str(next(iter(result.values())))
        return value, f"The {first} is {value}."
    said = ", the ".join(f"{field} is {value}" for field, value in result.items())
    return json.dumps(result), f"The {said}."
