"""Blocking work of an engine that lives on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def aside(work: Callable[[], None]) -> None:
    """Blocking work on another thread; on this one while the interpreter ends, when there are no others to be had."""
    try:
        ended = asyncio.get_running_loop().run_in_executor(None, work)
    except RuntimeError:
        work()
        return
    await ended
