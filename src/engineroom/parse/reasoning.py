"""Where the model thinks and where it answers."""

from __future__ import annotations

from engineroom.parse.stops import partial_suffix
from engineroom.types import Channel


class ReasoningSplitter:
    """Divides an answer's text into the thinking block at its beginning and the rest; no character is lost.

    Args:
        tags: the opening and closing tag, or None if the model has none.
        inside: the prompt ended within an open thinking block (templates that write the opening tag themselves).
    """

    def __init__(self, tags: tuple[str, str] | None, *, inside: bool = False) -> None:
        self._open, self._close = tags or ("", "")
        self._state = "inside" if inside and tags else "before" if tags else "after"
        self._held = ""

    def push(self, text: str) -> list[tuple[Channel, str]]:
        """The certain text, in pieces of one channel each."""
        if self._state == "after" and not self._held:
            return [("answer", text)] if text else []
        self._held += text
        pieces: list[tuple[Channel, str]] = []
        if self._state == "before":
            self._look_for_open()
        if self._state == "inside":
            pieces.append(("reasoning", self._take_reasoning()))
        if self._state == "after":
            pieces.append(("answer", self._take_all()))
        return [(channel, piece) for channel, piece in pieces if piece]

    def flush(self) -> list[tuple[Channel, str]]:
        """What is still held back."""
        channel: Channel = "reasoning" if self._state == "inside" else "answer"
        rest = self._take_all()
        return [(channel, rest)] if rest else []

    def _look_for_open(self) -> None:
        begin = self._held.lstrip()
        if begin.startswith(self._open):
            self._state = "inside"
        elif begin and not self._open.startswith(begin):
            self._state = "after"

    def _take_reasoning(self) -> str:
        place = self._held.find(self._close)
        if place >= 0:
            self._state = "after"
            end = place + len(self._close)
        else:
            end = len(self._held) - partial_suffix(self._held, self._close)
        piece, self._held = self._held[:end], self._held[end:]
        return piece

    def _take_all(self) -> str:
        rest, self._held = self._held, ""
        return rest
