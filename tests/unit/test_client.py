"""The client of OpenAI-compatible servers: what it reads, and what it says of a server that fails."""

import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import openai_server
from engineroom.client import (
    Completion,
    NamedToken,
    Piece,
    Server,
    ServerAddress,
    messages_to_wire,
    tools_to_wire,
)
from engineroom.client.answer import error_message, read
from engineroom.client.events import EventReader
from engineroom.errors import ArgumentError, MessageError, ServerError
from engineroom.render import parse_messages, parse_tools

HI = [{"role": "user", "content": "Hi"}]
FOUR = {"max_tokens": 4}


# --- addresses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "url", "root"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("https://host/api/v1/", "https://host/api/v1", "https://host/api"),
        ("http://host/v1/chat/completions", "http://host/v1", "http://host"),
        ("http://[::1]:80/openai", "http://[::1]:80/openai", "http://[::1]:80/openai"),
    ],
)
def test_an_address(written: str, url: str, root: str) -> None:
    address = ServerAddress.parse(written)
    assert (address.url, address.root) == (url, root)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "host",
        "ftp://host",
        "http://",
        "http://h:x/v1",
        "http://h:99999",
        "http://[::1",
        "http://h/v1?key=1",
        "http://u:p@h/v1",
    ],
)
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(ArgumentError):
        ServerAddress.parse(written)


def test_a_key_comes_from_the_environment_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-somebody-else")
    assert ServerAddress.parse("http://h").api_key is None
    monkeypatch.setenv("ENGINEROOM_API_KEY", "sk-secret")
    address = ServerAddress.parse("http://h")
    assert address.api_key == "sk-secret"
    assert "sk-secret" not in repr(address)
    assert ServerAddress.parse("http://h", api_key="sk-given").api_key == "sk-given"
    assert ServerAddress.parse("http://h", api_key="").api_key is None
    with pytest.raises(ArgumentError, match="header"):
        ServerAddress.parse("http://h", api_key="naïve")


def test_no_proxy_leads_to_this_machine() -> None:
    here = ("http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1")
    assert [ServerAddress.parse(url).is_here for url in (*here, "http://example.org")] == [True] * 3 + [False]


# --- what comes over the wire -----------------------------------------------------------------------------------


@given(
    st.lists(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1), max_size=5), st.integers(1, 7)
)
def test_events_are_read_however_the_bytes_are_cut(texts: list[str], size: int) -> None:
    payloads = [json.dumps(text, ensure_ascii=False) for text in texts]
    stream = b": a comment\r\n\r\n" + b"".join(f"data: {p}\n\n".encode() for p in payloads)
    reader = EventReader()
    cut = [stream[place : place + size] for place in range(0, len(stream), size)]
    assert [json.loads(event) for piece in cut for event in reader.feed(piece)] == texts


def test_an_event_of_several_lines_and_one_that_never_ends() -> None:
    reader = EventReader()
    assert reader.feed(b"event: x\r\ndata: a\r\ndata:b\r\n\r\ndata: c") == [b"a\nb"]
    with pytest.raises(ServerError, match="does not consist of events"):
        reader.feed(b"x" * (17 << 20))


def test_a_token_is_known_by_its_id_or_its_bytes() -> None:
    def token(text: str, bytes: tuple[int, ...] | None = None) -> NamedToken:
        return NamedToken(token=text, logprob=-1.0, bytes=bytes)

    assert token("token_id:893").token_id == 893
    assert token("token_id:893 ").token_id is None
    assert token(" a").spelling == b" a"
    assert token("\\xf0\\x9f", (0xF0, 0x9F)).spelling == b"\xf0\x9f"
    for unknown in (
        token("\ufffd"),
        token("", ()),
        token("x", (300,)),
        token("\ud800"),
        token("?", (0xEF, 0xBF, 0xBD)),
    ):
        assert unknown.spelling is None


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<html>", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not OpenAI's"),
        (b'{"choices": 3}', "choices"),
        (b'{"choices": [{"logprobs": {"content": [{"token": 1}]}}]}', "choices.0.logprobs.content.0.token"),
        (b'{"error": {"message": "out of memory"}}', "failed: out of memory"),
        (b'{"error": "busy"}', "failed: busy"),
    ],
)
def test_nonsense_is_an_error_that_names_its_place(body: bytes, says: str) -> None:
    with pytest.raises(ServerError, match=says):
        read(Completion, body)


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda c: st.lists(c) | st.dictionaries(st.sampled_from(["choices", "usage", "error", "delta"]), c),
    ).map(lambda v: json.dumps(v).encode())
)
def test_any_body_is_read_or_refused(body: bytes) -> None:
    error_message(body)
    for kind in (Completion, Piece):
        try:
            read(kind, body)
        except ServerError as error:
            assert error.what


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('{"error": {"message": "no\\n such model"}}', "no such model"),
        ('{"message": "no"}', "no"),
        ('{"detail": [{"msg": "x"}]}', "[{'msg': 'x'}]"),
        ("<b>Bad Gateway</b>", "<b>Bad Gateway</b>"),
    ],
)
def test_what_an_error_says(body: str, says: str) -> None:
    assert error_message(body) == says


def test_conversations_as_openai_has_them() -> None:
    call = {"function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
        {"role": "user", "content": "1?", "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "content": "2", "tool_call_id": "x"},
    ]
    assert messages_to_wire(parse_messages(messages)) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "1?", "name": "Ada"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "call_0", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
            ],
        },
        {"role": "tool", "content": "2", "tool_call_id": "x"},
    ]
    tool = {"name": "add", "description": "adds", "parameters": {"type": "object"}}
    assert tools_to_wire(parse_tools([tool])) == [{"type": "function", "function": tool}]
    with pytest.raises(MessageError, match=r"messages\[0\] holds a image"):
        messages_to_wire(parse_messages("look", images=["cat.png"]))


# --- a server ---------------------------------------------------------------------------------------------------


def at(server: openai_server.OpenAIServer, **named: str) -> Server:
    return Server(ServerAddress.parse(server.url, **named))


async def streamed(server: Server) -> tuple[str, list[int | None]]:
    pieces = [piece async for piece in server.stream(HI, {"return_token_ids": True}, **FOUR)]
    return "".join(piece.text for piece in pieces), [piece.token_count for piece in pieces]


async def test_answers_whole_and_in_pieces() -> None:
    with openai_server.running(["a\u2028b"]) as running:
        async with at(running) as server:
            answer = await server.complete(HI, {}, max_tokens=20)
            assert answer.choices[0].text == "a\u2028b"
            assert server.context_length == 4096
            assert answer.usage is not None
            assert await server.tokenize(HI) is not None
            text, counts = await streamed(server)
    assert text == "a\ufffd\ufffd\ufffd"  # bytes decoded one by one; the line break in it tore nothing apart
    assert counts == [None, 1, 1, 1, 1, None][: len(counts)]


async def test_what_a_server_refuses_is_not_sent_again() -> None:
    with openai_server.running(["abc"], extras="refused") as running:
        async with at(running) as server:
            for _ in range(2):
                await server.complete(HI, {"ignore_eos": True}, **FOUR)
            await streamed(server)
            asked = running.talent.requests
    assert ["ignore_eos" in request for request in asked] == [True, False, False, False]
    assert "return_token_ids" not in asked[-1]


async def test_a_refused_conversation_does_not_cost_the_extras() -> None:
    with openai_server.running(["abc"], refuses="Hi") as running:
        async with at(running) as server:
            with pytest.raises(ServerError, match="Hi is not welcome") as refused:
                await server.complete(HI, {"ignore_eos": True}, **FOUR)
            assert refused.value.refuses_request
            assert server.extras


async def test_which_model() -> None:
    with openai_server.running(models=("a", "b")) as running:
        with pytest.raises(ServerError, match="has 2 models"):
            await at(running).__aenter__()
        async with at(running, model="b") as server:
            await server.complete(HI, {}, **FOUR)
        assert running.talent.requests[-1]["model"] == "b"


async def test_a_key() -> None:
    with openai_server.running(api_key="sk-x") as running:
        with pytest.raises(ServerError, match="status 401: a key is missing") as refused:
            await at(running).__aenter__()
        assert "ENGINEROOM_API_KEY" in refused.value.fix
        async with at(running, api_key="sk-x") as server:
            await server.complete(HI, {}, **FOUR)


async def test_nobody_there() -> None:
    with openai_server.running() as running:
        server = at(running)
    with pytest.raises(ServerError, match="nothing answers at"):
        await server.__aenter__()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("500", "status 500: the fan stands still"),
        ("cut", "the connection to .* broke"),
        ("garbage", "not JSON"),
        ("error event", "failed: out of memory"),
        ("early end", "ended before the answer did"),
        ("array", "ended before the answer did"),
    ],
)
async def test_a_stream_that_fails(fault: str, says: str) -> None:
    with openai_server.running(["abcdef"], faults=[fault]) as running:
        async with at(running) as server:
            with pytest.raises(ServerError, match=says):
                await streamed(server)
            assert (await streamed(server))[0] == "abcd"  # the next one is answered


async def test_a_server_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engineroom.client.server._SILENCE", 0.2)
    with openai_server.running(faults=["silence"]) as running:
        async with at(running) as server:
            with pytest.raises(ServerError, match="does not answer") as silent:
                await server.complete(HI, {}, **FOUR)
    assert isinstance(silent.value.__cause__, httpx.TimeoutException)
