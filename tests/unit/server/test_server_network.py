"""Where the network is the point: clients that leave, that don't read, that send nonsense; and the server's end."""

import asyncio
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from engineroom import ScriptedEngine
from engineroom.engines.scripted import Reply
from engineroom.errors import ArgumentError, ParameterError
from engineroom.server import lifecycle
from engineroom.server.lifecycle import RunningServer
from engineroom.server.settings import ServerSettings
from engineroom.types import SamplingParams
from serving import CHAT, HI, Served, error_of, events_of, read_events, served, served_by, text_of

pytestmark = pytest.mark.timed

AT_ONCE = 1.0
"""Seconds that anybody else waits at most, and in which those who left are rid of."""


def the_next_request_succeeds(server: Served) -> None:
    began = time.monotonic()
    assert server.get("/health").json() == {"status": "ok"}
    assert time.monotonic() - began < AT_ONCE
    answer = server.post(CHAT, json={"messages": HI})
    assert answer.json()["choices"][0]["message"]["content"] == "next"


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Polls what happens on other threads."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


def raw(server: Served, data: bytes, *, receive_buffer: int | None = None) -> socket.socket:
    """A connection on which these bytes were sent."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(data)
    return connection


def chat_bytes(**fields: Any) -> bytes:
    body = json.dumps({"messages": HI, **fields}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def all_of(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(65536):
        received += piece
    connection.close()
    return received


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    """What came up to then: head and body of an answer may come apart."""
    received = b""
    while wanted not in received:
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    slow = Reply("Hello there", pause_at=3)
    with served([slow, "next"], arguments={"max_concurrent": 1, "max_queue": 0}) as server:
        connection = raw(server, chat_bytes(stream=stream))
        assert slow.paused.wait(10)
        connection.close()
        wait_for(lambda: server.engine.cancelled == 1, AT_ONCE)
        wait_for(lambda: not server.model.load.running and not server.service.tickets.live, AT_ONCE)
        the_next_request_succeeds(server)
        assert server.service.tickets.totals.left == 1
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_a_client_that_leaves_the_queue_is_never_served() -> None:
    slow = Reply("Hello", pause_at=0)
    with served([slow, "next"], arguments={"max_concurrent": 1}) as server:
        first = raw(server, chat_bytes())
        assert slow.paused.wait(10)
        for stream in (True, False):
            second = raw(server, chat_bytes(stream=stream))
            wait_for(lambda: server.model.load.waiting == 1)
            second.close()
            wait_for(lambda: server.model.load.waiting == 0, AT_ONCE)
        slow.resume.set()
        read_until(first, b"Hello")
        first.close()
        assert len(server.engine.requests) == 1
        the_next_request_succeeds(server)


def test_a_client_that_does_not_read_is_left_and_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_WATCH_EVERY", 0.05)
    with served(["x" * 60_000, "next"], engine={"context_length": 100_000}, write_timeout=0.3) as server:
        connection = raw(server, chat_bytes(stream=True), receive_buffer=4096)
        wait_for(lambda: any(t.sending_since for t in server.service.tickets.live.values()))
        the_next_request_succeeds(server)
        wait_for(lambda: server.engine.cancelled == 1 and not server.service.tickets.live)
        connection.close()
        the_next_request_succeeds(server)


def test_a_silent_stream_is_kept_alive_and_then_fails_in_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_WATCH_EVERY", 0.02)
    monkeypatch.setattr(lifecycle, "_SILENCE", 0.05)
    slow = Reply("Hello", pause_at=0, error=RuntimeError("broken"))
    with (
        served([slow]) as server,
        httpx.stream("POST", server.url + CHAT, json={"messages": HI, "stream": True}) as r,
    ):
        texts = r.iter_text()
        assert next(texts).startswith(": keep-alive\n\n")
        slow.resume.set()
        rest = "".join(texts)
    *pieces, last = read_events(rest)
    assert (r.status_code, text_of(pieces), last["error"]["code"]) == (200, "Hello", "generation_failed")


def test_a_small_piece_does_not_wait_for_the_next() -> None:
    """Nagle's algorithm keeps it until the client has acknowledged the piece before, which it puts off for 40 ms."""
    slow = Reply("Hello", pause_at=0)
    with served([slow]) as server:
        connection = raw(server, chat_bytes(stream=True))
        assert slow.paused.wait(10)
        (ticket,) = server.service.tickets.live.values()
        assert ticket.transport is not None
        accepted = ticket.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        slow.resume.set()
        wait_for(lambda: not server.service.tickets.live)
        connection.close()


class Pondering(ScriptedEngine):
    """It looks for long at what it then refuses, as a compiler of grammars may."""

    async def prepare(self, params: SamplingParams) -> None:
        await asyncio.sleep(0.3)
        raise ParameterError("it is too complex", parameter="response_format")


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"])
def test_what_is_refused_late_has_its_status_still(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(lifecycle, "_WATCH_EVERY", 0.02)
    monkeypatch.setattr(lifecycle, "_SILENCE", 0.05)
    subject = {"/v1/completions": {"prompt": ["a", "b"]}, "/v1/responses": {"input": "hi"}}
    body = {"stream": True, **subject.get(path, {"messages": HI})}
    body |= {"max_tokens": 5} if path == "/v1/messages" else {}
    with served_by(Pondering()) as server:
        answer = server.post(path, json=body)
    assert answer.status_code == 400
    assert "too complex" in answer.json()["error"]["message"]


def test_a_live_request_keeps_its_id_to_itself() -> None:
    slow = Reply("Hello", pause_at=0)
    with served([slow, "next"]) as server:
        results: list[httpx.Response] = []

        def ask() -> None:
            results.append(server.post(CHAT, json={"messages": HI}, headers={"x-request-id": "mine"}))

        thread = threading.Thread(target=ask)
        thread.start()
        assert slow.paused.wait(10)
        second = server.post(CHAT, json={"messages": HI}, headers={"x-request-id": "mine"})
        slow.resume.set()
        thread.join()
        the_next_request_succeeds(server)
    assert (second.status_code, error_of(second)["code"]) == (400, "duplicate_request_id")
    assert results[0].status_code == 200


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "invalid_http"),
        (b"GET /health HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400, "invalid_http"),
        (
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 50_000 + b"\r\n\r\n",
            431,
            "header_too_large",
        ),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 50_000, 431, "header_too_large"),
        (b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 20_000, 431, "header_too_large"),
        (b"GET /" + b"a" * 50_000 + b" HTTP/1.1\r\n\r\n", 431, "header_too_large"),
    ],
)
def test_nonsense_and_too_much_are_refused(data: bytes, status: int, code: str) -> None:
    with served(["next"]) as server:
        head, _, body = all_of(raw(server, data)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert json.loads(body)["error"]["code"] == code
        the_next_request_succeeds(server)


def test_who_does_not_finish_his_request_is_left() -> None:
    with served(["next"], read_timeout=0.1) as server:
        assert all_of(raw(server, b"")) == b""
        half = raw(server, chat_bytes()[:-4])
        assert b"408" in half.recv(65536)
        half.close()
        assert all_of(raw(server, b"GET /health HTTP/1.1\r\nA: ")) == b""
        the_next_request_succeeds(server)


def test_who_drips_his_request_is_left_with_the_same_time_in_all() -> None:
    """Slow loris: each byte comes soon enough, and there is no end of them. A hundred at a time hold nobody up."""
    with served(["next"], read_timeout=0.3) as server:
        heads = [raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: ") for _ in range(50)]
        bodies = [raw(server, chat_bytes()[:-40]) for _ in range(50)]
        began, left = time.monotonic(), [*heads, *bodies]
        while left:
            assert time.monotonic() - began < 5
            left = [connection for connection in left if _takes_a_byte(connection)]
        the_next_request_succeeds(server)


def _takes_a_byte(connection: socket.socket) -> bool:
    """Is the request still waited for?"""
    connection.settimeout(0.01)
    try:
        connection.send(b" ")
        connection.recv(1)
    except TimeoutError:
        return True
    except OSError:
        pass
    connection.close()
    return False


def test_a_body_in_many_pieces_is_counted() -> None:
    def pieces() -> Any:
        yield b'{"messages": ['
        for _ in range(2000):
            yield b" " * 1000

    with served(["next"], max_body=1.0) as server:
        answer = server.post(CHAT, content=pieces(), headers={"Content-Type": "application/json"})
        assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")
        the_next_request_succeeds(server)


def test_when_it_stops_answers_in_progress_end_and_nothing_new_begins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="engineroom.server")
    slow = Reply("Hello there", pause_at=3)
    with served([slow]) as server:
        with httpx.stream("POST", server.url + CHAT, json={"messages": HI, "stream": True}) as response:
            assert slow.paused.wait(10)
            server.stop()
            wait_for(lambda: server.service.tickets.stopping)
            wait_for(lambda: _refused(server.port))
            slow.resume.set()
            assert text_of(read_events(response.read().decode())) == "Hello there"
        (told,) = [record for record in caplog.records if record.getMessage().startswith("stopping")]
        assert vars(told)["requests"] == 1
        server.serving.result(timeout=10)


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("stream", [True, False])
def test_answers_that_dont_end_in_time_are_aborted_in_words(stream: bool) -> None:
    slow = Reply("Hello there", pause_at=3)
    with served([slow], shutdown_timeout=0.05) as server:
        began = time.monotonic()
        connection = raw(server, chat_bytes(stream=stream))
        assert slow.paused.wait(10)
        server.stop()
        received = all_of(connection)
        server.serving.result(timeout=10)
        assert time.monotonic() - began < 4
        assert server.engine.cancelled == 1
    assert b"the server is stopping" in received
    assert received.startswith(b"HTTP/1.1 200" if stream else b"HTTP/1.1 503")
    assert (b"data: [DONE]" in received) == stream


def test_told_twice_it_stops_at_once() -> None:
    slow = Reply("Hello there", pause_at=3)
    with served([slow], shutdown_timeout=60) as server:
        connection = raw(server, chat_bytes(stream=True))
        assert slow.paused.wait(10)
        server.stop()
        server.stop()
        assert b"the server is stopping" in all_of(connection)
        server.serving.result(timeout=10)


def test_many_streams_at_once() -> None:
    with served(["Hello there"]) as server, httpx.Client(base_url=server.url) as client:
        texts: list[str] = []

        def ask() -> None:
            texts.append(text_of(events_of(client.post(CHAT, json={"messages": HI, "stream": True}))))

        threads = [threading.Thread(target=ask) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts == ["Hello there"] * 40
        wait_for(lambda: not server.service.tickets.live)
        assert server.model.load.running == 0


def test_on_a_kept_connection_no_answer_waits_for_an_acknowledgement() -> None:
    """Nagle's algorithm would hold each body back until the client's system acknowledged its head: 40 ms on Linux."""
    with served(["x"]) as server, httpx.Client(base_url=server.url) as client:
        seconds: list[float] = []
        for _ in range(10):
            began = time.monotonic()
            assert client.post(CHAT, json={"messages": HI}).status_code == 200
            seconds.append(time.monotonic() - began)
        assert min(seconds[1:]) < 0.03


def test_a_taken_port_and_a_bad_certificate_are_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    from engineroom.server.app import create_app

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = ServerSettings(port=taken.getsockname()[1])
        with pytest.raises(ArgumentError, match="can't listen on"):
            RunningServer(create_app(None, settings), settings)
    (tmp_path / "bad.pem").write_text("no certificate")
    for certificate in ("bad.pem", "none.pem"):
        settings = ServerSettings(port=0, ssl_certfile=tmp_path / certificate)
        with pytest.raises(ArgumentError, match="the TLS certificate can't be used"):
            RunningServer(create_app(None, settings), settings)
    settings = ServerSettings(host="192.0.2.1", port=0)
    with pytest.raises(ArgumentError, match="address of this machine"):
        RunningServer(create_app(None, settings), settings)
    settings = ServerSettings(port=0, **_encrypted(tmp_path))  # OpenSSL would ask the terminal, and wait
    with pytest.raises(ArgumentError, match="the TLS certificate can't be used"):
        RunningServer(create_app(None, settings), settings)
    settings = ServerSettings(host="no.such.host.invalid", port=0)
    with pytest.raises(ArgumentError, match="is no address of this machine"):
        RunningServer(create_app(None, settings), settings)


def test_tls(tmp_path: Path) -> None:
    certificate, key = _self_signed(tmp_path)
    with served(["Hello"], ssl_certfile=certificate, ssl_keyfile=key) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(verify=context) as client:
            answer = client.post(server.url.replace("127.0.0.1", "localhost") + CHAT, json={"messages": HI})
        assert answer.json()["choices"][0]["message"]["content"] == "Hello"


def test_a_tls_client_that_keeps_its_connection_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_LAST_WORDS", 0.1)
    certificate, key = _self_signed(tmp_path)
    with served(["Hello"], ssl_certfile=certificate, ssl_keyfile=key) as server:
        context = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(verify=context) as client:
            client.get(server.url.replace("127.0.0.1", "localhost") + "/health")
            server.stop()
            server.serving.result(timeout=10)  # asyncio alone waits 30 seconds


def _encrypted(folder: Path) -> dict[str, Any]:
    from cryptography.hazmat.primitives import serialization

    certificate, file = _self_signed(folder)
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    pkcs8 = serialization.PrivateFormat.PKCS8
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, locked))
    return {"ssl_certfile": certificate, "ssl_keyfile": file}


def _self_signed(folder: Path) -> tuple[Path, Path]:
    from datetime import datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime(2026, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today)
        .not_valid_after(today + timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


def test_pages_of_other_origins_may_call_only_if_allowed() -> None:
    preflight = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    with served(["x"]) as server:
        answer = httpx.options(server.url + CHAT, headers=preflight)
        assert "access-control-allow-origin" not in answer.headers
    with served(["x"], cors_origin=("https://page.example",), api_key=("sk",)) as server:
        allowed = httpx.options(server.url + CHAT, headers=preflight)
        other = httpx.options(server.url + CHAT, headers={**preflight, "Origin": "https://other.example"})
        answer = server.post(CHAT, json={"messages": HI}, headers={"Origin": "https://page.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    assert "access-control-allow-origin" not in other.headers
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
