"""Bare lines without a chat around them: what the model practises before it learns to converse.

A sum inside a conversation costs some sixty tokens, of which one or two teach adding; in a drill nearly all do.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from engineroom.demo.train.exchanges import NUMBERS, small_numbers
from engineroom.demo.train.letters import letter_by_letter
from engineroom.demo.train.words import any_word

Drill = tuple[str, str]
"""What is given, and what follows from it. Only the second part is learned: the first is random."""


def _sum(rng: random.Random) -> Drill:
    a, b = small_numbers(rng)
    name, sign, result = ("plus", "+", a + b) if rng.random() < 0.5 else ("minus", "-", a - b)
    kind = rng.random()
    if kind < 0.12 and max(a, b) < len(NUMBERS):
        return f"{NUMBERS[a]} {name} {NUMBERS[b]}:", f" {a} {name} {b} is {result}."
    if kind < 0.7:
        return f"{a} {name} {b} is", f" {result}."
    return f"{a} {sign} {b} =", f" {result}"


def _word(rng: random.Random) -> Drill:
    word = any_word(rng, held_out=False)
    letters, backwards = "-".join(word), word[::-1]
    kind = rng.random()
    if kind < 0.35:
        return f"spell {word}:", f" {letters}"
    if kind < 0.75:
        return (
            f"reverse {word}:",
            f" {letters}, backwards {'-'.join(backwards)}: {letter_by_letter(backwards)}",
        )
    if kind < 0.85:
        return f"name {word}:", f" {word.capitalize()}"
    return f"upper {word}:", f" {word.upper()}"


def _copy(rng: random.Random) -> Drill:
    words = [any_word(rng, held_out=False) for _ in range(rng.randint(1, 4))]
    said = " ".join(word.capitalize() if rng.random() < 0.3 else word for word in words)
    return f"say {said}:", f" {said}"


def sums(seed: int) -> Iterator[Drill]:
    """Endless sums, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield _sum(rng)


def drills(seed: int) -> Iterator[Drill]:
    """Endless drills, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield rng.choices((_sum, _word, _copy), (0.5, 0.35, 0.15))[0](rng)
