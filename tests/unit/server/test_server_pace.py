"""A server that is behind sends a stream's pieces together: later by milliseconds, and none is lost or out of turn."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from engineroom.engines.scripted import Reply
from engineroom.server import lifecycle, pace
from engineroom.server.pace import HELD, Pace
from engineroom.server.sse import EventStream
from engineroom.server.tickets import Ticket, Tickets
from serving import CHAT, HI, Served, read_events, served, text_of


def test_a_server_is_behind_while_sending_takes_a_good_part_of_its_time() -> None:
    found: list[bool] = []
    measured = Pace()
    for share in (0.1, 0.1, 0.3, 0.1, 0.1, 0.02, 0.1):
        for piece in range(100):  # of half a millisecond each, in turn
            now = 10.0 + len(found) * 0.05 + piece * 5e-4
            measured.sent(now, now + 5e-4 * share)
        found.append(measured.behind)
    assert found == [False, False, True, True, True, False, False]


def test_a_client_that_keeps_its_piece_waiting_does_not_put_the_server_behind() -> None:
    measured = Pace()
    for second in range(10):
        measured.sent(second, second + 0.9)
    assert not measured.behind


class Holding:
    """A stream that holds something until then."""

    def __init__(self, due: float) -> None:
        self.due = due
        self.flushed = 0

    async def flush(self) -> None:
        self.flushed += 1


def test_what_is_held_is_sent_when_it_is_due_unless_its_stream_did_so() -> None:
    async def run() -> None:
        paced, now = Pace(), asyncio.get_running_loop().time()
        late, later, own = Holding(now), Holding(now + 3 * HELD), Holding(now)
        for stream in (late, later, own):
            paced.hold(stream)
        paced.release(own)
        await asyncio.sleep(2 * HELD)
        assert (late.flushed, later.flushed, own.flushed) == (1, 0, 0)
        while not later.flushed:
            await asyncio.sleep(HELD)
        await asyncio.sleep(3 * HELD)
        assert (late.flushed, later.flushed, own.flushed) == (1, 1, 0)

    asyncio.run(run())


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every server is behind, for ever."""
    monkeypatch.setattr(Pace, "sent", lambda self, began, ended: setattr(self, "behind", True))


def pieces_of(server: Served, body: dict[str, Any], path: str = CHAT) -> tuple[int, bytes]:
    """How many pieces of HTTP an answer came in, and all of it."""
    with httpx.stream("POST", server.url + path, json={**body, "stream": True}) as answer:
        pieces = list(answer.iter_raw())
    return len(pieces), b"".join(pieces)


@pytest.mark.usefixtures("behind")
def test_events_leave_together_and_in_turn() -> None:
    text = "".join(chr(97 + i % 26) for i in range(300))
    with served([text]) as server:
        count, whole = pieces_of(server, {"messages": HI})
        assert text_of(read_events(whole.decode())) == text
        assert whole.count(b"\n\n") > 300
        assert count < 100
        assert whole.endswith(b"data: [DONE]\n\n")


@pytest.mark.usefixtures("behind")
def test_what_is_held_when_the_engine_pauses_is_sent_soon() -> None:
    slow = Reply("Hello you", pause_at=5)
    with (
        served([slow]) as server,
        httpx.stream("POST", server.url + CHAT, json={"messages": HI, "stream": True}) as answer,
    ):
        seen = ""
        for piece in answer.iter_text():
            seen += piece
            if '"o"' in seen:
                slow.resume.set()
    assert text_of(read_events(seen)) == "Hello you"


@pytest.mark.usefixtures("behind")
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/messages", "/v1/responses"])
def test_what_was_held_comes_before_the_error_that_ends_the_stream(path: str) -> None:
    bodies = {"/v1/completions": {"prompt": "hi"}, "/v1/responses": {"input": "hi"}}
    body = bodies.get(path, {"messages": HI, "max_tokens": 99})
    with served([Reply("abcdef", error=RuntimeError("broken")), "next"]) as server:
        _, whole = pieces_of(server, body, path)
        told = whole.decode()
        failed = "response.failed" if path == "/v1/responses" else '"error"'
        assert told.index('"f"') < told.index(failed)
        assert server.post(CHAT, json={"messages": HI}).status_code == 200


@pytest.mark.usefixtures("behind")
def test_a_client_that_leaves_what_is_held_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "HELD", 0.001)
    monkeypatch.setattr(lifecycle, "_WATCH_EVERY", 0.05)
    slow = Reply("Hello you", pause_at=5)
    with served([slow, "next"]) as server:
        with httpx.stream("POST", server.url + CHAT, json={"messages": HI, "stream": True}) as answer:
            pieces = answer.iter_raw()  # kept: without it, httpx lets go of the connection
            next(pieces)
            assert slow.paused.wait(10)  # the rest is held
        for _ in range(1000):
            if not server.service.tickets.live:
                break
            asyncio.run(asyncio.sleep(0.005))
        assert not server.service.tickets.live
        assert server.engine.cancelled == 1
        assert server.post(CHAT, json={"messages": HI}).json()["choices"][0]["message"]["content"] == "next"


@pytest.mark.usefixtures("behind")
def test_what_is_held_while_a_client_takes_its_time_waits_for_what_went_before() -> None:
    failed: list[dict[str, Any]] = []

    async def run() -> list[bytes]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.append(context))
        sent: list[bytes] = []
        reads = asyncio.Event()
        reads.set()

        async def send(message: Any) -> None:
            await reads.wait()
            sent.append(message.get("body", b""))

        async def events() -> AsyncGenerator[bytes, None]:
            while data := await made.get():
                yield data

        async def come(data: bytes) -> None:
            await made.put(data)
            await asyncio.sleep(0)

        made: asyncio.Queue[bytes] = asyncio.Queue()
        stream = EventStream(events(), Ticket("1", "POST", CHAT, send, Tickets()))
        serving = asyncio.create_task(stream({}, asyncio.Event().wait, send))
        await come(b"a")
        await asyncio.sleep(HELD / 5)
        reads.clear()
        await come(b"b")
        first = stream.due
        while stream.due == first:  # until it is flushed, and not taken
            await asyncio.sleep(HELD / 25)
        await come(b"c")
        await asyncio.sleep(2 * HELD)
        await come(b"d")
        await asyncio.sleep(2 * HELD)
        assert sent == [b"", b"a"]
        reads.set()
        await come(b"")
        await asyncio.wait_for(serving, 5)
        return sent

    assert b"".join(asyncio.run(run())) == b"abcd"
    assert failed == []
