"""Held-out accuracy per skill: greedy answers to wordings that training never uses, compared whole."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from engineroom.demo.train.conversations import SKILLS, Conversation, held_out
from engineroom.demo.train.trainer import prompt_of


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    conversations: list[Conversation],
    rows: int = 50,
) -> list[str]:
    """What the model writes after each conversation, without the end marker."""
    written: list[str] = []
    for start in range(0, len(conversations), rows):
        prompts = [prompt_of(tokenizer, item) for item in conversations[start : start + rows]]
        inputs = tokenizer(
            prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, temperature=None, top_p=None, max_new_tokens=120)
        width = inputs["input_ids"].shape[1]
        written += tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
    return written


def right(conversation: Conversation, written: str) -> bool:
    """Whether the answer after the thought, if any, is the expected one, letter for letter."""
    return written.split("</think>")[-1].strip() == conversation.answer.strip()


def accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, count: int = 200
) -> dict[str, float]:
    """Skill → the part of ``count`` held-out conversations that are answered right."""
    figures: dict[str, float] = {}
    for skill in SKILLS:
        asked = held_out(skill, count)
        written = answers(model, tokenizer, asked)
        figures[skill] = sum(map(right, asked, written)) / count
    return figures
