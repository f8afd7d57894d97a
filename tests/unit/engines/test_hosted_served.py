"""An engine's own process under a server, and what the machine may do to it. Drills: "engine process dies", "engine alive but
makes no progress", "child processes"."""

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from test_hosted import make, process_of, python

from engineroom.engines import registry
from serving import CHAT, Served, error_of, read_events, served_by

pytestmark = pytest.mark.timed

assert python  # the fixture


@contextmanager
def served_elsewhere(
    python: Path, monkeypatch: pytest.MonkeyPatch, **settings: float
) -> Generator[Served, None, None]:
    monkeypatch.setattr(registry, "make", lambda arguments: make(python))
    with served_by(None, {}, **settings) as server:
        yield server


class Streams:
    """Answers that have begun and will not end."""

    def __init__(self, server: Served, count: int) -> None:
        self._server = server
        self.texts = [""] * count
        self._begun = [threading.Event() for _ in range(count)]
        self._threads = [threading.Thread(target=self._read, args=(place,)) for place in range(count)]
        for thread in self._threads:
            thread.start()
        for begun in self._begun:
            assert begun.wait(30)

    def _read(self, place: int) -> None:
        body = {"messages": [{"role": "user", "content": "wait"}], "stream": True}
        with httpx.stream("POST", self._server.url + CHAT, json=body, timeout=60) as answer:
            for text in answer.iter_text():
                self.texts[place] += text
                if '"content":"w"' in self.texts[place]:
                    self._begun[place].set()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)


def the_next_request_succeeds(server: Served) -> None:
    assert server.get("/health").status_code == 200
    answer = server.post(CHAT, json={"messages": [{"role": "user", "content": "next"}]})
    assert answer.json()["choices"][0]["message"]["content"] == "next"


def until(condition: Callable[[], object], seconds: float) -> float:
    """The seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)
    return time.monotonic() - began


def state(server: Served) -> str:
    return server.get("/ready").json()["status"]


def test_killed_with_streams_open_all_are_told_and_it_can_be_restarted(
    python: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """kill -9: in-flight requests fail within 2 s, each with one error and one end; one root cause in the log."""
    caplog.set_level(logging.INFO)
    with served_elsewhere(python, monkeypatch) as server:
        streams = Streams(server, 5)
        process = process_of(server.model)
        killed = time.monotonic()
        process.kill()
        streams.join()
        assert state(server) == "dead"
        assert time.monotonic() - killed < 2
        for text in streams.texts:
            *pieces, last = read_events(text)
            assert last["error"]["code"] == "engine_dead"
            assert {choice["finish_reason"] for piece in pieces for choice in piece["choices"]} == {None}
        assert server.get("/health").status_code == 200
        for stream in (False, True):
            after = server.post(CHAT, json={"messages": [{"role": "user", "content": "x"}], "stream": stream})
            assert (after.status_code, error_of(after)["code"]) == (503, "engine_dead")
        causes = {json.dumps(str(r.exc_info[1])) for r in caplog.records if r.exc_info}
        assert len(causes) == 1, causes
        assert "SIGKILL" in causes.pop()
        server.model.restart()
        assert state(server) == "ready"
        the_next_request_succeeds(server)


def test_stopped_it_is_not_ready_and_goes_on_when_it_goes_on(
    python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 0.3
    with served_elsewhere(python, monkeypatch, stall_timeout=limit) as server:
        process = process_of(server.model)
        assert state(server) == "ready"
        process.send_signal(signal.SIGSTOP)
        answers: list[httpx.Response] = []
        body = {"messages": [{"role": "user", "content": "hello"}]}
        thread = threading.Thread(target=lambda: answers.append(server.post(CHAT, json=body, timeout=60)))
        try:
            thread.start()
            until(lambda: server.service.tickets.live, 10)
            assert until(lambda: state(server) == "stalled", limit + 1) < limit + 1
            assert server.get("/health").status_code == 200
        finally:
            process.send_signal(signal.SIGCONT)
        thread.join(30)
        assert answers[0].json()["choices"][0]["message"]["content"] == "hello"
        assert state(server) == "ready"
        the_next_request_succeeds(server)


def test_the_engines_process_listens_on_no_port(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could be sent there, nobody can send: it speaks through a socket that it inherited."""
    with served_elsewhere(python, monkeypatch) as server:
        the_next_request_succeeds(server)
        process = process_of(server.model)
        processes = [process, *process.children(recursive=True)]
        assert [c for p in processes for c in p.net_connections("inet")] == []
