"""``engineroom score``: a reward model's score for each text or conversation, as soon as it is known."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from engineroom.cli.command import JsonFlag
from engineroom.cli.console import print_json_line
from engineroom.cli.texts import answered, nothing, progress, read, text_arguments

EXAMPLES = """\
engineroom score "You are welcome." "Go away."
engineroom score model_name_or_path=./my-reward-model "a text"
engineroom score --file answers.jsonl --json > scores.jsonl
cat answers.txt | engineroom score
engineroom score -- "x=1 is a text here, not a setting"
"""


def score(
    context: typer.Context,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="Texts to score; `-` reads standard input.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the texts from a file.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Score texts with a reward model, a score a line.

    The model is the shipped demo-reward unless model_name_or_path names another. Without texts, standard input is
    read: a text a line, or JSON lines that hold {"text": …} or {"messages": […]}.

    With --json each line is an object with index (from 0), score, and the input's own id if it has one.
    """
    arguments = text_arguments(context, model_name_or_path="demo-reward")
    with read("score", texts or [], file) as items:
        first = next(items, None)
        if first is None:
            raise nothing("score")
        from engineroom.cli.loading import open_model

        with open_model(arguments) as model, progress("scored", texts or []) as advance:
            for item, value in answered(model.get_scores, chain((first,), items)):
                if as_json:
                    print_json_line({"index": item.index, **item.identity, "score": value})
                else:
                    print(f"{value:.6f}", flush=True)
                advance()
    return 0
