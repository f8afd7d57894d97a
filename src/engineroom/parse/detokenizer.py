"""Token ids to text, one id at a time."""

from __future__ import annotations

from engineroom.types import Tokenizer

_REPLACEMENT = "\ufffd"
_MAX_HELD = 16


class Detokenizer:
    """Turns a growing list of token ids into text, so that the pieces joined are the decoding of the whole.

    A token is not a piece of text by itself: one character may span several tokens, and tokenizers of the
    sentencepiece kind drop the space before the first token of what they are given. So each step decodes a window
    that begins at an earlier token and gives out what the new token added to it. While the window ends in a
    replacement character, the text is held back: the rest of that character may be in the next token.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._ids: list[int] = []
        self._window = 0  # where the decoded window begins
        self._given = 0  # ids whose text was given out
        self._before = ""  # the text of those of them that are in the window

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        self._ids.append(token_id)
        before, now = self._before, self._decode(self._window)
        held = len(self._ids) - self._given
        if now.endswith(_REPLACEMENT) and held < _MAX_HELD:
            return ""
        if len(now) <= len(
            before
        ):  # a special token that is skipped adds nothing, but moves the window along
            if held >= _MAX_HELD:
                self._advance()
            return ""
        self._advance()
        return now[len(before) :]

    def flush(self) -> str:
        """What is still held back; an incomplete character comes out as U+FFFD."""
        before, now = self._before, self._decode(self._window)
        self._advance()
        return now[len(before) :]

    def _decode(self, start: int) -> str:
        return self._tokenizer.decode(self._ids[start:], skip_special_tokens=self._skip)

    def _advance(self) -> None:
        self._window, self._given = self._given, len(self._ids)
        self._before = self._decode(self._window)
