"""What batching gains: ``python benchmarks/batching.py [--dtype bfloat16] [--vllm] [--soak] [--rounds 5]``.

One process, one thread, a random Qwen3 of 42 million parameters that is made on the spot, 33-token prompts and 64 new
tokens, greedy: Transformers' own ``generate`` one prompt after the other, the engine's stream with 1, 8 and 32 requests
at once, the same with int8 weights, and with ``--vllm`` vLLM's ``AsyncLLM``. They take turns, and what is shown are ratios of
times that were measured one after the other, their median. ``--soak`` sends 10,000 short requests, a third of which leave.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
os.environ.update(VLLM_NO_USAGE_STATS="1", VLLM_ENABLE_V1_MULTIPROCESSING="0")

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from engineroom.config import parse_arguments
from engineroom.engines.huggingface import HuggingfaceEngine
from engineroom.types import Prompt, SamplingParams

PROMPT, TOKENS, CONCURRENT, SINGLES = 33, 64, (1, 8, 32), 4
VOCABULARY = 16_384
_IDS = range(10**9).__iter__()

Answer: TypeAlias = tuple[float, int]
"""Seconds to the first token, and tokens."""

Ask: TypeAlias = Callable[[Sequence[int], int], Awaitable[Answer]]
"""Answers one prompt with so many tokens."""


def make_model(folder: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    cast("Any", torch).manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    model: Any = Qwen3ForCausalLM(config)
    model.save_pretrained(folder)


def prompts(count: int, length: int = PROMPT) -> list[list[int]]:
    return [random.choices(range(VOCABULARY), k=length) for _ in range(count)]


# --- the ways -----------------------------------------------------------------------------------------------------


def by_generate(folder: Path, dtype: str) -> Ask:
    from transformers import AutoModelForCausalLM

    family: Any = AutoModelForCausalLM
    model = family.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    async def ask(ids: Sequence[int], tokens: int) -> Answer:
        given = torch.tensor([ids])
        with torch.inference_mode():
            model.generate(
                given, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0
            )
        return 0.0, tokens

    return ask


async def start_engine(folder: Path, dtype: str, **arguments: Any) -> HuggingfaceEngine:
    parsed = parse_arguments({"model_name_or_path": str(folder), "infer_dtype": dtype, **arguments})
    engine = HuggingfaceEngine.from_arguments(parsed)
    assert isinstance(engine, HuggingfaceEngine)
    await engine.start(lambda stage, share: None)
    return engine


def by_engine(engine: HuggingfaceEngine) -> Ask:
    async def ask(ids: Sequence[int], tokens: int) -> Answer:
        began, first, count = time.perf_counter(), 0.0, 0
        params = SamplingParams(temperature=0.0, max_new_tokens=tokens)
        async for chunk in engine.generate(Prompt(tuple(ids), ""), params):
            first = first or time.perf_counter() - began
            count += len(chunk.token_ids)
        return first, count

    return ask


def by_vllm(folder: Path, dtype: str) -> Ask:
    from vllm import SamplingParams as VllmParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments: Any = {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "dtype": dtype,
        "max_model_len": 512,
        "max_num_seqs": 64,
        "enforce_eager": True,
        "kv_cache_memory_bytes": 64 << 20,
        "distributed_executor_backend": "uni",
        "disable_log_stats": True,
        "enable_prefix_caching": False,
    }
    engine: Any = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

    async def ask(ids: Sequence[int], tokens: int) -> Answer:
        began, first, count = time.perf_counter(), 0.0, 0
        params = VllmParams(
            temperature=0.0,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        async for output in engine.generate({"prompt_token_ids": list(ids)}, params, f"r{next(_IDS)}"):
            first = first or time.perf_counter() - began
            count += len(output.outputs[0].token_ids)
        return first, count

    return ask


# --- measuring ----------------------------------------------------------------------------------------------------


async def together(ask: Ask, count: int) -> tuple[float, float]:
    """Tokens a second of ``count`` requests at once, and their mean seconds to the first token."""
    asked = prompts(count)
    began = time.perf_counter()
    answers = await asyncio.gather(*(ask(ids, TOKENS) for ids in asked))
    seconds = time.perf_counter() - began
    assert sum(tokens for _, tokens in answers) == count * TOKENS
    return count * TOKENS / seconds, statistics.mean(first for first, _ in answers)


async def mixed(ask: Ask, *, equal: bool) -> float:
    """Tokens a second of 64 requests, all of one length or prompts of 8-800 and answers of 8-256 that come at random."""
    dice = random.Random(1)
    lengths = [(dice.randint(8, 800), dice.randint(8, 256)) for _ in range(64)]
    arrivals = sorted(dice.uniform(0, 4.0) for _ in lengths)
    if equal:
        prompt, answer = (round(statistics.mean(column)) for column in zip(*lengths, strict=True))
        lengths, arrivals = [(prompt, answer)] * len(lengths), [0.0] * len(lengths)

    async def one(arrival: float, prompt: int, answer: int) -> int:
        await asyncio.sleep(arrival)
        async with places:
            return (await ask(prompts(1, prompt)[0], answer))[1]

    places = asyncio.Semaphore(32)
    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*(one(a, p, n) for a, (p, n) in zip(arrivals, lengths, strict=True))))
    return tokens / (time.perf_counter() - began)


async def soak(engine: HuggingfaceEngine, requests: int) -> None:
    """Many short requests, 32 at a time, of which a third leave after some tokens."""
    dice = random.Random(2)

    async def one() -> None:
        params = SamplingParams(temperature=0.0, max_new_tokens=dice.randint(1, 8))
        stream = engine.generate(Prompt(tuple(prompts(1, dice.randint(1, 40))[0]), ""), params)
        leaves = dice.randint(1, 3) if dice.random() < 1 / 3 else 99
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == leaves:
                break
        await stream.aclose()

    async def worker(share: int) -> None:
        for _ in range(share):
            await one()

    for part in range(10):
        await asyncio.gather(*(worker(requests // 320) for _ in range(32)))
        while engine.health().running:
            await asyncio.sleep(0.01)
        print(
            f"after {(part + 1) * (requests // 10)}: resident {resident():.0f} MiB, peak {peak():.0f} MiB, none live"
        )


def resident() -> float:
    """MiB of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


async def compare(options: argparse.Namespace, folder: Path) -> None:
    ours = await start_engine(folder, options.dtype, hf_kv_cache_memory="512MiB")
    small = await start_engine(folder, options.dtype, hf_kv_cache_memory="512MiB", quantization_bit=8)
    ways = {"generate": by_generate(folder, options.dtype), "engineroom": by_engine(ours)}
    ways["engineroom int8"] = by_engine(small)
    if options.vllm:
        ways["vllm"] = by_vllm(folder, options.dtype)
    speed: dict[tuple[str, int], list[float]] = {}
    first: dict[tuple[str, int], list[float]] = {}
    for ask in ways.values():
        await together(ask, 2)
    for number in track(range(options.rounds), "measuring", console=Console(stderr=True)):
        for count in CONCURRENT:
            # What is compared runs one after the other; one request alone is over soon, so it is asked more often.
            for _ in range(SINGLES if count == 1 else 1):
                for name in list(ways)[:: 1 if number % 2 else -1]:
                    if name == "generate" and count > 1:
                        continue
                    tokens, seconds = await together(ways[name], count)
                    speed.setdefault((name, count), []).append(tokens)
                    first.setdefault((name, count), []).append(seconds)
    alone = speed["generate", 1]
    for count in CONCURRENT[1:]:
        speed["generate", count] = [
            statistics.median(alone[i : i + SINGLES]) for i in range(0, len(alone), SINGLES)
        ]
        first["generate", count] = first["generate", 1]
    table = Table(title=f"{options.dtype}, {options.rounds} rounds: medians, and of each round's ratios")
    for head in (
        "",
        "at once",
        "tokens/s",
        "first token",
        "x generate",
        *(("x vllm",) if options.vllm else ()),
    ):
        table.add_column(head)
    for (name, count), found in sorted(speed.items(), key=lambda item: item[0][1]):
        against = [speed[other, count] for other in ("generate", *(("vllm",) if options.vllm else ()))]
        ratios = [statistics.median(a / b for a, b in zip(found, base, strict=True)) for base in against]
        wait = statistics.median(first[name, count])
        table.add_row(
            name, str(count), f"{statistics.median(found):.0f}", f"{wait * 1e3:.0f} ms" if wait else "",
            *(f"{ratio:.2f}" for ratio in ratios),
        )  # fmt: skip
    Console().print(table)
    for count in CONCURRENT:
        pairs = zip(speed["engineroom int8", count], speed["engineroom", count], strict=True)
        print(f"int8 at {count}: {statistics.median(a / b for a, b in pairs):.2f} of {options.dtype}")
    ratio = [
        await mixed(ways["engineroom"], equal=False) / await mixed(ways["engineroom"], equal=True)
        for _ in "ab"
    ]
    print(f"mixed lengths: {statistics.median(ratio):.2f} of equal ones")
    print(f"peak memory of the process: {peak():.0f} MiB")
    for engine in (ours, small):
        await engine.close()


async def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        if options.soak:
            engine = await start_engine(Path(folder), options.dtype, hf_kv_cache_memory="64MiB")
            print(f"resident with weights: {resident():.0f} MiB; keys and values may take 64 MiB")
            await soak(engine, 10_000)
            await engine.close()
        else:
            await compare(options, Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vllm", action="store_true", help="beside vLLM, which has to be installed")
    parser.add_argument("--soak", action="store_true", help="memory under 10,000 requests, instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    asyncio.run(run(options))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
