"""Our server beside others: ``python benchmarks/serving.py transformers|vllm [--rounds 5]``.

Whole servers, each in a process of its own and one thread, with the same random Qwen3 of 42 million parameters in float32, whose
tokens are words. They take turns round by round: 8 and 32 clients at once, 33-token prompts, 64 new tokens, greedy, streamed.
Shown are ratios of one round's times. ``transformers``: ours with the Transformers engine beside
``transformers serve --continuous-batching``. ``vllm``: ours with the vLLM engine beside vLLM's own server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batching import PROMPT, TOKENS, VOCABULARY, make_model
from rich.console import Console
from rich.progress import track
from rich.table import Table
from server_load import events_of, unchunked

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
PROMISED = {"transformers": 1.4, "vllm": 0.95}


@dataclass(frozen=True, eq=False, slots=True)
class Contestant:
    """A server to start.

    Attributes:
        words: the command; ``PORT`` stands for its port.
        fields: what its requests hold beside messages, temperature, max_tokens and stream.
    """

    name: str
    words: Sequence[str]
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])


def contestants(kind: str, folder: Path) -> tuple[Contestant, Contestant]:
    """Ours, and the one beside it."""
    ours = ["engineroom", "api", f"model_name_or_path={folder}", "infer_dtype=float32", "--port", "PORT"]
    usage = {"stream_options": {"include_usage": True}}
    if kind == "transformers":
        serve = ["transformers.cli.transformers", "serve", str(folder), "--continuous-batching"]
        room = ["--cb-num-blocks", "128", "--device", "cpu", "--dtype", "float32", "--port", "PORT"]
        return (
            Contestant("engineroom", [*ours, "hf_kv_cache_memory=512MiB"], usage),
            Contestant("transformers serve", [*serve, *room], {"model": str(folder)}),
        )
    vllm = ["vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "m"]
    limits = ["--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "64", "--enforce-eager"]
    cache = ["--kv-cache-memory-bytes", str(64 << 20), "--disable-log-stats", "--port", "PORT"]
    same = f'vllm_config={{"max_num_seqs": 64, "kv_cache_memory_bytes": {64 << 20}}}'
    return (
        Contestant("engineroom", [*ours, "infer_backend=vllm", "vllm_maxlen=512", same], usage),
        Contestant("vllm", [*vllm, *limits, *cache], usage),
    )


def make_tokenizer(folder: Path) -> None:
    """A word is a token, and a conversation its texts: every server counts the same."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words: Any = Tokenizer(
        WordLevel({"<unk>": 0, **{f"w{i}": i for i in range(1, VOCABULARY)}}, unk_token="<unk>")
    )
    words.pre_tokenizer = WhitespaceSplit()
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=words, unk_token="<unk>", pad_token="<unk>")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)


# --- servers ------------------------------------------------------------------------------------------------------


@contextmanager
def serving(server: Contestant, folder: Path) -> Generator[int, None, None]:
    """The port that it listens on. It has a session of its own, which is ended as a whole."""
    port = _free_port()
    log = folder / f"{server.name}.log"
    words = [sys.executable, "-m", *(str(port) if word == "PORT" else word for word in server.words)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=file, cwd=folder, env=ENVIRONMENT, start_new_session=True
        )
    try:
        _await(process, port, log)
        yield port
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until it has its model."""
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        for path in ("ready", "health"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5):
                    return
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    break  # ours, which has no model yet
            except OSError:
                break
        time.sleep(0.2)
    raise RuntimeError(f"it did not start: {log.read_text()[-3000:]}")


# --- measuring ----------------------------------------------------------------------------------------------------


def prompt() -> str:
    return " ".join(f"w{random.randrange(1, VOCABULARY)}" for _ in range(PROMPT))


async def ask(port: int, server: Contestant) -> None:
    """One streamed answer of ``TOKENS`` tokens."""
    body = json.dumps(
        {
            "messages": [{"role": "user", "content": prompt()}],
            "temperature": 0,
            "max_tokens": TOKENS,
            "stream": True,
            **server.fields,
        }
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body)
    status, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert status.startswith(b"HTTP/1.1 200 "), (server.name, status, answer[:500])
    chunks = [json.loads(text) for text in events_of(unchunked(answer)) if text != "[DONE]"]
    usage = next(chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage"))
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (PROMPT, TOKENS), (server.name, usage)


async def together(port: int, server: Contestant, count: int) -> float:
    """Tokens a second of ``count`` clients at once."""
    began = time.perf_counter()
    await asyncio.gather(*(ask(port, server) for _ in range(count)))
    return count * TOKENS / (time.perf_counter() - began)


def measure(servers: Mapping[Contestant, int], counts: Sequence[int], rounds: int) -> dict[Any, list[float]]:
    speed: dict[tuple[str, int], list[float]] = {}
    for server, port in servers.items():
        asyncio.run(together(port, server, 4))
    for number in track(range(rounds), "measuring", console=Console(stderr=True)):
        for count in counts:
            for server in list(servers)[:: 1 if number % 2 else -1]:
                found = asyncio.run(together(servers[server], server, count))
                speed.setdefault((server.name, count), []).append(found)
    return speed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("beside", choices=tuple(PROMISED))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    counts = (8, 32) if options.beside == "transformers" else (32,)
    random.seed(0)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        make_model(folder / "model")
        make_tokenizer(folder / "model")
        pair = contestants(options.beside, folder / "model")
        speed = measure(
            {server: stack.enter_context(serving(server, folder)) for server in pair}, counts, options.rounds
        )
    table = Table("server", "at once", "tokens/s, median", "ratio, median", "min–max")
    kept = True
    for count in counts:
        beside = speed[pair[1].name, count]
        for server in pair:
            mine = speed[server.name, count]
            ratios = [a / b for a, b in zip(mine, beside, strict=True)]
            ratio, span = statistics.median(ratios), f"{min(ratios):.2f}–{max(ratios):.2f}"
            table.add_row(server.name, str(count), f"{statistics.median(mine):.0f}", f"{ratio:.2f}", span)
            kept = kept and (server is pair[1] or ratio >= PROMISED[options.beside])
    Console().print(table)
    print(f"promised: {PROMISED[options.beside]}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
