"""The host process's life and death, seen from its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from engineroom.engines.hosted.interpreter import environment

if TYPE_CHECKING:
    import psutil

_SOURCE = Path(__file__).parents[2]
"""The package ``engineroom``."""

_POLL = 0.01
_PATIENCE = 10.0
"""Seconds in which killed processes have to be gone."""


class HostProcess:
    """``python -m engineroom.host`` under another interpreter, in a session of its own, its output in a file.

    It imports engineroom from a private folder, which holds a link to this very source and nothing else of this
    environment.

    Raises:
        OSError: it can't be started.
    """

    def __init__(self, python: Path) -> None:
        self.socket, theirs = socket.socketpair()  # ours is for a connection, which closes it
        self.folder = Path(tempfile.mkdtemp(prefix="engineroom-host-"))
        self.log = self.folder / "host.log"
        self._family: set[psutil.Process] = set()
        packages = self.folder / "packages"
        packages.mkdir()
        (packages / "engineroom").symlink_to(_SOURCE)
        try:
            with theirs, self.log.open("ab") as output:
                self._process = subprocess.Popen(
                    [python, "-m", "engineroom.host", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment(python, packages),
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        except BaseException:
            self.socket.close()
            self.discard()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Minus the signal, if one ended it; None while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """The last line of its output; empty if it said nothing."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "")
        return ""

    def obituary(self) -> str:
        """Why it ended, as far as can be told."""
        code = self.exit_code
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return self.last_words() or "it said nothing"

    def meet_family(self) -> None:
        """Remembers what the host has started: when it is gone, nobody could tell whose they were."""
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            self._family |= set(psutil.Process(self.pid).children(recursive=True))

    def kill(self) -> None:
        """Kills the host and its family."""
        import psutil

        if self.exit_code is None:
            self.meet_family()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # psutil looks whether it is still the same process

    async def wait(self, seconds: float) -> bool:
        """Waits for the end of the host. False if it has not come."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.exit_code is None:
                    await asyncio.sleep(_POLL)
        return self.exit_code is not None

    async def end(self, grace: float = 0.0) -> None:
        """Ends the host and its family. It may end by itself within ``grace`` seconds; the rest is killed."""
        if grace:
            self.meet_family()
            await self.wait(grace)
        self.kill()
        await self.wait(_PATIENCE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while any(map(_lives, self._family)):
                    await asyncio.sleep(_POLL)

    def discard(self) -> None:
        """Removes its folder, log and all."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
