"""Scores: the reference's, for both kinds of reward model, whatever stands beside a text in its batch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import pytest

from engineroom.errors import MessageError, RequestError
from engineroom.testing.lab import Lab, Subject
from engineroom.types import Message

TEXTS = ("ok", "a much longer text than the other ones, with 12 words or more in it", "Grüße! 👋🏽", "no")
TALK = ({"role": "user", "content": "What is 1 plus 1?"}, {"role": "assistant", "content": "2."})
TOLERANCE = 1e-4


class ScoreTests:
    """Of an engine that declares ``score``; one that does not refuses, which the proof of ``score`` checks."""

    @pytest.fixture(scope="class", params=["reward", "value_head"])
    @classmethod
    def scorer(cls, request: pytest.FixtureRequest, lab: Lab) -> Subject | None:
        return getattr(lab, request.param) if lab.tiny.supports("score") else None

    def test_scores_are_the_references_whatever_the_batch(self, scorer: Subject | None) -> None:
        if scorer is None:
            return
        expected = [_expected(scorer, scorer.model.tokenizer.encode_plain(text)) for text in TEXTS]
        assert max(expected) - min(expected) > 100 * TOLERANCE
        near = partial(pytest.approx, abs=TOLERANCE)
        assert scorer.model.get_scores(TEXTS) == near(expected)
        assert scorer.model.get_scores(TEXTS[::-1]) == near(expected[::-1])
        assert [scorer.model.get_scores([text])[0] for text in TEXTS] == near(expected)
        with ThreadPoolExecutor(4) as pool:
            for scores in pool.map(scorer.model.get_scores, [TEXTS] * 8):
                assert scores == near(expected)

    def test_conversations_are_scored_whole(self, scorer: Subject | None) -> None:
        if scorer is None:
            return
        model = scorer.model
        ids = model.renderer.render_scored(_messages()).token_ids
        assert model.get_scores([TALK]) == pytest.approx([_expected(scorer, ids)], abs=TOLERANCE)

    def test_what_a_reward_model_can_not_do_is_refused(self, scorer: Subject | None) -> None:
        if scorer is None:
            return
        with pytest.raises(MessageError, match=r"batch_input\[1\]"):
            scorer.model.get_scores(["ok", ""])
        with pytest.raises(RequestError, match="get_scores"):
            scorer.model.chat("hi")
        assert scorer.model.get_scores([]) == []
        assert len(scorer.model.get_scores(["ok"])) == 1


def _messages() -> list[Message]:
    from engineroom.render import parse_messages

    return list(parse_messages(TALK))


def _expected(scorer: Subject, ids: Sequence[int]) -> float:
    """A classifier's logit, or the value head's value of the last hidden state."""
    head = scorer.folder / "value_head.safetensors"
    if not head.exists():
        return float(scorer.reference.logits(ids)[0])
    from safetensors import torch as safetensors

    weights: dict[str, Any] = cast("Any", safetensors).load_file(head)
    value = (
        weights["v_head.summary.weight"] @ scorer.reference.hidden(ids)[-1] + weights["v_head.summary.bias"]
    )
    return float(value)
