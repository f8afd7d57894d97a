"""Text that the model should write letter by letter, whatever the tokenizer would make of it.

A word read backwards is no word that the tokenizer knows, so its usual pieces are arbitrary. Written one letter at a
time it is a copy of what was spelled before. The marks are stripped wherever people or templates see the text.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

_MARK = "\ue000"


def letter_by_letter(text: str) -> str:
    """``text``, marked to be written one letter at a time."""
    return f"{_MARK}{text}{_MARK}"


def plain(text: str) -> str:
    """``text`` without marks."""
    return text.replace(_MARK, "")


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids; what is marked is encoded letter by letter, a space before it included."""
    ids: list[int] = []
    for place, piece in enumerate(text.split(_MARK)):
        letters = place % 2 == 1
        for part in piece if letters else (piece,):
            ids += tokenizer.backend_tokenizer.encode(part, add_special_tokens=False).ids
    return ids
