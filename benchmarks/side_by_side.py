"""One engine, many requests at once, two ways: through ``ChatModel``, and through the bare library. In turn, round by round.

Greedy, past any end, so that both ways do the same work. What the programs of single engines share.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from rich.console import Console
from rich.progress import track
from rich.table import Table

from engineroom import ChatModel

Way: TypeAlias = Callable[[], Awaitable[int]]
"""Answers all questions at once; returns the number of tokens."""

Bare: TypeAlias = Callable[[ChatModel, Sequence[Sequence[int]], int], Way]
"""Makes the way past engineroom, from the model, the prompts as token ids, and the tokens of each answer."""


def main(doc: str | None, engine: str, name: str, bare: Bare, promised: float) -> int:
    """Reads the command's words, measures, and prints a table.

    Args:
        name: of the bare way.
        promised: the least ratio of throughputs.

    Returns:
        The exit code: 1 below the ratio that is promised.
    """
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--concurrent", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("settings", nargs="*", help="further settings of the model, as NAME=VALUE")
    args = parser.parse_args()
    questions = [f"What is {number} plus 5?" for number in range(args.concurrent)]
    settings = {"model_name_or_path": args.model, "infer_backend": engine, "infer_dtype": "float32"}
    settings |= dict(word.split("=", 1) for word in args.settings)
    expected = args.concurrent * args.tokens
    with ChatModel(settings) as model:
        prompts = [model.render(question).token_ids for question in questions]
        ways = {
            name: bare(model, prompts, args.tokens),
            "ChatModel.achat": _through_chat_model(model, questions, args.tokens),
        }
        taken = asyncio.run(_measure(ways, args.rounds, expected))
    direct = taken[name]
    ratios = {
        way: [theirs / mine for mine, theirs in zip(seconds, direct, strict=True)]
        for way, seconds in taken.items()
    }
    title = f"{args.concurrent} at once, {args.tokens} tokens each, {args.rounds} rounds in turn"
    table = Table("way", "tokens a second, median", "ratio, median", "min–max", title=title)
    for way, seconds in taken.items():
        speed = f"{expected / statistics.median(seconds):.0f}"
        span = f"{min(ratios[way]):.2f}–{max(ratios[way]):.2f}"
        table.add_row(way, speed, f"{statistics.median(ratios[way]):.3f}", span)
    Console().print(table)
    return 0 if statistics.median(ratios["ChatModel.achat"]) >= promised else 1


def _through_chat_model(model: ChatModel, questions: Sequence[str], tokens: int) -> Way:
    """Template, tokenizer, checks, parsing and all."""
    options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": tokens, "ignore_eos": True}

    async def ask(question: str) -> int:
        return (await model.achat(question, **options))[0].response_length

    async def ask_all() -> int:
        return sum(await asyncio.gather(*map(ask, questions)))

    return ask_all


async def _measure(ways: dict[str, Way], rounds: int, expected: int) -> dict[str, list[float]]:
    """Seconds of each round, by way. The ways take turns in going first."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        assert await way() == expected
    for number in track(range(rounds), "measuring", console=Console(stderr=True)):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            await ways[name]()
            taken[name].append(time.perf_counter() - began)
    return taken
