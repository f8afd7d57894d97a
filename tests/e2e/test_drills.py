"""``engineroom api`` as a process: how it starts, how it ends, and what the machine under it may do to it.

The drills "SIGTERM" (with 100 streams open), "start fails" (port taken, bad certificate, no model) and "disk full for logs".
All of the drills by name: the heads of ``test_server_attacks.py`` and ``test_server_faults.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timed]

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
STREAMS = 100


class Process:
    """A server that says again what it is told (the scripted engine)."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = log

    @property
    def told(self) -> str:
        return self.log.read_text() if self.log.is_file() else ""  # a read of /dev/full never ends

    def signal(self, number: int) -> float:
        """When it was sent."""
        self.process.send_signal(number)
        return time.monotonic()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(
    folder: Path, *words: str, log: Path | None = None, patience: float = 60
) -> Generator[Process, None, None]:
    port = free_port()
    log = log or folder / "log"
    command = [sys.executable, "-m", "engineroom", "api", "--port", str(port), *words]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=ENVIRONMENT, cwd=folder)
    try:
        server = Process(process, port, log)
        end = time.monotonic() + patience
        while not _is_ready(server):
            assert process.poll() is None, server.told
            assert time.monotonic() < end, server.told
            time.sleep(0.02)
        yield server
    finally:
        process.kill()
        process.wait(10)


def _is_ready(server: Process) -> bool:
    try:
        return httpx.get(server.url + "/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def the_next_request_succeeds(server: Process) -> None:
    assert httpx.get(server.url + "/health", timeout=1).status_code == 200
    answer = httpx.post(server.url + CHAT, json={"messages": HI}, timeout=10)
    assert answer.json()["choices"][0]["message"]["content"] == "hi"


# --- the end ------------------------------------------------------------------------------------------------------


class Stream:
    """A streamed answer as it comes."""

    def __init__(self, port: int, text: str) -> None:
        self._port = port
        self._text = text
        self.begun = asyncio.Event()
        self.received = b""

    async def read(self) -> None:
        data = json.dumps({"messages": [{"role": "user", "content": self._text}], "stream": True}).encode()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(head.encode() + data)
        while piece := await reader.read(65536):
            self.received += piece
            if b'"content":"x"' in self.received:
                self.begun.set()
        self.begun.set()
        writer.close()

    @property
    def ends(self) -> tuple[int, int, int]:
        """How many good ends, errors and [DONE] it had."""
        marks = (b'"finish_reason":"stop"', b'data: {"error"', b"data: [DONE]")
        good, failed, done = (self.received.count(mark) for mark in marks)
        return good, failed, done


async def stopped_with_open_streams(server: Process, tokens: int) -> tuple[list[Stream], float]:
    """Sends SIGTERM once all streams have begun; the streams, and the seconds until the process had ended."""
    streams = [Stream(server.port, "x" * tokens) for _ in range(STREAMS)]
    readers = [asyncio.create_task(stream.read()) for stream in streams]
    for stream in streams:
        await stream.begun.wait()
    assert not any(reader.done() for reader in readers)
    began = server.signal(signal.SIGTERM)
    await asyncio.gather(*readers)
    await asyncio.to_thread(server.process.wait, 60)
    return streams, time.monotonic() - began


def test_sigterm_without_grace_ends_100_streams_in_words(tmp_path: Path) -> None:
    with started(tmp_path, "infer_backend=scripted", "--shutdown-timeout", "0") as server:
        streams, seconds = asyncio.run(stopped_with_open_streams(server, 1900))
        assert {stream.ends for stream in streams} == {(0, 1, 1)}
        assert all(b"the server is stopping" in stream.received for stream in streams)
        assert seconds < 4
        assert server.process.returncode == 0


def test_sigterm_with_grace_lets_100_streams_end(tmp_path: Path) -> None:
    grace = 30
    with started(tmp_path, "infer_backend=scripted", "--shutdown-timeout", str(grace)) as server:
        streams, seconds = asyncio.run(stopped_with_open_streams(server, 500))
        assert {stream.ends for stream in streams} == {(1, 0, 1)}
        assert seconds < grace + 10
        assert server.process.returncode == 0


def test_sigterm_twice_ends_at_once(tmp_path: Path) -> None:
    async def run(server: Process) -> Stream:
        stream = Stream(server.port, "x" * 1900)
        reader = asyncio.create_task(stream.read())
        more = [asyncio.create_task(Stream(server.port, "x" * 1900).read()) for _ in range(50)]
        await stream.begun.wait()
        server.signal(signal.SIGTERM)
        while _listens(server.port):
            await asyncio.sleep(0.01)
        server.signal(signal.SIGTERM)
        await asyncio.gather(reader, *more, return_exceptions=True)
        return stream

    with started(tmp_path, "infer_backend=scripted", "--shutdown-timeout", "60") as server:
        began = time.monotonic()
        assert asyncio.run(run(server)).ends == (0, 1, 1)
        assert server.process.wait(10) == 0
        assert time.monotonic() - began < 10


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _has_loaded(process: subprocess.Popen[bytes], library: str) -> bool:
    return library in Path(f"/proc/{process.pid}/maps").read_text()


# Some way into the imports, whose errors torch takes for a missing numpy; the libraries come in this order.
@pytest.mark.parametrize("after", ["", "_multiarray_umath", "libtorch_cpu", "libtorch_python", "safetensors"])
def test_sigterm_while_the_model_loads_ends_it(tmp_path: Path, after: str) -> None:
    port = free_port()
    command = [sys.executable, "-m", "engineroom", "api", "--port", str(port)]
    with (tmp_path / "log").open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=ENVIRONMENT)
    try:
        end = time.monotonic() + 30
        while not _listens(port):
            assert time.monotonic() < end
            time.sleep(0.01)
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/ready").json() == {"status": "loading"}
        while not _has_loaded(process, after):
            assert time.monotonic() < end
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) != 0
    finally:
        process.kill()
        process.wait(10)
    assert "Traceback" not in (tmp_path / "log").read_text()


# --- the start ----------------------------------------------------------------------------------------------------


def failed_start(*words: str) -> tuple[int, str]:
    """Exit code and last words, within ten seconds."""
    done = subprocess.run(
        [sys.executable, "-m", "engineroom", "api", *words],
        capture_output=True,
        text=True,
        timeout=10,
        env=ENVIRONMENT,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))  # other tests' helpers
    (tmp_path / "bad.pem").write_text("no certificate")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"architectures": [')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for words, told in (
            (("infer_backend=scripted", "--port", port), "can't listen on"),
            (("--ssl-certfile", str(tmp_path / "bad.pem"), "--port", "0"), "certificate"),
            (("--ssl-certfile", str(tmp_path / "none.pem"), "--port", "0"), "certificate"),
            (("--host", "0.0.0.0", "--port", "0"), "without an API key"),
            (("--host", "0.0.0.0", "--port", "0", "--api-key", ""), "api_key"),
            ((f"model_name_or_path={tmp_path / 'broken'}", "--port", "0"), "config.json"),
            (("--host", "192.0.2.1", "--api-key", "k", "--port", "0"), "can't listen on"),
            (("infer_backend=nonsense", "--port", "0"), "infer_backend"),
            (("model_name_or_path=/no/such/model", "--port", "0"), "/no/such/model"),
            (("--port", "-1"), "port"),
            (("--config", str(tmp_path / "none.yaml")), "none.yaml"),
        ):
            code, error = failed_start(*words)
            assert code != 0, words
            assert told in error, (words, error)
            assert "Traceback" not in error
            assert len(error.splitlines()) < 12, error
    assert set(psutil.Process().children(recursive=True)) <= before


# --- the machine --------------------------------------------------------------------------------------------------


def test_a_full_disk_under_the_log_stops_nobody(tmp_path: Path) -> None:
    for form in ("text", "json"):
        words = ("--log-format", form, "--log-requests", *["--json"] * (form == "json"))
        with started(tmp_path, "infer_backend=scripted", *words, log=Path("/dev/full")) as server:
            for _ in range(20):
                the_next_request_succeeds(server)
            server.signal(signal.SIGTERM)
            assert server.process.wait(10) == 0


def test_a_log_that_nobody_reads_any_more_stops_nobody(tmp_path: Path) -> None:
    """``engineroom api 2>&1 | head``: the pipe is closed at its other end."""
    port = free_port()
    command = [sys.executable, "-m", "engineroom", "api", "infer_backend=scripted", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT)
    try:
        assert process.stdout is not None
        assert b" answers at " in process.stdout.readline()
        process.stdout.close()
        server = Process(process, port, tmp_path)
        for _ in range(20):
            the_next_request_succeeds(server)
        server.signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait(10)


def test_no_more_descriptors_for_a_while_is_survived(tmp_path: Path) -> None:
    """Connections take all that the process may have; when they are gone it serves as before."""
    with started(tmp_path, "infer_backend=scripted") as server:
        used = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_NOFILE, (used + 20, used + 20))
        crowd = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
        time.sleep(0)
        for connection in crowd:
            connection.close()
        end = time.monotonic() + 10
        while not _is_ready(server):
            assert time.monotonic() < end
        the_next_request_succeeds(server)
