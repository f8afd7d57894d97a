"""``engineroom compare``: the same conversations through two engines, models or settings, and where they part."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from engineroom.cli.command import JsonFlag, settings_of
from engineroom.cli.console import BOLD, DIM, GREEN, RED, paint, print_json
from engineroom.cli.loading import print_note
from engineroom.cli.serving import (
    ApiKeyOption,
    ModelOption,
    UrlOption,
    named_server,
    refuse_settings_of_server,
)
from engineroom.cli.settings import OwnOptions, Split, split
from engineroom.errors import ArgumentError

if TYPE_CHECKING:
    from engineroom.client import ServerAddress
    from engineroom.comparison import ComparedConversation, Comparison, Depth, Observation
    from engineroom.comparison.judgement import Aspect
    from engineroom.config import Arguments

Side: TypeAlias = "Arguments | ServerAddress"

EXAMPLES = """\
engineroom compare infer_backend=huggingface --with infer_backend=vllm
engineroom compare model_name_or_path=./my-model --with http://127.0.0.1:8000/v1
engineroom compare --url http://127.0.0.1:8000/v1 --with http://127.0.0.1:8001/v1 --with model=my-model
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
            help="What the second side has otherwise: key=value, key= to leave it out, or a .yaml / .json file; or the address of an OpenAI-compatible server, with model=NAME and api_key=KEY if it needs them. May be repeated.",
        ),
    ] = None,
    url: UrlOption = None,
    model: ModelOption = None,
    api_key: ApiKeyOption = None,
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

    Either side may be an OpenAI-compatible server: the second with --with URL, the first with --url URL. It is
    compared as far as it shows what it does; the rest is reported as not seen.

    The exit code is 0 if they agree, 1 if they differ, 2 if the question can't be asked. With --json: agree, causes
    (cause, reason), aspects, differences (aspect, where, what), gap, chance, notes, first, second.
    """
    first, second = _both_sides(context, with_settings or [], named_server(url, model, api_key))
    conversations = _conversations(messages)
    from engineroom.comparison import Depth
    from engineroom.comparison import compare as judge

    depth = Depth(tokens=tokens, top=top, samples=samples)
    sides = _observe_both(first, second, conversations, depth)
    comparison = judge(sides[0], sides[1], tolerance)
    for note in (note for side in sides for note in side.notes):
        print_note(note)
    if as_json:
        print_json(_as_json(comparison, sides))
    else:
        _show(comparison, sides, _told(first, second))
    return 0 if comparison.agrees else DIFFER


# --- the two sides ----------------------------------------------------------------------------------------------


def _both_sides(
    context: typer.Context, words: Sequence[str], server: ServerAddress | None
) -> tuple[Side, Side]:
    """Both sides, checked before anything is loaded.

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
    served = _second_server(otherwise)
    if server is None:
        values = settings_of(context).values()
        _refuse_address(values)
        if served is not None:
            return parse_arguments(values), served
    else:
        refuse_settings_of_server(context)
        values = {}
        if served is not None:
            return server, served
    # An empty value takes the first side's away: --with adapter_name_or_path=
    second = {
        name: value for name, value in {**values, **otherwise.settings.values()}.items() if value is not None
    }
    _refuse_address(second)
    return server or parse_arguments(values), parse_arguments(second)


_OF_A_SERVER = ("url", "model", "api_key")


def _second_server(words: Split) -> ServerAddress | None:
    """The server that --with names, by its bare address or as url=ADDRESS; None if it names settings.

    Raises:
        ArgumentError: it names a server and settings, or something that is neither.
    """
    addresses = [word for word in words.own if "://" in word]
    addresses += [value for name, value in words.settings.assignments if name == "url"]
    for word in words.own:
        if word not in addresses:
            raise ArgumentError(
                f"--with {word!r} is not a setting",
                why="it is key=value, a .yaml or .json file, or the address of a server",
            )
    if not addresses:
        return None
    if len(addresses) > 1:
        raise ArgumentError(f"--with names {len(addresses)} servers", fix="name one")
    given = dict(words.settings.assignments)
    foreign = [*(name for name in given if name not in _OF_A_SERVER), *map(str, words.settings.configs)]
    if foreign:
        raise ArgumentError(
            f"--with names a server and {foreign[0]}",
            why="a server has settings of its own, which can't be changed from here",
            fix="behind --with: the address, and model=NAME and api_key=KEY if need be",
        )
    from engineroom.client import ServerAddress

    return ServerAddress.parse(addresses[0], given.get("model"), given.get("api_key"))


def _refuse_address(values: Mapping[str, Any]) -> None:
    name = str(values.get("model_name_or_path", ""))
    if "://" in name:
        raise ArgumentError(
            f"{name!r} is an address",
            why="model_name_or_path is a model that is run here",
            fix="a server is the first side with --url ADDRESS, the second with --with ADDRESS",
            argument="model_name_or_path",
        )


def _conversations(file: Path | None) -> tuple[ComparedConversation, ...]:
    from engineroom.comparison import DEFAULT_CONVERSATIONS

    if file is None:
        return DEFAULT_CONVERSATIONS
    from engineroom.cli.compared_file import read_conversations

    return read_conversations(file)


def _observe_both(
    first: Side, second: Side, conversations: Sequence[ComparedConversation], depth: Depth
) -> list[Observation]:
    """One side is closed before the other is loaded: there need be memory for one only.

    A model that is run here goes before a server, which is drawn from as the model was.
    """
    from engineroom.client import ServerAddress

    sides = [first, second]
    seen: dict[int, Observation] = {}
    for place in sorted((0, 1), key=lambda place: isinstance(sides[place], ServerAddress)):
        side, other = sides[place], seen.get(1 - place)
        if isinstance(side, ServerAddress):
            seen[place] = _observed_server(side, conversations, depth, other)
        else:
            seen[place] = _observed(side, conversations, depth, place)
    if isinstance(first, ServerAddress) and seen[0].spelling is not None and seen[1].spelling is None:
        seen[0] = _observed_server(
            first, conversations, depth, seen[1]
        )  # as text, as the second shows itself
    return [seen[0], seen[1]]


def _observed(
    arguments: Arguments, conversations: Sequence[ComparedConversation], depth: Depth, side: int
) -> Observation:
    from engineroom.cli.loading import open_model
    from engineroom.comparison import observe

    with open_model(arguments) as model:
        return observe(model, conversations, depth, side=side)


def _observed_server(
    address: ServerAddress,
    conversations: Sequence[ComparedConversation],
    depth: Depth,
    other: Observation | None,
) -> Observation:
    import asyncio

    from engineroom.client import Server
    from engineroom.comparison import observe_server

    async def observed() -> Observation:
        async with Server(address) as server:
            return await observe_server(
                server,
                conversations,
                depth,
                ids=other is None or other.spelling is not None,
                temperature=1.0 if other is not None and other.is_greedy else None,
            )

    return asyncio.run(observed())


def _told(first: Side, second: Side) -> list[tuple[str, str, str]]:
    """The arguments in which the sides differ: name and both values."""
    from engineroom.config import Arguments

    if not isinstance(first, Arguments) or not isinstance(second, Arguments):
        return []
    return [
        (name, str(getattr(first, name)), str(getattr(second, name)))
        for name in Arguments.model_fields
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
        aspects.add_row(aspect, _word(comparison, aspect, agree), _measure(comparison, aspect))
    console.print(aspects)
    for difference in comparison.differences:
        where = f"{difference.where}: " if difference.where else ""
        print(f"{paint(difference.aspect, DIM, sys.stdout)}  {where}{difference.what}")


def _word(comparison: Comparison, aspect: Aspect, agree: bool | None) -> str:
    if agree is None:
        return "not seen" if aspect in comparison.notes else "not compared"
    return "agree" if agree else "differ"


def _verdict(comparison: Comparison) -> str:
    if comparison.agrees:
        hidden = [aspect for aspect in comparison.notes if comparison.agreement[aspect] is None]
        seen = f", as far as was seen; not seen: {', '.join(hidden)}" if hidden else ""
        return f"{paint('agree:', GREEN, sys.stdout)} both sides answer alike{seen}"
    count = len(comparison.differences)
    return f"{paint('differ:', RED, sys.stdout)} {count} difference{'s' if count > 1 else ''} found"


def _measure(comparison: Comparison, aspect: Aspect) -> str:
    told: list[str] = []
    if aspect == "logits" and comparison.gap is not None:
        told.append(f"at most {comparison.gap:.4f} nats apart")
    if aspect == "sampled answers" and comparison.chance is not None:
        told.append(f"p = {comparison.chance:.3f}")
    return "; ".join([*told, *(text for name, text in comparison.notes.items() if name == aspect)])


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
        "notes": dict(comparison.notes),
        "first": _side(sides[0]),
        "second": _side(sides[1]),
    }


def _side(side: Observation) -> dict[str, Any]:
    return {
        "model": side.name,
        "engine": side.engine,
        "dtype": side.weights and side.weights.dtype,
        "notes": list(side.notes),
        "conversations": [
            {
                "name": seen.conversation.name,
                "prompt": (seen.prompt and seen.prompt.text) or None,
                "refusal": seen.refusal,
                "greedy": seen.greedy_text,
            }
            for seen in side.seen
        ],
    }
