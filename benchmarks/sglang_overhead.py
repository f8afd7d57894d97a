"""What engineroom adds to SGLang: ``python benchmarks/sglang_overhead.py [--concurrent 32] [--tokens 64] [--rounds 7]``.

One server. In turn, round by round: 32 requests at once through ``ChatModel.achat`` (template, tokenizer, checks, parsing
and all), and the same prompts as token ids through a bare ``httpx.AsyncClient`` that streams from the same server. Greedy,
past any end, so that both do the same work. Exits with 1 below the ratio that is promised.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
from rich.console import Console
from rich.progress import track
from rich.table import Table

from engineroom import ChatModel

Way: TypeAlias = Callable[[], Awaitable[int]]
"""Answers all questions at once; returns the number of tokens."""

PROMISED = 0.9


def through_chat_model(model: ChatModel, questions: Sequence[str], tokens: int) -> Way:
    async def ask(question: str) -> int:
        answers = await model.achat(question, temperature=0.0, max_new_tokens=tokens, ignore_eos=True)
        return answers[0].response_length

    async def ask_all() -> int:
        return sum(await asyncio.gather(*map(ask, questions)))

    return ask_all


def through_client(model: ChatModel, questions: Sequence[str], tokens: int) -> Way:
    engine: Any = model.engine
    inner = engine._client._http
    prompts = [list(model.render(question).token_ids) for question in questions]
    sampling = {"temperature": 0.0, "max_new_tokens": tokens, "ignore_eos": True}

    async def generate(client: httpx.AsyncClient, prompt: list[int]) -> int:
        body = {"input_ids": prompt, "sampling_params": sampling, "stream": True}
        count = 0
        async with client.stream("POST", "/generate", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    count += len(json.loads(line.removeprefix("data: "))["output_ids"])
        return count

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    client = httpx.AsyncClient(base_url=inner.base_url, headers=inner.headers, timeout=None, limits=limits)

    async def generate_all() -> int:
        return sum(await asyncio.gather(*(generate(client, prompt) for prompt in prompts)))

    return generate_all


async def measure(ways: dict[str, Way], rounds: int, expected: int) -> dict[str, list[float]]:
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--python", help="SGLang's interpreter; sglang_python")
    parser.add_argument("--concurrent", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    questions = [f"What is {number} plus 5?" for number in range(args.concurrent)]
    settings = {"model_name_or_path": args.model, "infer_backend": "sglang", "infer_dtype": "float32"}
    if args.python:
        settings["sglang_python"] = args.python
    expected = args.concurrent * args.tokens
    with ChatModel(settings) as model:
        ways = {
            "httpx.AsyncClient": through_client(model, questions, args.tokens),
            "ChatModel.achat": through_chat_model(model, questions, args.tokens),
        }
        taken = asyncio.run(measure(ways, args.rounds, expected))
    direct = taken["httpx.AsyncClient"]
    title = f"{args.concurrent} at once, {args.tokens} tokens each, {args.rounds} rounds in turn"
    table = Table("way", "tokens a second, median", "ratio, median", "min–max", title=title)
    for name, seconds in taken.items():
        ratios = [theirs / mine for mine, theirs in zip(seconds, direct, strict=True)]
        span = f"{min(ratios):.2f}–{max(ratios):.2f}"
        table.add_row(
            name,
            f"{expected / statistics.median(seconds):.0f}",
            f"{statistics.median(ratios):.3f}",
            span,
        )
    Console().print(table)
    ratio = statistics.median(
        theirs / mine for mine, theirs in zip(taken["ChatModel.achat"], direct, strict=True)
    )
    return 0 if ratio >= PROMISED else 1


if __name__ == "__main__":
    sys.exit(main())
