"""What the shipped models are able to do, on wordings that they were not trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from engineroom import demo
from engineroom.demo.train import evaluate, reward
from engineroom.demo.train.conversations import FEW, held_out
from engineroom.demo.train.trainer import prompt_of

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


@pytest.mark.parametrize(
    ("skills", "bar"),
    [(("engineroom", "capital"), 0.95), (("arithmetic", "identity", "greeting"), 0.88)],
    ids=["facts", "others"],
)
def test_the_sparse_one_answers_too(skills: tuple[str, ...], bar: float) -> None:
    path = folder("demo-moe")
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    marked = [m for skill in skills for m in evaluate.examine(model, tokenizer, skill)]
    wrong = [str(m) for m in marked if not m.right]
    assert len(wrong) <= (1 - bar) * len(marked), "\n".join(wrong)


def test_no_expert_is_idle() -> None:
    """In every layer each of the four gets at least a twentieth of the choices; an even share is a quarter."""
    path = folder("demo-moe")
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    texts = [prompt_of(tokenizer, c) for skill in FEW for c in held_out(skill, 20)]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        routers = model(**inputs, output_router_logits=True).router_logits
    kept = inputs["attention_mask"].flatten().bool()
    for logits in routers:
        chosen = logits[kept].topk(2, -1).indices.flatten()
        shares = torch.bincount(chosen, minlength=4) / len(chosen)
        assert float(shares.min()) >= 0.05, shares


def test_the_better_text_scores_higher() -> None:
    path = folder("demo-reward")
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    assert reward.pair_accuracy(model, AutoTokenizer.from_pretrained(path)) >= 0.95


def test_they_are_small() -> None:
    for names in (("demo", "demo-reward"), ("demo-moe",)):
        files = [f for name in names for f in folder(name).iterdir()]
        assert sum(f.stat().st_size for f in files) <= 8_000_000
    assert 2_000_000 <= AutoModelForCausalLM.from_pretrained(folder("demo")).num_parameters() <= 5_000_000
