"""``engineroom score``: a reward model's score for each text."""

from __future__ import annotations

from typing import Annotated

import typer

from engineroom.cli.command import settings_of
from engineroom.errors import ArgumentError

EXAMPLES = """\
engineroom score "You are welcome." "Go away."
engineroom score model_name_or_path=./my-reward-model "a text"
"""


def score(
    context: typer.Context,
    texts: Annotated[list[str] | None, typer.Argument(help="What to score.", show_default=False)] = None,
) -> int:
    """Score texts with a reward model, a score a line."""
    from engineroom.chat import ChatModel

    if not texts:
        raise ArgumentError("there is nothing to score", fix='engineroom score "a text" "another"')
    with ChatModel(settings_of(context).arguments(model_name_or_path="demo-reward")) as model:
        for value in model.get_scores(texts):
            print(f"{value:.6f}")
    return 0
