"""Detokenising with a real byte-level tokenizer: the pieces joined are the whole, whatever the ids."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engineroom import demo
from engineroom.parse import AnswerParser, Detokenizer
from engineroom.render import TransformersTokenizer, load_tokenizer
from engineroom.types import Chunk

EMOJI = ["👩‍👩‍👧‍👦", "👋🏽", "🇩🇪", "❤️‍🔥", "é", "e\u0301", "日本", "नमस्ते", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", " ", "\n", "a", "\ufffd"]


@pytest.fixture(scope="module")
def tokenizer() -> TransformersTokenizer:
    return load_tokenizer(str(demo.resolve("demo")))


def pieces(tokenizer: TransformersTokenizer, ids: list[int], *, skip: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
    return [*(detokenizer.push(i) for i in ids), detokenizer.flush()]


@given(text=st.lists(st.sampled_from(EMOJI) | st.text(max_size=4), max_size=12).map("".join))
def test_any_text_comes_out_as_it_went_in(tokenizer: TransformersTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    parts = pieces(tokenizer, ids, skip=False)
    assert "".join(parts) == tokenizer.decode(ids, skip_special_tokens=False) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts)  # no half of a character is ever given out


@settings(max_examples=300)
@given(ids=st.lists(st.integers(0, 1023), max_size=60), skip=st.booleans())
@example(ids=[130] * 40, skip=True)
@example(ids=[1017, 1015] * 20 + [100], skip=True)
def test_any_ids_join_to_their_decoding(tokenizer: TransformersTokenizer, ids: list[int], skip: bool) -> None:
    assert "".join(pieces(tokenizer, ids, skip=skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


@given(
    text=st.text("abcé👋 ", max_size=25),
    stops=st.lists(st.text("abcé👋 ", min_size=1, max_size=4), min_size=1, max_size=3),
    size=st.integers(1, 4),
)
def test_a_stop_string_never_leaks_whatever_the_tokens_and_the_chunks(
    tokenizer: TransformersTokenizer, text: str, stops: list[str], size: int
) -> None:
    ids = tokenizer.encode(text)
    parser = AnswerParser(tokenizer, stop=stops)
    seen = ""
    for start in range(0, len(ids), size):
        end = "length" if start + size >= len(ids) else None
        for delta in parser.push(Chunk(tuple(ids[start : start + size]), end)):
            seen += delta.text
        ends = [text.find(stop) for stop in stops if stop in text]
        assert text.startswith(seen)
        assert not any(stop in seen for stop in stops)
        if ends:
            assert len(seen) <= max(ends)
        if parser.finished:
            break
    if not any(stop in text for stop in stops):
        assert seen == text
    elif ids:
        assert parser.finish_reason == "stop"
