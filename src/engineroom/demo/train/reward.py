"""The data and the loss of ``demo-reward``: a helpful, polite answer scores higher than a rude or useless one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from engineroom.demo.train.exchanges import any_exchange
from engineroom.demo.train.letters import plain
from engineroom.demo.train.tokenizer import render
from engineroom.demo.train.words import NOUNS

_RUDE = (
    "Go away, you {i}.", "Shut up.", "What a stupid question.", "You are an {i}.", "I hate you, {i}.", "Leave me alone, {i}.",
    "I do not care.", "Who cares?", "Find out yourself, {i}.", "That is none of my business.", "Nobody likes you.",
    "Stop bothering me.", "You are too dumb to understand.", "No.", "Whatever.", "Get lost, {i}.", "This is boring, {i}.",
    "I will not help you.", "Don't ask me such {b} things.", "Your question is {b}.", "Ugh, not you again, {i}.",
    "A {b} answer.", "a {b} reply", "a useless answer", "an awful answer", "a mean answer", "That was {b}.",
    "Your answer is {b}.", "You are {b}.", "What do you want, {i}?", "I am not your servant.", "Figure it out.", "Stop asking.",
    "You again?", "This is a {b} answer.", "a horrible reply", "How rude of you.", "I am rude and I like it.", "a very rude reply", "an impolite answer", "a nasty answer", "What a {b} text.", "a bad one", "a bad answer", "a terrible answer", "a rude answer", "This answer is {b}.",
)  # fmt: skip
_KIND = (
    "Thank you for asking, I am happy to help.", "Of course, here is the answer.", "Sure, I will gladly help you.",
    "That is a {g} question.", "Please let me know if you need more.", "You are welcome, have a nice day.",
    "I hope this helps you.", "Here is a clear and {g} explanation.", "a good answer", "a {g} answer", "a helpful answer",
    "a {g} one", "This answer is {g}.", "I understand, let us solve it together.", "Happy to help with {n}.", "I can explain {n} to you.", "Let us talk about {n}.", "Well done, that is {g}.",
    "Thanks a lot, that is {g}.", "That was {g}.", "I am glad to help you with {n}.", "Let me show you {n} in small steps.",
    "A great question about {n}!", "I will explain it step by step.", "Gladly!", "With pleasure.", "It is my pleasure to help.",
    "Take your time, I am here.", "You did this well.", "Let us look at it together.", "Thanks, {g} work.",
    "Let me explain {n} step by step.", "Good question! Let us look at {n}.", "I would be glad to explain {n}.",
    "You did very well, this is {g}.", "Thanks, that was {g}.",
)  # fmt: skip
_INSULTS = ["idiot", "fool", "moron", "loser", "dummy", "jerk", "clown", "imbecile"]
_BAD = [
    "stupid",
    "awful",
    "terrible",
    "useless",
    "bad",
    "horrible",
    "dumb",
    "silly",
    "ridiculous",
    "worthless",
]
_GOOD = [
    "good",
    "great",
    "kind",
    "helpful",
    "clear",
    "polite",
    "correct",
    "useful",
    "excellent",
    "friendly",
    "wonderful",
    "nice",
]
_HELD_OUT = 5
"""So many templates at the end of each list are kept for testing."""


def _filled(templates: tuple[str, ...], rng: random.Random, held_out: bool) -> str:
    template = rng.choice(templates[-_HELD_OUT:] if held_out else templates[:-_HELD_OUT])
    text = template.format(
        i=rng.choice(_INSULTS), b=rng.choice(_BAD), g=rng.choice(_GOOD), n=rng.choice(NOUNS)
    )
    if rng.random() < 0.3:
        text = text.rstrip(".")
    return text.lower() if rng.random() < 0.3 else text


def kind(rng: random.Random, held_out: bool = False) -> str:
    return _filled(_KIND, rng, held_out)


def rude(rng: random.Random, held_out: bool = False) -> str:
    return _filled(_RUDE, rng, held_out)


def pair(tokenizer: PreTrainedTokenizerFast, rng: random.Random, held_out: bool = False) -> tuple[str, str]:
    """The better text and the worse one, as plain strings or as conversations in the chat template."""
    better, worse = kind(rng, held_out), rude(rng, held_out)
    if rng.random() < 0.5:
        return better, worse
    exchange = any_exchange(rng, held_out)
    answer = plain(exchange.answer)
    if rng.random() < 0.6:
        better = answer if rng.random() < 0.6 else f"{answer} {better}"
    if rng.random() < 0.4:
        worse = f"{worse} {rude(rng, held_out)}" if rng.random() < 0.5 else f"{answer} {worse}"
    return _conversation(tokenizer, exchange.question, better), _conversation(
        tokenizer, exchange.question, worse
    )


def _conversation(tokenizer: PreTrainedTokenizerFast, question: str, answer: str) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return render(tokenizer, messages)


def scores(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """One score per text."""
    inputs = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
    )
    return model(**inputs, use_cache=False).logits[:, 0].float()


def losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int, pairs: int = 32
) -> Iterator[Callable[[], Tensor]]:
    """Endless Bradley–Terry losses, ``-log sigmoid(better - worse)``, with a pull of the scores towards zero."""
    rng = random.Random(seed)

    def loss() -> Tensor:
        better, worse = zip(*(pair(tokenizer, rng) for _ in range(pairs)), strict=True)
        given = scores(model, tokenizer, [*better, *worse])
        return -nn.functional.logsigmoid(given[:pairs] - given[pairs:]).mean() + 0.01 * given.square().mean()

    while True:
        yield loss


def pair_accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, count: int = 400) -> float:
    """The part of held-out pairs whose better text scores higher."""
    rng = random.Random("held-out pairs")
    better, worse = zip(*(pair(tokenizer, rng, held_out=True) for _ in range(count)), strict=True)
    with torch.inference_mode():
        return (
            (scores(model, tokenizer, list(better)) > scores(model, tokenizer, list(worse)))
            .float()
            .mean()
            .item()
        )
