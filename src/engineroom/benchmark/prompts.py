"""Texts of random words that make prompts of a wanted length."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from engineroom.errors import ArgumentError
from engineroom.types import Tokenizer

Count: TypeAlias = Callable[[str], Awaitable[int]]
"""Tokens of the prompt that a user's message becomes, template included."""

_TRIES = 8
_WANTED = 256
_LOOKED_AT = 20_000
_MEASURED = 40

_COMMON = """
time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work number night point home water room mother area
money story fact month lot right study book eye job word business issue side kind head house service friend
father power hour game line end member law car city name team minute idea body information back parent face
others level office door health person art war history party result change morning reason research girl guy
moment air teacher force education
"""

COMMON_WORDS = tuple(_COMMON.split())
"""For a server, whose tokenizer is not known. In most vocabularies each is one token."""


@dataclass(frozen=True, slots=True)
class Words:
    """What texts are made of. ``joint`` stands between two pieces."""

    pieces: tuple[str, ...]
    joint: str = " "

    def text(self, chance: random.Random, count: int) -> list[str]:
        return chance.choices(self.pieces, k=max(1, count))


def words_of(tokenizer: Tokenizer, chance: random.Random) -> Words:
    """Random words of the vocabulary that are one token each, so that a text's length can be set to the token."""
    found: dict[str, None] = {}
    for _ in range(_LOOKED_AT):
        word = tokenizer.decode([chance.randrange(tokenizer.vocab_size)], skip_special_tokens=True).strip()
        if word.isascii() and word.isalpha() and len(tokenizer.encode(f" {word}")) == 1:
            found[word] = None
            if len(found) >= _WANTED:
                break
    if len(found) >= 16:
        return Words(tuple(found))
    letters = tuple("abcdefghijklmnopqrstuvwxyz")  # tokens are bytes, or words of some other script
    return Words(letters, joint="")


class PromptMaker:
    """Makes texts of a wanted number of tokens.

    With ``count`` each text is measured and mended until it has that number, or is the nearest below it; without, the
    number is right on average, which is as well as can be done for a server that counts only what it answers.
    """

    def __init__(self, words: Words, overhead: float, per_piece: float, count: Count | None) -> None:
        self._words = words
        self._overhead = overhead
        self._per_piece = max(per_piece, 0.1)
        self._count = count

    @classmethod
    async def measured(
        cls, words: Words, measure: Count, count: Count | None, pieces: int = _MEASURED
    ) -> PromptMaker:
        """Learns from two texts what the template takes, and what a piece.

        Args:
            measure: used for the two; ``count`` for each text that is made.
        """
        chance = random.Random(0)
        few, many = (words.joint.join(words.text(chance, k)) for k in (1, 1 + pieces))
        short, long = await measure(few), await measure(many)
        per_piece = (long - short) / pieces
        return cls(words, short - per_piece, per_piece, count)

    def check(self, shortest: int) -> None:
        """
        Raises:
            ArgumentError: the template alone takes as much.
        """
        least = max(1, round(self._overhead + self._per_piece))
        if shortest < least:
            raise ArgumentError(
                f"a prompt can't have {shortest} tokens",
                why=f"the chat template and one word take {least}",
                fix=f"--prompt-tokens {least} or more",
            )

    async def text(self, chance: random.Random, tokens: int) -> str:
        pieces = self._words.text(chance, round((tokens - self._overhead) / self._per_piece))
        best = None
        for _ in range(_TRIES if self._count else 0):
            text = self._words.joint.join(pieces)
            missing = tokens - await self._count(text) if self._count else 0
            if missing >= 0:
                best = text
            if missing == 0:
                break
            step = max(1, round(abs(missing) / self._per_piece))
            if missing > 0:
                pieces += self._words.text(chance, step)
            else:
                del pieces[max(1, len(pieces) - step) :]
        return best or self._words.joint.join(pieces)
