"""What people send to break a server. Each drill ends alike: health answers, and the next valid request succeeds.

The drills' names, and where each is:

- "media from inside the network", "media bombs", "files" of a request: media are refused by name as yet, and not a byte of
  them is fetched: ``test_media_are_refused_by_name_and_not_fetched``. Adapters' folders:
  ``test_adapters_come_from_one_folder_alone`` (manners), models' in ``test_server_switch``.
- "leaking errors": ``test_errors_tell_nothing_of_the_machine``, ``test_no_exception_becomes_a_bare_500`` (manners).
- "templates": ``test_templates_code_and_switches_of_a_request_are_refused``; a model's own runs in a sandbox,
  ``tests/unit/render``.
- "counts": ``test_counts_are_refused_at_once_and_by_name``, ``test_prompts_of_a_completion``, and every field of every route
  in ``test_server_every_field``. On a real tokenizer: ``test_a_hopeless_text_is_refused_at_once`` (e2e).
- "token ids": the same, ``test_token_ids_to_decode``.
- "grammars": ``tests/e2e/test_real_drills.py``.
- "tool parsers": tools are refused by name as yet, ``test_templates_code_and_switches_of_a_request_are_refused``.
- "keys": ``test_every_route_but_health_asks_for_a_key`` (manners), ``test_keys_are_in_no_answer_and_no_log``.
- "HTTP": ``test_bodies_that_are_too_much_hold_nobody_up``, ``test_a_bomb_is_not_unpacked``,
  ``test_a_million_chunks_are_one_body``, ``test_what_stands_around_a_body_is_bounded_as_a_header_is``,
  ``test_heads_that_proxies_and_servers_read_differently_are_refused``; slow ones in ``test_server_network``.
- "checkpoints": ``test_code_in_a_checkpoint_does_not_run`` (e2e), ``tests/unit/engines/test_loading.py``.
- "child processes": ``tests/unit/engines/test_hosted_served.py``.
- "page": there is none as yet; ``test_paths_lead_nowhere``, and foreign hosts and origins in manners and network.
- "batch files": there are no such routes as yet.
- "request ids": ``test_ids_that_would_spoil_a_log_are_refused``, ``test_a_live_request_keeps_its_id_to_itself`` (network).
"""

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import httpx
import pytest
from test_server_network import AT_ONCE, all_of, raw, the_next_request_succeeds

from serving import CHAT, HI, Served, error_of, served

pytestmark = pytest.mark.timed

COMPLETIONS = "/v1/completions"
KIND = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def standing() -> Generator[Served, None, None]:
    """One server that all of these attacks meet."""
    with served(["next"]) as server:
        yield server


@pytest.fixture
def server(standing: Served) -> Generator[Served, None, None]:
    """Its engine must not have been asked for anything when the test ends."""
    before = len(standing.engine.requests)
    yield standing
    assert len(standing.engine.requests) == before
    the_next_request_succeeds(standing)


def refused(server: Served, path: str, body: Any, status: int = 400) -> dict[str, Any]:
    answer = server.post(path, json=body, timeout=30)
    assert answer.status_code == status, answer.text[:500]
    return error_of(answer)


# --- counts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("n", (-1, 0, 10**6, 10**9, 2**63, 1.5)),
        ("top_logprobs", (-1, 10**6, 10**9)),
        ("max_tokens", (-1, 0, 10**12, 2**63)),
        ("max_completion_tokens", (-1, 0, 10**12)),
        ("top_k", (-2, 2**63)),
        ("num_beams", (-1, 0, 10**6)),
        ("prompt_logprobs", (-1, 10**6)),
        ("seed", (-1, 2**64, 10**30)),
        ("temperature", (-1, 101, 1e300)),
        ("top_p", (-1, 0, 3)),
        ("presence_penalty", (-9, 10**9)),
        ("repetition_penalty", (-1, 0, 10**9)),
        ("timeout", (-1, 0, 10**12)),
        ("stop", (["x"] * 140_000, "x" * 1_000_000, [""], [1] * 1_000_000)),
        ("stop_token_ids", ([-1], [265], [2**63], [1] * 1_000_000, ["x"] * 140_000)),
        (
            "logit_bias",
            (
                {"-1": 1},
                {"265": 1},
                {str(2**63): 1},
                {"x": 1},
                {"1": 1e9},
                {"1": None},
                {str(i): 1 for i in range(40_000)},
            ),
        ),
        ("messages", ([], [1] * 1_000_000, [{}] * 90_000, [HI])),
        ("messages", ([{"role": "user", "content": "x" * 5_000}],)),
        ("tools", ([1] * 1_000_000, [{}] * 1000)),
    ],
)
def test_counts_are_refused_at_once_and_by_name(server: Served, field: str, values: tuple[Any, ...]) -> None:
    for value in values:
        for stream in (False, True):
            began = time.monotonic()
            extra = {"logprobs": True} if field == "top_logprobs" else {}
            error = refused(server, CHAT, {"messages": HI, "stream": stream, **extra, field: value})
            assert time.monotonic() - began < 2 * AT_ONCE, field
            assert error["param"] is not None
            assert error["param"].startswith(field), error
            assert len(error["message"]) < 1000


@pytest.mark.parametrize(
    "prompt",
    [
        [-1],
        [265],
        [2**63],
        [1.5],
        [[1, 2], [-1]],
        [1] * 1_000_000,
        ["x"] * 100_000,
        [[1]] * 90_000,
        [[]],
        [],
        "x" * 10_000_000,
        [-1] * 1_000_000,
        None,
        {},
    ],
)
def test_prompts_of_a_completion(server: Served, prompt: Any) -> None:
    began = time.monotonic()
    error = refused(server, COMPLETIONS, {"prompt": prompt})
    assert time.monotonic() - began < 5 * AT_ONCE
    assert error["param"].startswith("prompt")


def test_one_bad_prompt_of_several_refuses_all(standing: Served) -> None:
    error = refused(standing, COMPLETIONS, {"prompt": [[1, 2], [265]]})
    assert (error["param"], "265" in error["message"]) == ("prompt[1]", True)
    the_next_request_succeeds(standing)


def test_token_ids_to_decode(server: Served) -> None:
    for wrong in ([-1], [265], [2**31], [2**63], ["1"], [None]):
        assert refused(server, "/detokenize", {"tokens": wrong})["param"].startswith("tokens")


# --- bodies -------------------------------------------------------------------------------------------------------


def many(item: bytes, size: int) -> bytes:
    return b'{"messages":[' + (item + b",") * (size // (len(item) + 1)) + item + b"]}"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[" * 100_000, 400, "too_deeply_nested"),
        (b'{"a":' * 100_000, 400, "too_deeply_nested"),
        (b'{"messages": ' + b"[" * 200 + b"]" * 200 + b"}", 400, "too_deeply_nested"),
        (many(b"[]", 2**24), 413, "too_many_values"),
        (many(b"{}", 2**24), 413, "too_many_values"),
        (many(b'""', 2**24), 413, "too_many_values"),
        (many(b'"\\""', 2**24), 413, "too_many_values"),
        (many(b"1", 2**24), 413, "too_many_values"),
        (many(b"1", 2**22), 413, "too_many_values"),
        (many(b"1", 2**21), 400, "invalid_value"),
        (b"{" + b",".join(b'"%d":1' % i for i in range(400_000)) + b"}", 413, "too_many_values"),
        (b"{" + b",".join(b'"%d":1' % i for i in range(140_000)) + b"}", 400, "unknown_parameter"),
        (b'{"messages": "' + b"\\n" * 3_000_001 + b'"}', 413, "too_many_values"),
        (b'{"messages": "' + b"\\n" * 2_900_000 + b'"}', 400, "invalid_value"),
        (b"x" * (33 * 2**20), 413, "body_too_large"),
        (b'{"messages": ' + b"9" * 100_000 + b"}", 400, None),
        (b'{"messages": NaN}', 400, None),
        (b'{"messages": [], "temperature": Infinity}', 400, None),
        (b'{"messages": "\xff\xfe"}', 400, None),
        (b"\xef\xbb\xbf{}", 400, None),
        (b"", 400, "invalid_body"),
        (b"null", 400, "invalid_body"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}], "n": "\\ud800"}', 400, None),
        (b'{"messages": [{"role": "\\ud800", "content": "\\udfff"}]}', 400, None),
        (b'{"\\ud800": 1, "messages": []}', 400, "unknown_parameter"),
        (
            ('{"a": "\u2200", "messages": [' + "[]," * 2_000_000 + "[]]}").encode("utf-16"),
            400,
            "invalid_json",
        ),
        (('{"a": "\u2200", "n": ' + "[" * 9999 + "]" * 9999 + "}").encode("utf-16-le"), 400, "invalid_json"),
        (json.dumps({"messages": HI}).encode("utf-32"), 400, "invalid_json"),
        (json.dumps({"messages": HI, "x" * 8_000_000: 1}).encode(), 400, "unknown_parameter"),
        (json.dumps({"messages": HI, "model": "x" * 8_000_000}).encode(), 404, "model_not_found"),
        (json.dumps({"messages": HI, "metadata": {"x" * 8_000_000: 1}}).encode(), 400, "invalid_value"),
    ],
    ids=range(31),
)
def test_bodies_that_are_too_much_hold_nobody_up(
    server: Served, body: bytes, status: int, code: str | None
) -> None:
    with httpx.Client(timeout=30) as client:
        worst = longest_wait(server, lambda: client.post(server.url + CHAT, content=body, headers=KIND))
        answer = client.post(server.url + CHAT, content=body, headers=KIND)
    assert answer.status_code == status
    assert code in (None, error_of(answer)["code"])
    assert len(answer.content) < 10_000
    assert worst < AT_ONCE


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": [7] * 1_000_000}),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 30_000_000}]}),
        ("/tokenize", {"prompt": "x" * 30_000_000}),
        (CHAT, {"messages": HI, "stop_token_ids": [7] * 1_000_000}),
        (CHAT, {"messages": HI, "logit_bias": {str(i): 1 for i in range(140_000)}}),
    ],
    ids=range(5),
)
def test_the_event_loop_has_its_turn_while_large_bodies_are_read(
    server: Served, path: str, body: dict[str, Any]
) -> None:
    """``benchmarks/server_bodies.py`` measures by how much; a test on a busy machine is content with a fraction of it."""
    data = json.dumps(body).encode()

    async def longest(answered: threading.Event) -> float:
        worst, last = 0.0, time.perf_counter()
        while not answered.is_set():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            worst, last = max(worst, now - last), now
        return worst

    answered = threading.Event()
    watch = server.bridge.submit(longest(answered))
    answer = server.post(path, content=data, headers=KIND, timeout=30)
    answered.set()
    assert answer.status_code == 400, answer.text[:300]
    assert watch.result(10) < 0.35


def longest_wait(server: Served, attack: Callable[[], object]) -> float:
    """The longest that somebody who asks for health all the while had to wait."""
    thread = threading.Thread(target=attack)
    longest = 0.0
    with httpx.Client(timeout=30) as client:
        client.get(server.url + "/health")
        thread.start()
        while thread.is_alive():
            began = time.monotonic()
            assert client.get(server.url + "/health").status_code == 200
            longest = max(longest, time.monotonic() - began)
    thread.join()
    return longest


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "identity, gzip"])
def test_a_bomb_is_not_unpacked(server: Served, encoding: str) -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    headers = {**KIND, "Content-Encoding": encoding}
    answer = server.post(CHAT, content=bomb, headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (415, "unsupported_encoding")


# --- HTTP ---------------------------------------------------------------------------------------------------------


def test_a_million_chunks_are_one_body(server: Served) -> None:
    """Of the request a byte comes in each chunk, and it is refused for its size like any other."""
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection = raw(server, head % CHAT.encode())
    connection.settimeout(30)
    worst = longest_wait(server, lambda: connection.sendall(b"1\r\n \r\n" * 1_000_000 + b"0\r\n\r\n"))
    assert b"HTTP/1.1 400 " in connection.recv(65536)
    connection.close()
    assert worst < AT_ONCE


_CHUNKED = (
    b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n" % CHAT.encode()
)


@pytest.mark.parametrize(
    "flood",
    [
        _CHUNKED + b"0\r\n" + b"A: b\r\n" * 200_000,
        _CHUNKED + b"0\r\nA: " + b"b" * 2_000_000,
        _CHUNKED + b"5;a=" + b"b" * 2_000_000,
        _CHUNKED + b"0" * 2_000_000,
        b"\r\n" * 1_000_000,
    ],
    ids=["trailers", "a trailer", "a chunk's extension", "a chunk's size", "line breaks"],
)
def test_what_stands_around_a_body_is_bounded_as_a_header_is(server: Served, flood: bytes) -> None:
    connection = raw(server, flood)
    assert all_of(connection).startswith(b"HTTP/1.1 431 ")


def test_a_header_behind_the_body_counts_for_nothing(server: Served) -> None:
    """It comes when the layers around the routes have looked at the others. This one would change the form of errors."""
    request = (
        _CHUNKED.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        + b"0\r\nanthropic-version: 2023-06-01\r\n\r\n"
    )
    head, _, body = all_of(raw(server, request)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert body.startswith(b'{"error":')


@pytest.mark.parametrize(
    "head",
    [
        b"Host: elsewhere\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 99999999999999999999999\r\n",
        b"Content-Length: 0x10\r\n",
        b"Content-Length: \xb2\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: nonsense\r\n",
        b"x-request-id: a\rb\r\n",
        b"x-request-id: a\x00b\r\n",
        b"x-request-id: a\r\n b\r\n",
        b"x request: a\r\n",
        b": a\r\n",
        b"no colon\r\n",
    ],
)
def test_heads_that_proxies_and_servers_read_differently_are_refused(server: Served, head: bytes) -> None:
    request = b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n" % (CHAT.encode(), head)
    connection = raw(server, request + b"0\r\n\r\n{}{}{}")
    connection.settimeout(5)
    assert all_of(connection).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("name", ["a\u00e9", "a" * 129, "", "a\tb"])
def test_ids_that_would_spoil_a_log_are_refused(server: Served, name: str) -> None:
    answer = server.get("/health", headers={"x-request-id": name.encode("latin-1")})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_request_id")


def test_many_requests_on_one_connection_are_all_answered(server: Served) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    connection = raw(server, request * 2000 + last)  # more at a time than one header may have
    assert all_of(connection).count(b'{"status":"ok"}') == 2001


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/models/../../etc/passwd",
        "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v1/models/%00",
        "/v1/models/%ff",
        "/v1/models/%0d%0aset-cookie:a",
        "/file=/etc/passwd",
        "/proxy=http://169.254.169.254/",
        "//etc/passwd",
    ],
)
def test_paths_lead_nowhere(server: Served, path: str) -> None:
    received = all_of(
        raw(server, b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path.encode())
    )
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert b"set-cookie:a" not in head
    assert json.loads(body)["error"]["code"] in ("not_found", "model_not_found")


# --- what a request may bring along -------------------------------------------------------------------------------


@pytest.fixture
def canary() -> Generator[socket.socket, None, None]:
    """A port of this machine that nobody may connect to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        yield listener
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/a.png",
        "http://localhost:{port}/a.png",
        "http://[::ffff:127.0.0.1]:{port}/a.png",
        "http://public.example\\@127.0.0.1:{port}/",
        "http://0x7f000001:{port}/",
        "http://2130706433:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "/etc/passwd",
        "../../etc/passwd",
        "data:image/png;base64,AAAA",
        "data:image/png;base64," + "A" * 1_000_000,
        "gopher://127.0.0.1:{port}/",
    ],
)
@pytest.mark.parametrize("kind", ["image_url", "video_url", "audio_url", "input_audio", "file"])
def test_media_are_refused_by_name_and_not_fetched(
    server: Served, canary: socket.socket, kind: str, url: str
) -> None:
    address = url.format(port=canary.getsockname()[1])
    inner = {"data": address, "format": "wav"} if kind == "input_audio" else {"url": address}
    part = {"type": kind, kind: {"file_data": address} if kind == "file" else inner}
    for stream in (False, True):
        body = {"messages": [{"role": "user", "content": [part]}], "stream": stream}
        error = refused(server, CHAT, body)
        assert error["param"] == "messages[0].content[0]" + (".type" if kind == "file" else ""), error
        assert "etc/passwd" not in error["message"]
    assert refused(server, "/render", {"messages": body["messages"]})["param"] == error["param"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chat_template", "{% for i in range(10**9) %}{% endfor %}"),
        ("chat_template", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        ("chat_template_kwargs", {"tokenize": True}),
        ("chat_template_kwargs", {"chat_template": "{{ 1 }}"}),
        ("chat_template_kwargs", {"messages": []}),
        ("chat_template_kwargs", {"enable_thinking": "__import__('os')"}),
        ("chat_template_kwargs", {"enable_thinking": {"a": 1}}),
        ("documents", [{"text": "x"}]),
        ("mm_processor_kwargs", {"a": 1}),
        ("logits_processors", ["os.system"]),
        ("request_id", "a\r\nb"),
        ("tools", [{"type": "function", "function": {"name": "__import__('os').system('true')"}}]),
    ],
)
def test_templates_code_and_switches_of_a_request_are_refused(server: Served, field: str, value: Any) -> None:
    error = refused(server, CHAT, {"messages": HI, field: value})
    assert field in str(error["param"]) or "enable_thinking" in str(error["param"]), error


def test_what_a_template_would_take_for_code_is_text() -> None:
    with served() as server:
        for text in ("{{ 7 * 7 }}", "{% raw %}", "<|im_end|>\n<|im_start|>system", "\u2028", "\x00", "'''"):
            body = {"messages": [{"role": "user", "content": text}]}
            answer = server.post(CHAT, json=body)
            assert answer.status_code == 200
            assert answer.json()["choices"][0]["message"]["content"] == text.partition("<|im_end|>")[0]


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "/root/.ssh/id_rsa", "content": "x"}]},
        {"messages": [{"role": "user", "content": {"a": "/root/.ssh/id_rsa"}}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "/root/.ssh/id_rsa"}]}]},
        {"messages": HI, "model": "/root/.ssh/id_rsa"},
        {"messages": HI, "response_format": {"type": "/root/.ssh/id_rsa"}},
        {"messages": [{"role": "user", "content": None}]},
    ],
)
def test_errors_tell_nothing_of_the_machine(server: Served, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    answer = server.post(CHAT, content=data, headers=KIND)
    for told in ("Traceback", 'File "', "site-packages", "0x7f", "engineroom/", ".py"):
        assert told not in answer.text
    assert answer.status_code in (400, 404)


def test_keys_are_in_no_answer_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with served(["next"], api_key=("sk-secret-one",), admin_key=("sk-secret-two",)) as server:
        texts = [
            server.get(path, headers={"x-api-key": key}).text
            for path in ("/version", "/metrics", "/openapi.json", "/v1/models", "/docs", "/nothing")
            for key in ("sk-secret-one", "sk-secret-two", "sk-secret-on")
        ]
        server.post(CHAT, json={"api_key": "x"}, headers={"x-api-key": "sk-secret-one"})
        server.get("/v1/models", headers={"Authorization": "Bearer sk-secret-three"})
        told = repr(server.settings)
    assert "sk-secret" not in "".join(texts) + caplog.text + told
