"""What engineroom adds to each token: ``python benchmarks/overhead.py [--tokens 256] [--rounds 9]``.

One process, one thread, the shipped model in float32, greedy, the same prompt and the same number of tokens: bare
``model.generate``, the engine's own stream, ``ChatModel.chat`` and ``ChatModel.stream_chat``, in turn. The model is so
small that a forward pass costs about a millisecond: the share that the layer takes here is the largest it can be.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from engineroom import ChatModel

_QUESTION = [{"role": "user", "content": "What is engineroom?"}]


def ways(model: ChatModel, tokens: int) -> dict[str, Callable[[], int]]:
    """Name → what generates ``tokens`` tokens that way and returns how many it did."""
    bare, ids = model.engine.model, torch.tensor([model.render(_QUESTION).token_ids])
    options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": tokens, "ignore_eos": True}

    def generate() -> int:
        with torch.inference_mode():
            output = bare.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                temperature=None,
                top_p=None,
                max_new_tokens=tokens,
                eos_token_id=None,
            )
        return output.shape[1] - ids.shape[1]

    def chat() -> int:
        return model.chat(_QUESTION, **options)[0].response_length

    def stream() -> int:
        return sum(len(delta.token_ids) for delta in model.stream_deltas(_QUESTION, **options))

    return {"model.generate": generate, "ChatModel.chat": chat, "ChatModel.stream_deltas": stream}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with ChatModel({"model_name_or_path": args.model, "infer_dtype": "float32"}) as model:
        measured = ways(model, args.tokens)
        taken: dict[str, list[float]] = {name: [] for name in measured}
        for generate in measured.values():
            assert generate() == args.tokens
        for _ in track(range(args.rounds), "measuring", console=Console(stderr=True)):
            for name, generate in measured.items():
                began = time.perf_counter()
                generate()
                taken[name].append((time.perf_counter() - began) / args.tokens)
    base = taken["model.generate"]
    title = f"{args.tokens} tokens, {args.rounds} rounds, interleaved; ratios are round by round"
    table = Table("way", "µs a token, median", "ratio to generate, median", "min–max", title=title)
    for name, seconds in taken.items():
        ratios = [mine / bare for mine, bare in zip(seconds, base, strict=True)]
        span = f"{min(ratios):.2f}–{max(ratios):.2f}"
        row = (f"{statistics.median(seconds) * 1e6:.0f}", f"{statistics.median(ratios):.2f}", span)
        table.add_row(name, *row)
    Console().print(table)


if __name__ == "__main__":
    main()
