"""The wire between two processes: whatever comes, it is a message or a ProtocolError; values come out as they went in."""

import asyncio
import inspect
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineroom import errors
from engineroom.config import parse_arguments
from engineroom.engines.hosted import HostedEngine, codec, wire
from engineroom.engines.hosted.calls import CALLS, FACTS
from engineroom.engines.hosted.wire import MAX_MESSAGE, Connection, Decoder, ProtocolError, encode
from engineroom.engines.registry import EngineSpec
from engineroom.errors import EngineError, EngineroomError
from engineroom.host.server import Server
from engineroom.params import ResponseFormat
from engineroom.types import Chunk, ImagePart, Prompt, SamplingParams, TokenLogprob

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
text = st.text(st.characters(codec=None))  # lone surrogates too
ids = st.integers(0, 2**31 - 1)
entries = st.builds(
    TokenLogprob,
    ids,
    st.floats(allow_nan=False),
    st.lists(st.tuples(ids, st.floats(allow_nan=False))).map(tuple),
)
chunks = st.builds(
    Chunk,
    st.lists(ids).map(tuple),
    st.sampled_from([None, "stop", "length", "abort"]),
    st.none() | st.lists(entries).map(tuple),
    st.none() | st.lists(st.none() | entries).map(tuple),
    st.integers(0, 64),
    st.integers(0, 10**6),
)
prompts = st.builds(Prompt, st.lists(ids).map(tuple), text, inside_thinking=st.booleans())
params = st.builds(
    SamplingParams,
    temperature=st.floats(0, 100),
    top_k=st.integers(-1, 1000),
    logit_bias=st.dictionaries(ids, st.floats(-100, 100)),
    seed=st.none() | st.integers(0, 2**63 - 1),
    stop=st.lists(text.filter(bool), max_size=4).map(tuple),
    stop_token_ids=st.lists(ids).map(tuple),
    logprobs=st.none() | st.integers(0, 50),
    adapter=st.none() | text.filter(bool),
    response_format=st.none() | st.builds(ResponseFormat, st.just("regex"), text),
    timeout=st.none() | st.floats(0.001, 1000),
)


# --- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.lists(anything, max_size=5), st.data())
def test_messages_come_out_whole_however_they_are_cut(messages: list[Any], data: st.DataObject) -> None:
    stream = b"".join(map(encode, messages))
    decoder, received = Decoder(), list[Any]()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        received += decoder.feed(stream[:size])
        stream = stream[size:]
    assert repr(received) == repr(json.loads(json.dumps(messages)))  # by repr: NaN is not equal to itself


@given(st.lists(st.binary()))
def test_any_bytes_are_messages_or_refused(portions: list[bytes]) -> None:
    decoder = Decoder()
    try:
        for portion in portions:
            decoder.feed(portion)
    except ProtocolError:
        pass
    else:
        assert len(decoder._buffer) <= sum(map(len, portions))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"", "not JSON"),
        (b"9" * 5000, "not JSON"),
    ],
)
def test_a_body_that_is_no_json(body: bytes, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        Decoder().feed(len(body).to_bytes(4, "big") + body)


def test_lengths_have_a_limit_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProtocolError, match="claims"):
        Decoder().feed((MAX_MESSAGE + 1).to_bytes(4, "big"))
    monkeypatch.setattr(wire, "MAX_MESSAGE", 10)
    with pytest.raises(ProtocolError, match="has 12 bytes, and may have 10"):
        encode("x" * 10)


class Recorded(asyncio.WriteTransport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: Any) -> None:
        self.writes.append(data)


async def test_what_is_sent_at_once_leaves_in_one_write_and_waits_while_nobody_reads() -> None:
    connection, transport = Connection(lambda _: None, lambda _: None), Recorded()
    connection.connection_made(transport)
    for number in range(100):
        connection.send(number)
    assert transport.writes == []
    await asyncio.sleep(0)
    assert [Decoder().feed(written) for written in transport.writes] == [list(range(100))]
    connection.pause_writing()
    connection.send("later")
    await asyncio.sleep(0)
    assert len(transport.writes) == 1
    connection.resume_writing()
    assert Decoder().feed(transport.writes[1]) == ["later"]


# --- values -----------------------------------------------------------------------------------------------------------


def over(kind: codec.Codec[Any], value: Any) -> Any:
    (arrived,) = Decoder().feed(encode(kind.encode(value)))
    return kind.decode(arrived)


@given(chunks, prompts, params)
def test_values_come_out_as_they_went_in(chunk: Chunk, prompt: Prompt, given: SamplingParams) -> None:
    assert over(codec.CHUNK, chunk) == chunk
    assert over(codec.PROMPT, prompt) == prompt
    assert over(codec.PARAMS, given) == given


def test_numbers_that_are_none_come_over_too() -> None:
    assert math.isnan(over(codec.NUMBER, math.nan))
    assert over(codec.NUMBER, -math.inf) == -math.inf


def test_media_are_refused_and_not_dropped() -> None:
    with pytest.raises(errors.MessageError, match="images"):
        codec.PROMPT.encode(Prompt((1,), media=(ImagePart("cat.png"),)))


def tree(cls: type[EngineroomError] = EngineroomError) -> Iterator[type[EngineroomError]]:
    yield cls
    for sub in cls.__subclasses__():
        if sub.__module__ == errors.__name__:
            yield from tree(sub)


@pytest.mark.parametrize("cls", tuple(tree()), ids=lambda cls: cls.__name__)
def test_every_error_comes_out_as_it_went_in(cls: type[EngineroomError]) -> None:
    """With all that its constructor takes: a new attribute has to be named in the codec."""
    samples = {"str": "words", "int": 3, "float": 2.5, "Iterable[str]": ("a", "b"), "int | None": 4}
    named = {p.name: samples[p.annotation] for p in inspect.signature(cls).parameters.values()}
    error = cls(**named)
    arrived = over(codec.ERROR, error)
    assert type(arrived) is cls
    assert (vars(arrived), str(arrived)) == (vars(error), str(error))


def test_strangers_become_engine_errors() -> None:
    class OurOwn(errors.GenerationError):
        """Another package's: its nearest ancestor here stands in for it."""

    assert type(over(codec.ERROR, OurOwn("x"))) is errors.GenerationError
    assert type(codec.ERROR.decode(["NoSuchError", "x", "", "", {}, None])) is EngineError
    assert type(codec.ERROR.decode(["nearest", "x", "", "", {}, None])) is EngineError
    stranger = codec.ERROR.decode(codec.encode_error(KeyError("k")))
    assert (type(stranger), stranger.why) == (EngineError, "KeyError: 'k'")
    assert str(stranger.__cause__) == "KeyError: 'k'"


_CODECS = [
    *(value for value in vars(codec).values() if isinstance(value, codec.Codec)),
    *FACTS.values(),
    *(call.result for call in CALLS.values()),
]


@given(anything)
def test_any_json_is_a_value_or_refused(value: Any) -> None:
    for kind in _CODECS:
        try:
            kind.decode(value)
        except ProtocolError:
            continue


_words = st.sampled_from(
    [
        "call",
        "answer",
        "more",
        "cancel",
        "done",
        "error",
        "chunk",
        "progress",
        "facts",
        *CALLS,
        *FACTS,
        "state",
    ]
)
_almost = st.lists(_words | st.integers(-1, 3) | anything | st.dictionaries(_words, anything), max_size=5)


@given(_almost | anything)
def test_any_message_is_taken_or_refused_by_both_sides(message: Any) -> None:
    async def take() -> None:
        server = Server()
        server.connection = Connection(lambda _: None, lambda _: None)
        engine = HostedEngine(EngineSpec("scripted", "x:X"), Path("python"), parse_arguments({}))
        for side in (server.take, engine._take):
            try:
                side(message)
            except ProtocolError:
                continue
        await asyncio.gather(*server._tasks.values(), return_exceptions=True)

    asyncio.run(take())
