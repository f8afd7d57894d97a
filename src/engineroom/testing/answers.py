"""What an answer is: the reference's tokens, whole or streamed, with the right end, counts and log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engineroom.pipeline import fold
from engineroom.testing.lab import ENDLESS, Lab, Subject
from engineroom.testing.models import CONTEXT, STORY
from engineroom.types import Delta, Response

PROMPTS: Mapping[str, Any] = {
    "one word": "hi",
    "a sentence": STORY,
    "unicode": "ünïcödé 👩‍👩‍👧 日本語 \N{COMBINING ACUTE ACCENT}e",
    "a long text": "What happened on the second day? " * 30,
    "a conversation": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 1 plus 1?"},
        {"role": "assistant", "content": "2."},
        {"role": "user", "content": "And 2 plus 2?"},
    ],
}

ENDINGS: Mapping[str, tuple[dict[str, Any], str]] = {
    "an end token": ({"temperature": 0, "max_new_tokens": 80}, "stop"),
    "the token limit": ({"max_new_tokens": 3, **ENDLESS}, "length"),
    "the first token": ({"max_new_tokens": 1, **ENDLESS}, "length"),
    "a stop string": ({"stop": ["e", "a", "i", "t", "s", " "], "max_new_tokens": 80, **ENDLESS}, "stop"),
}


class AnswerTests:
    """Needs nothing of an engine but greedy answers."""

    @pytest.mark.parametrize("prompt", PROMPTS)
    @pytest.mark.parametrize("which", ["tiny", "demo"])
    def test_greedy_tokens_are_the_references(self, lab: Lab, which: str, prompt: str) -> None:
        subject: Subject = getattr(lab, which)
        conversation = PROMPTS[prompt]
        subject.reference.assert_greedy(
            subject.prompt_ids(conversation), subject.greedy(conversation, count=24)
        )

    def test_the_prompts_log_probability_is_the_references(self, lab: Lab) -> None:
        """Of the shipped model, which is sure of some tokens: their small log-probabilities are compared too."""
        subject = lab.demo
        if not subject.supports("logprobs"):
            return  # the table says so, and the proof of logprobs sees to it that it is refused
        prompt = subject.prompt_ids()
        answer = subject.ask(max_new_tokens=24, logprobs=0, **ENDLESS)
        rows = subject.reference.logprobs([*prompt, *answer.token_ids])[len(prompt) - 1 : -1]
        for entry, token, row in zip(answer.logprobs or (), answer.token_ids, rows, strict=True):
            assert abs(entry.logprob - float(row[token])) <= 1e-3

    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_a_stream_folds_to_the_answer(self, lab: Lab, prompt: str) -> None:
        subject, conversation = lab.tiny, PROMPTS[prompt]
        whole = subject.ask(conversation, max_new_tokens=60, **ENDLESS)
        deltas = list(subject.model.stream_deltas(conversation, max_new_tokens=60, **ENDLESS))
        assert _settled(fold(deltas)) == _settled(whole)
        pieces = subject.model.stream_chat(conversation, max_new_tokens=60, **ENDLESS)
        assert "".join(pieces) == whole.response_text
        decode = subject.model.tokenizer.decode
        assert whole.response_text == decode(whole.token_ids, skip_special_tokens=True)

    def test_a_sampled_stream_folds_to_the_answer(self, lab: Lab) -> None:
        subject = lab.tiny
        options: dict[str, Any] = {"max_new_tokens": 30, "ignore_eos": True}
        extras = {"temperature": 2.0, "seed": 3, "logprobs": 2, "prompt_logprobs": 1}
        options |= {name: value for name, value in extras.items() if subject.supports(name)}
        if "seed" not in options:
            options["temperature"] = 0
        deltas = list(subject.model.stream_deltas(STORY, **options))
        assert _settled(fold(deltas)) == _settled(subject.ask(**options))

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_every_ending_has_its_reason_streamed_or_not(self, lab: Lab, ending: str) -> None:
        options, reason = ENDINGS[ending]
        answer = lab.tiny.ask(**options)
        assert answer.finish_reason == reason
        deltas = list(lab.tiny.model.stream_deltas(STORY, **options))
        assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [reason]
        assert deltas[-1].finish_reason == reason
        assert deltas[-1].usage == answer.usage
        assert _tokens(deltas) == answer.token_ids

    def test_the_end_token_is_the_last_and_has_no_text(self, lab: Lab) -> None:
        subject = lab.tiny
        answer = subject.ask(temperature=0, max_new_tokens=80)
        checkpoint = subject.model.engine.checkpoint
        ends = {*(checkpoint.eos_token_ids if checkpoint else ()), *subject.model.tokenizer.eos_token_ids}
        assert [i for i in answer.token_ids if i in ends] == [answer.token_ids[-1]]
        decode = subject.model.tokenizer.decode
        assert answer.response_text == decode(answer.token_ids[:-1], skip_special_tokens=True)

    def test_usage_counts_the_rendered_prompt_and_every_token(self, lab: Lab) -> None:
        subject = lab.tiny
        for prompt in PROMPTS.values():
            answer = subject.ask(prompt, temperature=0, max_new_tokens=9)
            assert answer.prompt_length == len(subject.prompt_ids(prompt))
            assert answer.response_length == len(answer.token_ids)
            assert answer.usage.total_tokens == answer.prompt_length + answer.response_length

    def test_the_context_bounds_prompt_and_answer(self, lab: Lab) -> None:
        """Up to the very last token, and no further."""
        subject = lab.tiny
        assert subject.model.context_length == CONTEXT
        prompt = _filling(subject, CONTEXT - 6)
        answer = subject.ask(prompt, **ENDLESS)
        assert answer.finish_reason == "length"
        assert answer.usage.total_tokens == CONTEXT
        subject.reference.assert_greedy(subject.prompt_ids(prompt), answer.token_ids)

    def test_many_at_once_get_the_answers_that_they_get_alone(self, lab: Lab) -> None:
        subject = lab.tiny
        prompts = [*PROMPTS.values()] * 4
        with ThreadPoolExecutor(len(prompts)) as pool:
            answers = list(pool.map(subject.greedy, prompts))
        for prompt, answer in zip(prompts, answers, strict=True):
            subject.reference.assert_greedy(subject.prompt_ids(prompt), answer)

    def test_a_seeded_answer_is_the_same_among_others(self, lab: Lab) -> None:
        subject = lab.tiny
        if not subject.supports("seed"):
            return  # refused, as the table says; see the proof of seed
        sampled = {"temperature": 2.0, "max_new_tokens": 12, "ignore_eos": True}
        alone = [subject.ids(seed=seed, **sampled) for seed in range(4)]
        with ThreadPoolExecutor(16) as pool:
            asked = [pool.submit(subject.ids, seed=place % 4, **sampled) for place in range(16)]
            together = [future.result() for future in asked]
        assert together == alone * 4

    def test_a_seeded_answer_is_the_same_among_long_prompts(self, lab: Lab) -> None:
        """More tokens than an engine reads in one step, so that it may have to divide a prompt."""
        subject = lab.tiny
        if not subject.supports("seed"):
            return  # refused, as the table says; see the proof of seed
        prompts = [f"{place}: " + "What happened on the second day? " * 120 for place in range(6)]
        sampled: dict[str, Any] = {"temperature": 2.0, "seed": 5, "max_new_tokens": 6, "ignore_eos": True}
        with ThreadPoolExecutor(len(prompts)) as pool:
            asked = [pool.submit(subject.ids, prompt, **sampled) for prompt in prompts]
            together = [future.result() for future in asked]
        assert together == [subject.ids(prompt, **sampled) for prompt in prompts]

    def test_adapters_side_by_side(self, lab: Lab) -> None:
        subject = lab.tiny
        if not subject.supports("adapter"):
            return  # refused, as the table says; see the proof of adapter
        names = [None, *lab.adapters] * 4
        alone = {name: subject.greedy(adapter=name) for name in names}
        with ThreadPoolExecutor(len(names)) as pool:
            asked = [pool.submit(subject.greedy, adapter=name) for name in names]
            together = [future.result() for future in asked]
        assert together == [alone[name] for name in names]


def _tokens(deltas: list[Delta]) -> tuple[int, ...]:
    return tuple(token for delta in deltas for token in delta.token_ids)


def _settled(answer: Response) -> tuple[Any, ...]:
    """The answer, its log-probabilities rounded: another batch may compute their last digits in another order."""

    def entry(one: Any) -> Any:
        if one is None:
            return None
        return one.token_id, round(one.logprob, 2), [(i, round(value, 2)) for i, value in one.top]

    logprobs = None if answer.logprobs is None else [entry(e) for e in answer.logprobs]
    prompt = None if answer.prompt_logprobs is None else [entry(e) for e in answer.prompt_logprobs]
    whole = answer.response_text, answer.reasoning_text, answer.token_ids, answer.finish_reason, answer.usage
    return (*whole, logprobs, prompt)


def _filling(subject: Subject, size: int) -> str:
    """A message whose rendered prompt has exactly ``size`` tokens."""
    empty = len(subject.prompt_ids("hi"))
    text = "hi" + " x" * (size - empty)
    while len(subject.prompt_ids(text)) > size:
        text = text[: -max(2, 2 * (len(subject.prompt_ids(text)) - size) // 3)]
    while len(subject.prompt_ids(text)) < size:
        text += " x"
    assert len(subject.prompt_ids(text)) == size
    return text
