"""``engineroom embed``: a vector for each text or conversation, as JSON lines."""

from __future__ import annotations

from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from engineroom.cli.command import JsonFlag
from engineroom.cli.console import print_json_line
from engineroom.cli.texts import answered, nothing, progress, read, text_arguments

EXAMPLES = """\
engineroom embed "a text" "another"
engineroom embed model_name_or_path=Qwen/Qwen3-Embedding-0.6B --file texts.txt > vectors.jsonl
engineroom embed --dimensions 128 --file texts.jsonl
cat texts.txt | engineroom embed
"""


def embed(
    context: typer.Context,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="Texts to embed; `-` reads standard input.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the texts from a file.")
    ] = None,
    dimensions: Annotated[
        int | None,
        typer.Option(
            "--dimensions", metavar="N", help="Keep the first N numbers of each vector.", show_default=False
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Turn texts into vectors, a JSON object a line: index (from 0), the input's own id if it has one, embedding, and
    prompt_tokens.

    The model is loaded with stage=embed; without a name, the shipped one, which was trained to chat. Without texts,
    standard input is read: a text a line, or JSON lines that hold {"text": …} or {"messages": […]}.
    """
    arguments = text_arguments(context, stage="embed")
    with read("embed", texts or [], file) as items:
        first = next(items, None)
        if first is None:
            raise nothing("embed")
        from engineroom.cli.loading import open_model

        with open_model(arguments) as model, progress("embedded", texts or []) as advance:
            ask = partial(model.get_embeddings, dimensions=dimensions)
            for item, told in answered(ask, chain((first,), items)):
                known = {"index": item.index, **item.identity}
                print_json_line({**known, "embedding": told.values, "prompt_tokens": told.prompt_length})
                advance()
    return 0
