"""How often streams send. A piece leaves as soon as it is there, as long as the server has time for that.

To send a piece takes as long as to make it, or longer. Where sending takes a good part of the event loop's time, the server
is behind anyway: then a stream's pieces of some milliseconds leave together, and all streams are faster for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

HELD = 0.025
"""Seconds that a piece waits at most for the next, where the server is behind."""

_LOOK = 0.02
"""Seconds over which the share of sending is taken."""

_BEHIND, _AHEAD = 0.2, 0.05
"""Share of the time that sending takes: from the first on pieces are held, below the second no longer."""

_WAITED = 0.001
"""Seconds. A piece that took longer to send has waited for its client, which took none of the loop's time."""


class Held(Protocol):
    @property
    def due(self) -> float:
        """When what it holds has to go."""
        ...

    def flush(self) -> Coroutine[Any, Any, None]:
        """Sends what it holds."""
        ...


class Pace:
    """One for all streams of an event loop. Times are those of ``time.monotonic``, in seconds.

    Attributes:
        behind: pieces are held.
    """

    def __init__(self) -> None:
        self.behind = False
        self._since = 0.0
        self._sending = 0.0
        self._holding: set[Held] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def sent(self, began: float, ended: float) -> None:
        """A piece took this long to send."""
        if ended - began < _WAITED:
            self._sending += ended - began
        if (passed := ended - self._since) > _LOOK:
            share = self._sending / passed
            self.behind = share > (_AHEAD if self.behind else _BEHIND)
            self._since, self._sending = ended, 0.0

    def hold(self, stream: Held) -> None:
        """Sees to it that the stream sends what it holds in time, if it does not do so itself."""
        self._holding.add(stream)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HELD, self._look)

    def release(self, stream: Held) -> None:
        """It has sent what it held, or has ended."""
        self._holding.discard(stream)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for stream in [stream for stream in self._holding if stream.due <= now]:
            self._holding.discard(stream)
            task = loop.create_task(stream.flush())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._timer = loop.call_later(HELD, self._look) if self._holding else None
