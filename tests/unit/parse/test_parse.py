"""From token ids to text: the pieces joined are the whole, and no stop string leaks."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineroom.engines.scripted import ByteTokenizer
from engineroom.parse import AnswerParser, Detokenizer, ReasoningSplitter, StopStrings
from engineroom.types import Chunk, Usage

TOKENIZER = ByteTokenizer()


def parse(
    ids: Sequence[int], size: int = 1, end: str | None = "length", **options: object
) -> tuple[str, AnswerParser]:
    parser = AnswerParser(TOKENIZER, **options)  # type: ignore[arg-type]
    text = ""
    for start in range(0, len(ids), size):
        last = start + size >= len(ids)
        for delta in parser.push(Chunk(tuple(ids[start : start + size]), end if last else None)):  # type: ignore[arg-type]
            text += delta.text
        if parser.finished:
            break
    return text, parser


@given(st.text(), st.integers(1, 5))
def test_pieces_joined_are_the_whole(text: str, size: int) -> None:
    ids = TOKENIZER.encode(text)
    assert parse(ids, size)[0] == TOKENIZER.decode(ids, skip_special_tokens=True)


def test_an_incomplete_character_is_held_back_and_comes_out_at_the_end() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    first, second = "é".encode()
    assert detokenizer.push(first) == ""
    assert detokenizer.push(second) == "é"
    assert detokenizer.push(first) == ""
    assert detokenizer.flush() == "\ufffd"


def test_special_tokens_are_left_out_or_shown() -> None:
    ids = TOKENIZER.encode("a<|im_start|>b")
    assert parse(ids)[0] == "ab"
    assert parse(ids, skip_special_tokens=False)[0] == "a<|im_start|>b"


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_the_answer_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    seen, parser = parse(TOKENIZER.encode(text), stop=stops)
    ends = [place + len(stop) for stop in stops if (place := text.find(stop)) >= 0]
    if not ends:
        assert seen == text
        return
    assert not any(stop in seen for stop in stops)
    assert text.startswith(seen)
    assert parser.finish_reason == "stop"


def test_the_first_delta_tells_the_prompt_and_the_last_what_stopped() -> None:
    parser = AnswerParser(TOKENIZER, stop=["xx", "END"], prompt_tokens=7)
    chunks = [Chunk((i,), cached_tokens=3) for i in TOKENIZER.encode("one END")]
    first, *deltas = [delta for chunk in chunks for delta in parser.push(chunk)]
    assert first.prompt_usage is not None
    assert (first.prompt_usage, first.prompt_usage.cached_tokens) == (Usage(7, 0), 3)
    assert [delta.prompt_usage for delta in deltas] == [None] * 6
    assert [delta.stop_string for delta in deltas] == [*[None] * 5, "END"]


@given(st.text("xEND", max_size=20))
def test_no_part_of_a_stop_string_leaks_before_it_is_complete(text: str) -> None:
    stops = StopStrings(["END"])
    given_out = seen = ""
    for character in text:
        given_out += stops.push(character)
        seen += character
        if stops.found is None and seen.endswith(("E", "EN")):
            assert len(given_out) <= len(seen) - 1
    given_out += stops.flush()
    assert given_out == text.split("END")[0]


def test_tokens_after_a_stop_string_are_not_counted() -> None:
    seen, _parser = parse(TOKENIZER.encode("abSTOPmore"), size=10, stop=["STOP"])
    assert seen == "ab"
    deltas = AnswerParser(TOKENIZER, stop=["STOP"]).push(Chunk(tuple(b"abSTOPmore"), "length"))
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == 6
    assert deltas[0].token_ids == tuple(b"abSTOP")


def test_an_end_token_counts_but_has_no_text() -> None:
    end = TOKENIZER.eos_token_ids[0]
    deltas = AnswerParser(TOKENIZER, end_ids=[ord("c")]).push(Chunk((*b"ab", ord("c")), "stop"))
    assert "".join(d.text for d in deltas) == "ab"
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == 3
    deltas = AnswerParser(TOKENIZER, end_ids=[end], skip_special_tokens=False).push(Chunk((end,), "stop"))
    assert deltas[0].text == "<|im_end|>"


@pytest.mark.parametrize("inside", [False, True])
@given(text=st.text("<think>/ \n", max_size=30), cuts=st.lists(st.integers(0, 30), max_size=5))
def test_no_character_is_lost_between_thinking_and_answer(inside: bool, text: str, cuts: list[int]) -> None:
    splitter = ReasoningSplitter(("<think>", "</think>"), inside=inside)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [p for a, b in itertools.pairwise(edges) for p in splitter.push(text[a:b])] + splitter.flush()
    assert "".join(piece for _, piece in pieces) == text


def test_thinking_and_answer_are_told_apart() -> None:
    text = "<think>\nhm\n</think>\n\nyes"
    deltas = []
    parser = AnswerParser(TOKENIZER, thinking_tags=("<think>", "</think>"))
    for place, token_id in enumerate(ids := TOKENIZER.encode(text)):
        deltas += parser.push(Chunk((token_id,), "length" if place == len(ids) - 1 else None))
    assert "".join(d.text for d in deltas if d.channel == "reasoning") == "<think>\nhm\n</think>"
    assert "".join(d.text for d in deltas if d.channel == "answer") == "\n\nyes"
