"""How long a large body holds up everybody else: ``python benchmarks/server_bodies.py``.

The server runs on the scripted engine. While a client sends a body, a task on the server's event loop asks for its turn
every millisecond; the longest time that it had to wait is what another stream would have seen between two of its pieces.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import random
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

from engineroom import ChatModel, ScriptedEngine
from engineroom.bridge import Bridge
from engineroom.server.app import create_app
from engineroom.server.lifecycle import RunningServer
from engineroom.server.settings import ServerSettings

COMPLETIONS, CHAT, EMBEDDINGS = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"
MIB = 2**20
HI = {"messages": [{"role": "user", "content": "hi"}]}


def ids(count: int) -> list[int]:
    chance = random.Random(count)
    return [chance.randrange(256) for _ in range(count)]


def chat(**fields: Any) -> bytes:
    return json.dumps({**HI, **fields}).encode()


def said(text: bytes) -> bytes:
    return b'{"messages":[{"role":"user","content":"' + text + b'"}]}'


BODIES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "14 MiB of token ids": (COMPLETIONS, lambda: json.dumps({"prompt": ids(3_000_000)}).encode()),
    "a million token ids": (COMPLETIONS, lambda: json.dumps({"prompt": ids(1_000_000)}).encode()),
    "1000 prompts of 1000 ids": (
        COMPLETIONS,
        lambda: json.dumps({"prompt": [ids(1000)] * 1000, "max_tokens": 1}).encode(),
    ),
    "the same, for embeddings": (EMBEDDINGS, lambda: json.dumps({"input": [ids(1000)] * 1000}).encode()),
    "1000 prompts of 1300 characters": (
        COMPLETIONS,
        lambda: json.dumps({"prompt": ["x" * 1300] * 1000, "max_tokens": 1}).encode(),
    ),
    "100,000 prompts": (COMPLETIONS, lambda: json.dumps({"prompt": ["x" * 70] * 100_000}).encode()),
    "35,000 messages": (CHAT, lambda: chat(messages=[{"role": "user", "content": "x"}] * 35_000)),
    "190,000 messages": (CHAT, lambda: chat(messages=[{"role": "user", "content": "x"}] * 190_000)),
    "99,000 empty lists": (CHAT, lambda: chat(messages=[[]] * 99_000)),
    "199,000 empty lists": (CHAT, lambda: chat(messages=[[]] * 199_000)),
    "a text of 31 MiB": (CHAT, lambda: said(b"x" * (31 * MIB))),
    "31 MiB, a third of it brackets": (CHAT, lambda: said(b"x[]" * (10 * MIB))),
    "31 MiB of line breaks": (CHAT, lambda: said(b"x\\n" * (10 * MIB))),
    "9 MiB of line breaks": (CHAT, lambda: said(b"x\\n" * 2_990_000)),
    "31 MiB of \\u escapes": (CHAT, lambda: said(b"\\u00e9" * (5 * MIB))),
    "18 MiB of \\u escapes": (CHAT, lambda: said(b"\\u00e9" * 2_990_000)),
    "a million fractions": (CHAT, lambda: chat(tools=[{"a": [i / 1e6 for i in range(1_000_000)]}])),
    "a bias for 130,000 ids": (CHAT, lambda: chat(logit_bias={str(i): 1 for i in range(130_000)})),
    "a bias for 400,000 ids": (CHAT, lambda: chat(logit_bias={str(i): 1 for i in range(400_000)})),
    "400,000 fields": (CHAT, lambda: chat(**{f"a{i}": 1 for i in range(400_000)})),
    "140,000 stop strings": (CHAT, lambda: chat(stop=[f"a{i}" for i in range(140_000)])),
    "400,000 stop strings": (CHAT, lambda: chat(stop=[f"a{i}" for i in range(400_000)])),
    "a million stop_token_ids": (CHAT, lambda: chat(stop_token_ids=ids(1_000_000))),
    "a million ids to decode": ("/detokenize", lambda: json.dumps({"tokens": ids(1_000_000)}).encode()),
    "an enum of 90,000 choices": (CHAT, lambda: chat(guided_choice=[f"a{i}" for i in range(90_000)])),
    "broken off after 4 MiB": (COMPLETIONS, lambda: json.dumps({"prompt": ids(900_000)}).encode()[:-2]),
}


class Watch:
    """A task on a loop that wants its turn every millisecond.

    Attributes:
        longest: seconds that it had to wait since ``clear``.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            self.longest, last = max(self.longest, now - last - 0.001), now

    def clear(self) -> None:
        self.longest = 0.0


def connected(port: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.connect()
    # A head and a body are sent apart, and the second would wait 40 ms for the first's acknowledgement.
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def post(connection: http.client.HTTPConnection, path: str, body: bytes) -> int:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def small_requests(connection: http.client.HTTPConnection, count: int = 200) -> float:
    """Seconds for a small chat, the median."""
    body = chat(max_tokens=1)
    seconds: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        assert post(connection, CHAT, body) == 200
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def measure(port: int, watch: Watch, rounds: int, chosen: str) -> None:
    connection = connected(port)
    small_requests(connection)
    print(
        f"a small chat: {small_requests(connection) * 1e3:.2f} ms, {small_requests(connection) * 1e3:.2f} ms"
    )
    for name, (path, make) in BODIES.items():
        if chosen not in name:
            continue
        body = make()
        stalls: list[float] = []
        status, took = 0, 0.0
        for _ in range(rounds):
            watch.clear()
            began = time.perf_counter()
            status = post(connection, path, body)
            took = time.perf_counter() - began
            time.sleep(0.05)
            stalls.append(watch.longest)
            connection.close()
            connection = connected(port)
        told = f"{statistics.median(stalls) * 1e3:6.0f} ms, at most {max(stalls) * 1e3:5.0f}"
        print(f"{name:32} {len(body) / MIB:5.1f} MiB  stall {told}   answered {status} after {took:.2f} s")


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--rounds", type=int, default=3)
    reader.add_argument("--only", default="", help="bodies with this in their name")
    asked = reader.parse_args()
    bridge = Bridge()
    settings = ServerSettings(port=0)  # pyright: ignore[reportCallIssue]
    with ChatModel({"max_queue": 100_000}, engine=ScriptedEngine(["x"]), bridge=bridge) as model:
        server = RunningServer(create_app(model, settings, bridge), settings)
        serving = bridge.submit(server.serve())
        watch = Watch()
        bridge.submit(watch.run())
        measure(int(server.url.rpartition(":")[2]), watch, asked.rounds, asked.only)
        bridge.call_soon(server.stop)
        serving.result(30)
    bridge.close()


if __name__ == "__main__":
    main()
