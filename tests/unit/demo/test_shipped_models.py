"""What the shipped models are able to do, on wordings that they were not trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from engineroom import demo
from engineroom.demo.train import evaluate, reward

pytestmark = pytest.mark.slow


def folder(name: str) -> Path:
    found = demo.resolve(name)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def chat() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    path = folder("demo")
    return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


@pytest.mark.parametrize(
    ("skills", "bar"),
    [(("engineroom", "identity", "capital"), 0.95), (("arithmetic",), 0.9), (("greeting",), 0.9)],
    ids=["facts", "arithmetic", "greeting"],
)
def test_it_answers_wordings_that_it_never_saw(
    chat: tuple[PreTrainedModel, PreTrainedTokenizerFast], skills: tuple[str, ...], bar: float
) -> None:
    marked = [m for skill in skills for m in evaluate.examine(*chat, skill)]
    wrong = [str(m) for m in marked if not m.right]
    assert len(wrong) <= (1 - bar) * len(marked), "\n".join(wrong)


def test_the_better_text_scores_higher() -> None:
    path = folder("demo-reward")
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    assert reward.pair_accuracy(model, AutoTokenizer.from_pretrained(path)) >= 0.95


def test_they_are_small() -> None:
    files = [f for name in ("demo", "demo-reward") for f in folder(name).iterdir()]
    assert sum(f.stat().st_size for f in files) <= 8 << 20
    assert 2_000_000 <= AutoModelForCausalLM.from_pretrained(folder("demo")).num_parameters() <= 5_000_000
