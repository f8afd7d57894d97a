"""What may go wrong inside, and what clients then see. Each drill ends alike: health answers, and the next valid request succeeds.

The drills' names, and where each is:

- "client leaves": ``test_who_leaves_gives_all_his_places_back``, and ``test_server_network``.
- "engine thread raises": ``test_an_engine_that_raises_is_heard_of``,
  ``test_a_cancellation_that_comes_out_of_the_engine_is_told_as_a_failure``.
- "failure in mid-stream": ``test_a_failure_in_mid_stream_is_one_error_and_one_end``.
- "preprocessing blocks": ``test_while_a_long_prompt_is_read_others_are_served``,
  ``test_while_a_prompt_is_read_the_server_can_stop_and_say_so``.
- "engine process dies", "makes no progress": ``test_a_dead_engine_fails_all…``, ``test_an_engine_that_stands_still…``; of
  processes in ``tests/unit/engines/test_hosted_served.py``, of vLLM's in ``tests/e2e/test_real_drills.py``.
- "engine slow but healthy", "overload": ``test_1280_at_once…``, ``test_of_1280_at_once…``.
- "poison request": ``test_a_poison_request_fails_alone_and_changes_nobody``.
- "1,000 mixed": ``test_after_1000_mixed_requests_all_is_as_before``.
- "slow reader, buffering proxy": ``test_a_client_that_does_not_read_is_left_and_holds_nobody`` (network),
  ``test_somebody_who_waits_for_a_slow_stream…``.
- "NaN logits", "structured output that never ends", "out of memory on one request", "host SIGKILLed":
  ``tests/e2e/test_real_drills.py``.
- "SIGTERM", "start fails", and what the machine does: ``tests/e2e/test_drills.py``.
"""

import asyncio
import gc
import json
import os
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_server_attacks import COMPLETIONS, the_next_request_succeeds
from test_server_network import chat_bytes, raw, wait_for

from engineroom import ChatModel, ScriptedEngine
from engineroom.bridge import Bridge
from engineroom.engines import registry
from engineroom.engines.scripted import Reply
from engineroom.errors import EngineDeadError
from engineroom.server import routes
from engineroom.types import Prompt, SamplingParams
from serving import CHAT, HI, Served, error_of, read_events, served, text_of

pytestmark = pytest.mark.timed

AT_ONCE = 1.0


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def post(
    server: Served, body: dict[str, Any], leave_after: int | None = None
) -> tuple[int, str, bytes]:
    """Status, head and body of an answer on a connection of its own; left after so many bytes of it."""
    data = json.dumps(body).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(head.encode() + data)
        received = await (reader.read() if leave_after is None else reader.read(leave_after))
    finally:
        writer.close()
    answer_head, _, answer = received.partition(b"\r\n\r\n")
    return int(answer_head.split(b" ", 2)[1]), answer_head.decode().lower(), answer


# --- an engine that fails -----------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[[Prompt, SamplingParams], str]:
    """Fails the first request, and answers the others."""
    left = [error]

    def script(prompt: Prompt, params: SamplingParams) -> str:
        if left:
            raise left.pop()
        return "next"

    return script


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize(
    "error", [ValueError("/root/secret"), MemoryError(), KeyError("secret"), RecursionError(), TimeoutError()]
)
def test_an_engine_that_raises_is_heard_of(error: Exception, path: str, stream: bool) -> None:
    with served(raising(error)) as server:
        began = time.monotonic()
        answer = server.post(path, json={**ASKED[path], "stream": stream})
        assert time.monotonic() - began < 2
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == ("api_error" if path == "/v1/messages" else "server_error")
        assert "secret" not in answer.text
        the_next_request_succeeds(server)


ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HI},
    COMPLETIONS: {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 20},
}
"""Every route that generates."""


class Cancelling(ScriptedEngine):
    """Some engines' libraries cancel what they gave up."""

    def _fail(self, reply: Reply) -> None:
        raise asyncio.CancelledError


@pytest.mark.parametrize("text", ["", "Hello"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ASKED)
def test_a_cancellation_that_comes_out_of_the_engine_is_told_as_a_failure(
    path: str, stream: bool, text: str
) -> None:
    engine = Cancelling([Reply(text, error=RuntimeError()), "next"])
    bridge = Bridge()
    with ChatModel(engine=engine, bridge=bridge) as model:
        server = Served(model, bridge, {})
        answer = server.post(path, json={**ASKED[path], "stream": stream}, timeout=2)
        assert answer.status_code == (200 if stream and text else 500)
        assert "the engine abandoned this request" in answer.text
        assert answer.text.count("[DONE]") == (stream and bool(text) and path in (CHAT, COMPLETIONS))
        the_next_request_succeeds(server)
        server.close()
    bridge.close()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_failure_in_mid_stream_is_one_error_and_one_end(path: str, n: int) -> None:
    replies = [Reply("Hello", error=RuntimeError("/root/secret")), *["Hello"] * (n - 1), "next"]
    with served(replies) as server:
        body = {"messages": HI} if path == CHAT else {"prompt": "hi"}
        more = {"stream": True, "n": n, "stream_options": {"include_usage": True}}
        answer = server.post(path, json={**body, **more})
        assert answer.status_code == 200
        assert answer.text.count("[DONE]") == 1
        *pieces, last = read_events(answer.text)
        assert set(last) == {"error"}
        assert not any("error" in piece for piece in pieces)
        reasons = {c["finish_reason"] for p in pieces for c in p["choices"] if c["index"] == 0}
        assert reasons == {None}
        assert not any(piece.get("usage") for piece in pieces)
        assert "secret" not in answer.text
        wait_for(lambda: not server.model.load.running)
        the_next_request_succeeds(server)


def restartable(scripts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each engine that is made gets the next script."""
    monkeypatch.setattr(registry, "make", lambda arguments: ScriptedEngine(scripts.pop(0)))


def test_a_dead_engine_fails_all_is_not_ready_and_can_be_restarted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits = Reply("neighbour", pause_at=3)
    scripts = [[waits, Reply("last words", die=True), "never"], ["next"]]
    restartable(scripts, monkeypatch)
    bridge = Bridge()
    with ChatModel({"max_concurrent": 2}, bridge=bridge) as model:
        server = Served(model, bridge, {})
        results: list[httpx.Response] = []

        def ask() -> None:
            results.append(server.post(CHAT, json={"messages": HI}))

        neighbour = threading.Thread(target=ask)
        neighbour.start()
        assert waits.paused.wait(10)
        began = time.monotonic()
        first = server.post(CHAT, json={"messages": HI, "stream": True})
        assert read_events(first.text)[-1]["error"]["code"] == "engine_dead"
        waits.resume.set()
        neighbour.join()
        after = server.post(CHAT, json={"messages": HI, "stream": True})
        assert time.monotonic() - began < 2
        for answer in (*results, after):
            assert (answer.status_code, error_of(answer)["code"]) == (503, "engine_dead")
            assert answer.headers["retry-after"]
        assert server.get("/health").status_code == 200
        ready = server.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "dead")
        assert "engineroom_ready 0.0" in server.get("/metrics").text
        assert sum("the scripted engine died" in (r.exc_text or str(r.exc_info)) for r in caplog.records) == 1
        model.restart()
        assert server.get("/ready").json() == {"status": "ready"}
        the_next_request_succeeds(server)
        server.close()
    bridge.close()


def test_an_engine_that_stands_still_is_not_ready_until_it_goes_on() -> None:
    limit = 0.3
    waits = Reply("Hello", pause_at=2)
    with served([waits, "next"], stall_timeout=limit) as server:
        assert server.get("/ready").json() == {"status": "ready"}
        connection = raw(server, chat_bytes(stream=True))
        assert waits.paused.wait(10)
        began = time.monotonic()
        wait_for(lambda: server.get("/ready").status_code == 503, limit + 1)
        assert time.monotonic() - began < limit + 1
        assert server.get("/ready").json() == {"status": "stalled"}
        waits.resume.set()
        wait_for(lambda: server.get("/ready").status_code == 200, 2)
        connection.close()
        the_next_request_succeeds(server)
        assert server.model.load.still == 0


# --- neighbours ---------------------------------------------------------------------------------------------------


def test_a_poison_request_fails_alone_and_changes_nobody() -> None:
    def script(prompt: Prompt, params: SamplingParams) -> str | Reply:
        if "poison" in prompt.text:
            return Reply("some words", error=RuntimeError("poison"))
        return prompt.text[::-1]

    def without_names(answer: bytes) -> list[Any]:
        text = answer.decode()
        events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
        return [json.loads(event)["choices"] for event in events]

    async def run(server: Served, *, poisoned: bool) -> list[tuple[int, str, bytes]]:
        asked = [post(server, {"messages": said(f"neighbour {i}"), "stream": True}) for i in range(16)]
        if poisoned:
            asked += [post(server, {"messages": said("poison"), "stream": True}) for _ in range(4)]
        return list(await asyncio.gather(*asked))[:16]

    with served(script) as server:
        alone = asyncio.run(run(server, poisoned=False))
        beside = asyncio.run(run(server, poisoned=True))
        assert {status for status, *_ in beside} == {200}
        assert [without_names(a) for *_, a in beside] == [without_names(a) for *_, a in alone]


def test_while_a_long_prompt_is_read_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, go_on = threading.Event(), threading.Event()
    with served(["next"], engine={"context_length": 100_000}) as server:
        render = server.model.renderer.render

        def slowly(messages: Any, *args: Any, **kwargs: Any) -> Prompt:
            prompt = render(messages, *args, **kwargs)
            if len(prompt) > 20_000:
                reading.set()
                assert go_on.wait(20)
            return prompt

        monkeypatch.setattr(server.model.renderer, "render", slowly)
        results: list[httpx.Response] = []
        body = {"messages": said("x" * 30_000)}
        thread = threading.Thread(target=lambda: results.append(server.post(CHAT, json=body, timeout=30)))
        thread.start()
        assert reading.wait(10)
        began = time.monotonic()
        the_next_request_succeeds(server)
        assert time.monotonic() - began < AT_ONCE
        go_on.set()
        thread.join()
        assert results[0].status_code == 200


COUNTED: dict[str, dict[str, Any]] = {
    "/tokenize": {"messages": HI},
    "/render": {"messages": HI},
    "/v1/responses/input_tokens": {"input": "hi"},
    "/v1/messages/count_tokens": {"messages": HI},
    CHAT: {"messages": HI, "return_token_ids": True},
}
"""Routes that render themselves."""


@pytest.mark.parametrize("path", COUNTED)
def test_while_a_prompt_is_read_the_server_can_stop_and_say_so(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(*args: Any, **kwargs: Any) -> Prompt:
        reading.set()
        await go_on.wait()
        raise AssertionError("nobody told it to")

    for module in (routes.tokens, routes.responses, routes.messages, routes.chat):
        monkeypatch.setattr(module, "rendered", slowly)
    with served(["next"], shutdown_timeout=0) as server:
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(server.post(path, json=COUNTED[path])))
        thread.start()
        wait_for(reading.is_set)
        the_next_request_succeeds(server)
        began = time.monotonic()
        server.stop()
        thread.join(10)
        assert time.monotonic() - began < 4
        assert (answers[0].status_code, "the server is stopping" in answers[0].text) == (503, True)


def test_somebody_who_waits_for_a_slow_stream_has_its_first_piece_before_its_end() -> None:
    slow = Reply("Hello", pause_at=2)
    with (
        served([slow, "next"]) as server,
        httpx.stream("POST", server.url + CHAT, json={"messages": HI, "stream": True}) as answer,
    ):
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["cache-control"] == "no-cache"
        texts = answer.iter_text()
        first = next(texts)
        while "e" not in text_of([json.loads(e[6:]) for e in first.split("\n\n") if e]):
            first += next(texts)
        assert not slow.resume.is_set()
        slow.resume.set()
        assert text_of(read_events(first + "".join(texts))) == "Hello"
        the_next_request_succeeds(server)


# --- many ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_1280_at_once_those_that_fit_are_served_and_the_others_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit, queue = 8, 56
    holds = threading.Event()
    with served(
        lambda prompt, params: Reply("next", pause_at=0, resume=holds),
        arguments={"max_concurrent": limit, "max_queue": queue},
    ) as server:
        rendered = Counter[str]()
        render = server.model.renderer.render

        def counted(*args: Any, **kwargs: Any) -> Prompt:
            rendered["times"] += 1
            return render(*args, **kwargs)

        monkeypatch.setattr(server.model.renderer, "render", counted)
        most = 0

        async def run() -> list[tuple[int, str, bytes]]:
            nonlocal most
            bodies = [{"messages": HI, "stream": bool(i % 2), "n": 1 + i % 4} for i in range(1280)]
            tasks = [asyncio.create_task(post(server, body)) for body in bodies]
            while sum(task.done() for task in tasks) < 1280 - limit - queue:
                load = server.model.load
                most = max(most, load.waiting + load.running)
                await asyncio.sleep(0.01)
            holds.set()
            return [await task for task in tasks]

        answers = asyncio.run(run())
        served_now = [number for number, (status, *_) in enumerate(answers) if status == 200]
        assert {status for status, *_ in answers} == {200, 429}
        assert all("retry-after: " in head for status, head, _ in answers if status == 429)
        assert most <= limit + queue
        assert limit + queue - 4 < sum(1 + number % 4 for number in served_now)
        assert rendered["times"] == len(served_now)
        assert all(b"next" in answers[n][2] or b"[DONE]" in answers[n][2] for n in served_now)
        the_next_request_succeeds(server)


@pytest.mark.slow
def test_1280_at_once_on_an_engine_that_is_slow_but_well() -> None:
    with served(["next"], arguments={"max_concurrent": 4, "max_queue": 2000}) as server:

        async def run() -> Counter[int]:
            answers = await asyncio.gather(*(post(server, {"messages": HI}) for _ in range(1280)))
            return Counter(status for status, *_ in answers)

        assert asyncio.run(run()) == {200: 1280}
        assert server.get("/ready").json() == {"status": "ready"}
        the_next_request_succeeds(server)


@pytest.mark.slow
def test_after_1000_mixed_requests_all_is_as_before() -> None:
    def script(prompt: Prompt, params: SamplingParams) -> str | Reply:
        if "fails" in prompt.text:
            return Reply("some", error=RuntimeError("fails"))
        return Reply("next" if "hi" in prompt.text else "x" * 400)

    def state(server: Served) -> tuple[int, int, int]:
        gc.collect()
        tasks = asyncio.run_coroutine_threadsafe(count_tasks(), server.bridge._loop).result(10)  # pyright: ignore[reportPrivateUsage]
        return tasks, threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    async def count_tasks() -> int:
        return len(asyncio.all_tasks())

    async def one(server: Served, number: int) -> None:
        stream = bool(number % 2)
        match number % 5:
            case 0 | 1:
                await post(server, {"messages": said("hi"), "stream": stream})
            case 2:
                await post(server, {"messages": said("long"), "stream": True}, leave_after=300)
            case 3:
                await post(server, {"messages": said("fails"), "stream": stream})
            case _:
                await post(server, {"messages": said("hi"), "n": -1, "stream": stream})

    async def run(server: Served, count: int) -> None:
        for start in range(0, count, 50):
            await asyncio.gather(*(one(server, start + i) for i in range(50)))

    def settled(server: Served) -> bool:
        return not (server.service.tickets.live or server.model.load.running or server.model.load.waiting)

    with served(script) as server:
        asyncio.run(run(server, 200))
        wait_for(lambda: settled(server))
        the_next_request_succeeds(server)
        wait_for(lambda: settled(server))
        before, memory = state(server), resident()
        asyncio.run(run(server, 1000))
        wait_for(lambda: settled(server))
        wait_for(lambda: state(server) == before)
        assert resident() - memory < 16
        assert server.engine.cancelled > 0
        the_next_request_succeeds(server)


def resident() -> float:
    """MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "n"), [(CHAT, 3), (COMPLETIONS, 1), (COMPLETIONS, 3)])
def test_who_leaves_gives_all_his_places_back(path: str, n: int, stream: bool) -> None:
    slow = Reply("Hello there", pause_at=3)
    with served([slow, slow, slow, "next"], arguments={"max_concurrent": n, "max_queue": 0}) as server:
        body = {"messages": HI} if path == CHAT else {"prompt": "hi"}
        data = json.dumps({**body, "n": n, "stream": stream}).encode()
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        connection = raw(server, head % (path.encode(), len(data)) + data)
        wait_for(lambda: server.model.load.running == n)
        assert slow.paused.wait(10)
        began = time.monotonic()
        connection.close()
        wait_for(lambda: not server.model.load.running and server.engine.cancelled == n)
        assert time.monotonic() - began < AT_ONCE
        assert len(server.engine.requests) == n


def test_a_dead_engine_is_told_apart_from_a_failed_request() -> None:
    with served([Reply("x", die=True)]) as server:
        with pytest.raises(EngineDeadError):
            server.model.chat("hi")
        assert server.get("/ready").json() == {"status": "dead"}
        assert server.get("/health").json() == {"status": "ok"}
