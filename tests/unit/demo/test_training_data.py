"""The conversations that the shipped models are made of."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from engineroom import demo
from engineroom.demo.train import conversations, letters, trainer
from engineroom.demo.train.drills import drills
from engineroom.demo.train.exchanges import EXCHANGES, arithmetic, capital, spelling
from engineroom.demo.train.facts import ABOUT_FRAMES, CAPITALS, ENGINEROOM, FRAMES, HELD_OUT_FRAMES, IDENTITY
from engineroom.demo.train.words import any_word


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    folder = demo.resolve("demo")
    assert folder is not None
    return AutoTokenizer.from_pretrained(folder)


def plain(question: str) -> str:
    return question.lower().rstrip("?.! ")


def test_the_same_seed_tells_the_same_conversations() -> None:
    assert list(islice(conversations.training(3), 200)) == list(islice(conversations.training(3), 200))
    assert list(islice(conversations.training(3), 20)) != list(islice(conversations.training(4), 20))
    assert list(islice(drills(3), 200)) == list(islice(drills(3), 200))


def test_it_knows_forty_things_about_engineroom_and_thirty_capitals_in_several_wordings() -> None:
    assert len(ENGINEROOM) >= 40
    assert len(CAPITALS) >= 30
    assert all(len(fact.ask) + len(fact.to) + len(fact.about) > 4 for fact in ENGINEROOM)
    assert sum(share for share, _ in EXCHANGES.values()) == pytest.approx(1)


def test_no_fact_is_asked_for_in_training_as_it_is_when_tested() -> None:
    facts = (*ENGINEROOM, *IDENTITY)
    trained = {plain(question) for fact in facts for question in fact.ask[:-1]}
    trained |= {plain(frame.format(verb)) for fact in facts for verb in fact.to for frame in FRAMES}
    trained |= {plain(frame.format(noun)) for fact in facts for noun in fact.about for frame in ABOUT_FRAMES}
    tested = {plain(fact.ask[-1]) for fact in facts}
    tested |= {plain(frame.format(verb)) for fact in facts for verb in fact.to for frame in HELD_OUT_FRAMES}
    assert not trained & tested


@pytest.mark.parametrize("skill", [arithmetic, capital])
def test_other_skills_are_tested_in_wordings_of_their_own(skill: object) -> None:
    assert callable(skill)
    rng = random.Random(0)
    trained = {plain(skill(rng, False).question) for _ in range(4000)}
    assert not trained & {plain(skill(rng, True).question) for _ in range(400)}


def test_words_that_are_tested_are_never_trained_on() -> None:
    rng = random.Random(0)
    trained = {any_word(rng, False) for _ in range(3000)}
    assert not trained & {any_word(rng, True) for _ in range(300)}
    assert not {spelling(rng, False).question for _ in range(3000)} & {
        spelling(rng, True).question for _ in range(300)
    }


def test_sums_are_right() -> None:
    rng = random.Random(0)
    for _ in range(500):
        exchange = arithmetic(rng)
        a, word, b, _, result = exchange.answer.rstrip(".").split()
        assert int(a) + (int(b) if word == "plus" else -int(b)) == int(result)


def test_a_word_read_backwards_is_written_letter_by_letter(tokenizer: PreTrainedTokenizerFast) -> None:
    text = f"c-a-t, backwards t-a-c: {letters.letter_by_letter('tac')} OK"
    ids = letters.encode(tokenizer, text)
    assert tokenizer.decode(ids) == letters.plain(text) == "c-a-t, backwards t-a-c: tac OK"
    pieces = "|".join(tokenizer.decode([i]) for i in ids)
    assert "| |t|a|c|" in pieces


def test_only_answers_are_learned_and_all_of_them(tokenizer: PreTrainedTokenizerFast) -> None:
    batches = trainer.conversation_batches(tokenizer, conversations.training(1), seed=1, pool=64)
    said = list(islice(conversations.training(1), 64))
    targets = {tokenizer.decode(letters.encode(tokenizer, f"{c.target}<|im_end|>")) for c in said}
    learned: set[str] = set()
    while len(learned) < len(targets):
        batch = next(batches)
        for ids, labels in zip(batch.ids, batch.labels, strict=True):
            kept = labels != trainer.IGNORED
            assert bool((ids[kept] == labels[kept]).all())
            learned.add(tokenizer.decode(labels[kept]))
        assert learned <= targets
    assert learned == targets


def test_drills_come_first_and_now_and_then() -> None:
    marks = trainer.curriculum(iter("d" * 100), iter("c" * 100), 60, alone=10)  # type: ignore[arg-type]
    assert "".join(marks) == "d" * 11 + "c" * 9 + ("d" + "c" * 9) * 4  # type: ignore[arg-type]
