"""The thinking block apart from the answer, as ``reasoning_content`` has it: without tags and the lines around."""

from __future__ import annotations

from engineroom.types import Delta


class ReasoningText:
    """Takes one answer's deltas in turn. Blank lines between tags, thoughts and answer belong to none of them."""

    def __init__(self, tags: tuple[str, str] | None) -> None:
        self._open, self._close = tags or ("", "")
        self._thought = ""  # a thought's blank end, which is kept if more follows
        self._begun = False
        self.seen = False
        self._answered = False

    def push(self, delta: Delta) -> tuple[str, str]:
        """The text of this delta: (of the thoughts, of the answer)."""
        if delta.channel == "reasoning":
            return self._reasoning(delta.text), ""
        if self.seen and not self._answered:
            text = delta.text.lstrip("\n")
            self._answered = bool(text)
            return "", text
        return "", delta.text

    def _reasoning(self, text: str) -> str:
        if not self.seen:
            self.seen = True
            begin = text.lstrip()
            text = begin.removeprefix(self._open) if begin.startswith(self._open) else text
        text = text.removesuffix(self._close)
        if not self._begun:
            text = text.lstrip("\n")
            self._begun = bool(text)
        text = self._thought + text
        certain = text.rstrip("\n")
        self._thought = text[len(certain) :]
        return certain
