"""What the server adds, and what it bears: ``python benchmarks/server_load.py [--streams 200] [--tokens 500] [--soak]``.

``engineroom api`` on the scripted engine runs in one process, a client that knows only what it must of HTTP in this one. The
scripted engine says the user's message again, a byte a token, as fast as it is asked to. 200 streams at once: tokens a second
through the server, and the gaps between a stream's pieces beside those of the bare engine in one process. ``--soak`` sends
50,000 short requests, of which a third leave before their end, and looks at the server's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from engineroom.engines.scripted import ByteTokenizer, ScriptedEngine
from engineroom.types import Prompt, SamplingParams

_PIECE = b'"delta":{"content":'
_END = b"data: [DONE]\n\n\r\n0\r\n\r\n"


class Client(asyncio.Protocol):
    """One connection that asks for one stream after the other.

    Attributes:
        gaps: seconds between pieces of one stream, as they arrived.
        answers: all bytes of each answer, to be read when the clock has stopped.
    """

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self.answers: list[bytes] = []
        self._received = bytearray()
        self._last = 0.0
        self._pieces = 0
        self._leave_at = 0
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes, leave_at: int = 0) -> asyncio.Future[None]:
        """Done when the whole answer is here, or when ``leave_at`` pieces are and the connection was cut."""
        self._received.clear()
        self._last, self._pieces, self._leave_at = 0.0, 0, leave_at
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        self._received += data
        if pieces := data.count(_PIECE):
            now = time.perf_counter()
            if self._last:
                self.gaps.append(now - self._last)
            self._last = now
            self._pieces += pieces
            if 0 < self._leave_at <= self._pieces:
                self._transport.abort()
                self._finish()
                return
        if self._received.endswith(_END):
            self.answers.append(bytes(self._received))
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("the server closed the connection"))

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def close(self) -> None:
        self._done = None
        self._transport.close()


async def connect(port: int) -> Client:
    _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
    return client


def request_bytes(text: str) -> bytes:
    body = json.dumps(
        {
            "messages": [{"role": "user", "content": text}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def check(answer: bytes, text: str) -> None:
    """The answer is 200, each of its events is a chunk, and together they say the text."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), answer[:500]
    *events, done = events_of(unchunked(body))
    assert done == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    said = "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"])
    assert said == text, (said[:50], len(said))
    assert chunks[-1]["usage"]["completion_tokens"] == len(text) + 1  # and the token that ends it


def unchunked(body: bytes) -> bytes:
    whole = bytearray()
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return bytes(whole)
        whole += body[:length]
        body = body[length + 2 :]


def events_of(body: bytes) -> list[str]:
    *events, rest = body.decode().split("\n\n")
    assert not rest
    return [event.removeprefix("data: ") for event in events if not event.startswith(":")]


# --- the server ---------------------------------------------------------------------------------------------------


class Server:
    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port

    def resident(self) -> float:
        """MiB of memory that the process holds."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def seconds(self) -> float:
        """Of a processor's time that it took so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def live(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            round(float(line.split()[-1]))
            for line in lines
            if line.startswith(("engineroom_answers_running ", "engineroom_answers_waiting "))
        )


@contextmanager
def serving(profile: str = "") -> Generator[Server, None, None]:
    """``engineroom api`` with the scripted engine on a port of its own choice."""
    how = [str(Path(__file__).with_name("profiled.py")), profile] if profile else ["-m", "engineroom"]
    words = [*how, "api", "infer_backend=scripted", "--port", "0"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen([sys.executable, *words], stderr=file, stdout=file)
        try:
            yield Server(process.pid, _port(process, log))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        for line in log.read_text().splitlines():
            if " answers at " in line:
                return int(line.rpartition(":")[2].removesuffix("/v1"))
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")


# --- measuring ----------------------------------------------------------------------------------------------------


async def bare(streams: int, tokens: int) -> list[float]:
    """The gaps of as many streams on the engine itself, all in one process."""
    engine = ScriptedEngine(["x" * tokens])
    await engine.start(lambda stage, share: None)
    gaps: list[float] = []

    async def read() -> None:
        last = 0.0
        params = SamplingParams(max_new_tokens=tokens + 1, stop_token_ids=ByteTokenizer.eos_token_ids)
        async for _ in engine.generate(Prompt((1,), ""), params):
            now = time.perf_counter()
            if last:
                gaps.append(now - last)
            last = now

    await asyncio.gather(*(read() for _ in range(streams)))
    return gaps


async def load(port: int, streams: int, tokens: int, requests: int) -> tuple[float, list[float]]:
    """Tokens a second of streams that ask again as soon as they were answered, and all gaps."""
    text = "".join(random.choices("abcdefghij \n", k=tokens))
    request = request_bytes(text)
    clients = [await connect(port) for _ in range(streams)]

    async def work(client: Client) -> None:
        for _ in range(requests):
            await client.ask(request)

    began = time.perf_counter()
    await asyncio.gather(*map(work, clients))
    seconds = time.perf_counter() - began
    for client in clients:
        client.close()
        assert len(client.answers) == requests
        for answer in client.answers:
            check(answer, text)
    gaps = [gap for client in clients for gap in client.gaps]
    return streams * requests * (tokens + 1) / seconds, gaps


async def soak(server: Server, requests: int, workers: int = 64) -> list[float]:
    """Many short streams, a third of which leave; the server's resident memory after each tenth of them."""
    dice = random.Random(3)
    memory = [server.resident()]
    print(f"before: {memory[0]:.1f} MiB, {server.descriptors()} descriptors")

    async def work(count: int) -> None:
        client = await connect(server.port)
        for _ in range(count):
            tokens = dice.randint(8, 32)
            leaves = dice.random() < 1 / 3
            await client.ask(request_bytes("x" * tokens), leave_at=dice.randint(1, 7) if leaves else 0)
            client.answers.clear()
            client.gaps.clear()
            if leaves:
                client = await connect(server.port)
        client.close()

    for part in range(10):
        began = time.perf_counter()
        await asyncio.gather(*(work(requests // 10 // workers) for _ in range(workers)))
        rate = requests / 10 / (time.perf_counter() - began)
        while server.live():
            await asyncio.sleep(0.01)
        memory.append(server.resident())
        print(
            f"after {(part + 1) * requests // 10}: {memory[-1]:.1f} MiB, {server.descriptors()} descriptors, "
            f"{rate:.0f} requests/s"
        )
    return memory


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def compare(options: argparse.Namespace) -> None:
    table = Table(
        "round",
        "tokens/s",
        "server's CPU, µs a token",
        "gap, p50",
        "p99",
        "of the bare engine",
        "added at p99",
    )
    rates: list[float] = []
    added: list[float] = []
    with serving(options.profile) as server:
        asyncio.run(load(server.port, 8, 32, 2))
        for number in range(options.rounds):
            own = percentile(asyncio.run(bare(options.streams, options.tokens)), 0.99)
            before = server.seconds()
            rate, gaps = asyncio.run(load(server.port, options.streams, options.tokens, options.requests))
            work = (server.seconds() - before) / (options.streams * options.requests * (options.tokens + 1))
            p99 = percentile(gaps, 0.99)
            rates.append(rate)
            added.append(p99 - own)
            milliseconds = (percentile(gaps, 0.5), p99, own, p99 - own)
            row: list[Any] = [number + 1, f"{rate:.0f}", f"{work * 1e6:.1f}"]
            table.add_row(*map(str, row), *(f"{value * 1e3:.1f} ms" for value in milliseconds))
    Console().print(table)
    print(
        f"{options.streams} streams: {statistics.median(rates):.0f} tokens/s (bar 20000), "
        f"{statistics.median(added) * 1e3:.1f} ms added at p99 (bar 50)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=500, help="of each answer")
    parser.add_argument("--requests", type=int, default=3, help="one after the other, of each stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", default="", metavar="FILE", help="run the server's loop under cProfile")
    parser.add_argument("--soak", action="store_true", help="memory under 50,000 requests, instead")
    options = parser.parse_args()
    random.seed(0)
    if options.soak:
        with serving() as server:
            memory = asyncio.run(soak(server, 50_000))
        print(f"from the first tenth to the last: {memory[-1] - memory[1]:+.1f} MiB")
    else:
        compare(options)


if __name__ == "__main__":
    main()
