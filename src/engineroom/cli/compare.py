"""``engineroom compare``: the same conversations through two engines, models or settings, and where they part."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engineroom.cli.command import JsonFlag, settings_of
from engineroom.cli.console import BOLD, DIM, GREEN, RED, paint, print_json
from engineroom.cli.settings import OwnOptions, split
from engineroom.errors import ArgumentError

if TYPE_CHECKING:
    from engineroom.comparison import ComparedConversation, Comparison, Depth, Observation
    from engineroom.config import Arguments

EXAMPLES = """\
engineroom compare infer_backend=huggingface --with infer_backend=vllm
engineroom compare model_name_or_path=./base adapter_name_or_path=./lora --with model_name_or_path=./merged --with adapter_name_or_path=
engineroom compare infer_dtype=float32 --with infer_dtype=bfloat16 --tolerance 0.2
engineroom compare training.yaml --with serving.yaml --messages questions.jsonl --json
"""

DIFFER = 1


def compare(
    context: typer.Context,
    with_settings: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="SETTING",
            help="What the second side has otherwise: key=value, key= to leave it out, or a .yaml / .json file. May be repeated.",
        ),
    ] = None,
    messages: Annotated[
        Path | None,
        typer.Option("--messages", metavar="FILE", help="Conversations, one a line, as JSON (JSONL)."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Length of the greedy answers.")] = 32,
    top: Annotated[int, typer.Option(min=1, max=50, help="Likeliest tokens compared at each place.")] = 10,
    samples: Annotated[int, typer.Option(min=0, help="Answers drawn for each conversation.")] = 32,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Nats by which log-probabilities may differ.")
    ] = 0.01,
    as_json: JsonFlag = False,
) -> int:
    """Show where two engines, models or settings part, and why.

    The settings are the first side's; the second has them too, but for what --with says. Both are asked the same
    conversations, one side after the other: are the prompts equal, the log-probabilities, the greedy tokens, the
    sampled answers? The likely cause is prompt, weights or adapter, parameters, or numerics.

    The exit code is 0 if they agree, 1 if they differ, 2 if the question can't be asked. With --json: agree, causes
    (cause, reason), aspects, differences (aspect, where, what), gap, chance, first, second.
    """
    first, second = _both_sides(context, with_settings or [])
    conversations = _conversations(messages)
    from engineroom.comparison import Depth
    from engineroom.comparison import compare as judge

    depth = Depth(tokens=tokens, top=top, samples=samples)
    sides = [
        _observed(arguments, conversations, depth, side) for side, arguments in enumerate((first, second))
    ]
    comparison = judge(sides[0], sides[1], tolerance)
    if as_json:
        print_json(_as_json(comparison, sides))
    else:
        _show(comparison, sides, _told(first, second))
    return 0 if comparison.agrees else DIFFER


# --- the two sides ----------------------------------------------------------------------------------------------


def _both_sides(context: typer.Context, words: Sequence[str]) -> tuple[Arguments, Arguments]:
    """The arguments of both sides, checked before anything is loaded.

    Raises:
        ArgumentError: there is no second side, or one of the two can't be.
    """
    if not words:
        raise ArgumentError(
            "there is nothing to compare with",
            why="--with says what the second side has otherwise",
            fix="engineroom compare infer_backend=huggingface --with infer_backend=vllm",
        )
    from engineroom.config import parse_arguments

    otherwise = split(words, OwnOptions())
    for word in otherwise.own:
        _refuse_url(word)
        raise ArgumentError(
            f"--with {word!r} is not a setting", why="settings are key=value, or a .yaml or .json file"
        )
    values = settings_of(context).values()
    # An empty value takes the first side's away: --with adapter_name_or_path=
    second = {
        name: value for name, value in {**values, **otherwise.settings.values()}.items() if value is not None
    }
    for side in (values, second):
        _refuse_url(str(side.get("model_name_or_path", "")))
    return parse_arguments(values), parse_arguments(second)


def _refuse_url(name: str) -> None:
    if "://" in name:
        raise ArgumentError(
            f"{name!r} is an address",
            why="this version compares models that it runs itself, not servers",
            fix="name the model that is served, with the settings that it is served with",
            argument="model_name_or_path",
        )


def _conversations(file: Path | None) -> tuple[ComparedConversation, ...]:
    from engineroom.comparison import DEFAULT_CONVERSATIONS

    if file is None:
        return DEFAULT_CONVERSATIONS
    from engineroom.cli.compared_file import read_conversations

    return read_conversations(file)


def _observed(
    arguments: Arguments, conversations: Sequence[ComparedConversation], depth: Depth, side: int
) -> Observation:
    """One side is closed before the other is loaded: there need be memory for one only."""
    from engineroom.cli.loading import open_model
    from engineroom.comparison import observe

    with open_model(arguments) as model:
        return observe(model, conversations, depth, side=side)


def _told(first: Arguments, second: Arguments) -> list[tuple[str, str, str]]:
    """The arguments in which the sides differ: name and both values."""
    names = type(first).model_fields
    return [
        (name, str(getattr(first, name)), str(getattr(second, name)))
        for name in names
        if getattr(first, name) != getattr(second, name)
    ]


# --- for people -------------------------------------------------------------------------------------------------


def _show(comparison: Comparison, sides: Sequence[Observation], told: Sequence[tuple[str, str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    print(_verdict(comparison))
    for cause, reason in zip(comparison.causes, comparison.reasons, strict=True):
        print(f"{paint('likely cause:', BOLD, sys.stdout)} {cause}: {reason}")
    console = Console(highlight=False, no_color=None)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("", "first", "second"):
        table.add_column(title, overflow="fold")
    table.add_row("model", *(side.name for side in sides))
    table.add_row("engine", *(side.engine for side in sides))
    for name, first, second in told:
        table.add_row(name, first, second)
    print()
    console.print(table)
    print()
    aspects = Table(box=None, pad_edge=False, show_header=False)
    for aspect, agree in comparison.agreement.items():
        aspects.add_row(aspect, _WORDS[agree], _measure(comparison, aspect))
    console.print(aspects)
    for difference in comparison.differences:
        where = f"{difference.where}: " if difference.where else ""
        print(f"{paint(difference.aspect, DIM, sys.stdout)}  {where}{difference.what}")


_WORDS = {True: "agree", False: "differ", None: "not compared"}


def _verdict(comparison: Comparison) -> str:
    if comparison.agrees:
        return f"{paint('agree:', GREEN, sys.stdout)} both sides answer alike"
    count = len(comparison.differences)
    return f"{paint('differ:', RED, sys.stdout)} {count} difference{'s' if count > 1 else ''} found"


def _measure(comparison: Comparison, aspect: str) -> str:
    if aspect == "logits" and comparison.gap is not None:
        return f"at most {comparison.gap:.4f} nats apart"
    if aspect == "sampled answers" and comparison.chance is not None:
        return f"p = {comparison.chance:.3f}"
    return ""


# --- for programs -----------------------------------------------------------------------------------------------


def _as_json(comparison: Comparison, sides: Sequence[Observation]) -> dict[str, Any]:
    return {
        "agree": comparison.agrees,
        "causes": [
            {"cause": cause, "reason": reason}
            for cause, reason in zip(comparison.causes, comparison.reasons, strict=True)
        ],
        "aspects": dict(comparison.agreement),
        "differences": [
            {"aspect": d.aspect, "where": d.where, "what": d.what} for d in comparison.differences
        ],
        "gap": comparison.gap,
        "chance": comparison.chance,
        "first": _side(sides[0]),
        "second": _side(sides[1]),
    }


def _side(side: Observation) -> dict[str, Any]:
    return {
        "model": side.name,
        "engine": side.engine,
        "dtype": side.weights.dtype,
        "conversations": [
            {
                "name": seen.conversation.name,
                "prompt": seen.prompt and seen.prompt.text,
                "refusal": seen.refusal,
                "greedy": seen.greedy_text,
            }
            for seen in side.seen
        ],
    }
