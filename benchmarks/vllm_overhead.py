"""What engineroom adds to vLLM: ``python benchmarks/vllm_overhead.py [--concurrent 32] [--tokens 64] [--rounds 7]``.

One engine, one process. In turn, round by round: 32 requests at once through ``ChatModel.achat`` (template, tokenizer,
checks, parsing and all), and the same prompts as token ids through ``AsyncLLM.generate``, driven on the loop that the
engine lives on. Greedy, past any end, so that both do the same work. Exits with 1 below the ratio that is promised.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.console import Console
from rich.progress import track
from rich.table import Table

from engineroom import ChatModel

Way: TypeAlias = Callable[[], Awaitable[int]]
"""Answers all questions at once; returns the number of tokens."""

PROMISED = 0.95


def through_chat_model(model: ChatModel, questions: Sequence[str], tokens: int) -> Way:
    async def ask(question: str) -> int:
        answers = await model.achat(question, temperature=0.0, max_new_tokens=tokens, ignore_eos=True)
        return answers[0].response_length

    async def ask_all() -> int:
        return sum(await asyncio.gather(*map(ask, questions)))

    return ask_all


def through_vllm(model: ChatModel, questions: Sequence[str], tokens: int) -> Way:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    engine: Any = model.engine
    bridge: Any = model._bridge  # pyright: ignore[reportPrivateUsage]
    llm = engine._engine
    prompts = [list(model.render(question).token_ids) for question in questions]
    numbers = iter(range(10**9))

    async def generate(prompt: list[int]) -> int:
        params = SamplingParams(
            temperature=0.0,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        count = 0
        request_id = f"direct-{next(numbers)}"
        async for output in llm.generate({"prompt_token_ids": prompt}, params, request_id):
            count += len(output.outputs[0].token_ids)
        return count

    async def generate_all() -> int:
        async def together() -> int:
            return sum(await asyncio.gather(*map(generate, prompts)))

        return await bridge.acall(together())

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
    parser.add_argument("--concurrent", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    questions = [f"What is {number} plus 5?" for number in range(args.concurrent)]
    settings = {"model_name_or_path": args.model, "infer_backend": "vllm", "infer_dtype": "float32"}
    expected = args.concurrent * args.tokens
    with ChatModel(settings) as model:
        ways = {
            "AsyncLLM.generate": through_vllm(model, questions, args.tokens),
            "ChatModel.achat": through_chat_model(model, questions, args.tokens),
        }
        taken = asyncio.run(measure(ways, args.rounds, expected))
    direct = taken["AsyncLLM.generate"]
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
