"""Held-out accuracy per skill: greedy answers to wordings that training never uses, compared whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from engineroom.demo.train.conversations import Conversation, held_out
from engineroom.demo.train.letters import plain
from engineroom.demo.train.trainer import prompt_of


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    conversations: list[Conversation],
    rows: int = 50,
) -> list[str]:
    """What the model writes after each conversation, without the end marker."""
    tokenize: Any = tokenizer
    generate: Any = model.generate
    written: list[str] = []
    for start in range(0, len(conversations), rows):
        prompts = [prompt_of(tokenizer, item) for item in conversations[start : start + rows]]
        inputs = tokenize(
            prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        with torch.inference_mode():
            ids = generate(**inputs, do_sample=False, temperature=None, top_p=None, max_new_tokens=120)
        width = inputs["input_ids"].shape[1]
        written += tokenize.batch_decode(ids[:, width:], skip_special_tokens=True)
    return written


@dataclass(frozen=True, slots=True)
class Marked:
    """An answered conversation. It is right if the answer after the thought, if any, is the expected one to the letter."""

    conversation: Conversation
    written: str

    @property
    def right(self) -> bool:
        return self.written.split("</think>")[-1].strip() == plain(self.conversation.answer).strip()

    def __str__(self) -> str:
        asked = self.conversation.messages[-1]["content"]
        return f"{asked!r}: {self.written!r} instead of {plain(self.conversation.target)!r}"


def examine(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, skill: str, count: int = 200
) -> list[Marked]:
    """``count`` held-out conversations of one skill, answered."""
    asked = held_out(skill, count)
    return [Marked(*pair) for pair in zip(asked, answers(model, tokenizer, asked), strict=True)]
