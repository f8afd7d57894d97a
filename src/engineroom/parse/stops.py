"""Stop strings in a stream of text."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Cuts a stream of text at the first stop string, wherever its pieces were divided.

    Text that may be the beginning of a stop string is held back until it is known not to be, so that no part of a
    stop string is ever given out.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """The text that is certain; after a stop string was found, always empty."""
        if self.found is not None:
            return ""
        if not self._stops:
            return text
        self._held += text
        end = self._cut()
        certain, self._held = self._held[:end], self._held[end:]
        return certain

    def flush(self) -> str:
        """What was held back and turned out not to be a stop string."""
        rest = "" if self.found is not None else self._held
        self._held = ""
        return rest

    def _cut(self) -> int:
        """Where to cut what is held: at the earliest stop string, else where one may begin."""
        places = [(place, stop) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            place, self.found = min(places, key=lambda found: found[0])
            return place
        return len(self._held) - max(partial_suffix(self._held, stop) for stop in self._stops)


def partial_suffix(text: str, word: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``word``, and not all of it."""
    for length in range(min(len(text), len(word) - 1), 0, -1):
        if text.endswith(word[:length]):
            return length
    return 0
