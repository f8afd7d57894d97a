"""``engineroom api`` in a process of its own, as its user starts it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

KEY = "sk-test"
PATIENCE = 120


class Api(NamedTuple):
    """
    Attributes:
        url: without ``/v1``.
        sum: what the answer to "What is 7 plus 5?" holds.
        greeting: what it printed when it was ready.
    """

    url: str
    sum: str
    greeting: str

    def running(self) -> float:
        """Answers that the engine is working at."""
        request = urllib.request.Request(f"{self.url}/metrics", headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = re.search(r"^engineroom_answers_running (\S+)", answer.read().decode(), re.MULTILINE)
        assert found
        return float(found[1])

    def becomes_idle(self, within: float) -> bool:
        """Does the engine get rid of all answers within so many seconds?"""
        end = time.monotonic() + within
        while self.running():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True


@contextmanager
def serving(*words: str | Path, sum: str) -> Generator[Api, None, None]:
    """The server, from the line that tells where it listens to SIGTERM, which must end it with 0."""
    process = subprocess.Popen(
        [sys.executable, *map(str, words), "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ENGINEROOM_API_KEY": KEY},
    )
    assert process.stderr is not None
    lines: list[str] = []
    told = threading.Event()

    def read() -> None:
        for line in process.stderr or ():
            lines.append(line)
            if line.startswith("All routes"):
                told.set()
        told.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert told.wait(PATIENCE), "".join(lines)
        found = re.search(r" answers at (\S+)/v1", "".join(lines))
        assert found, "".join(lines)
        yield Api(found[1], sum, "".join(lines))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, "".join(lines)
    finally:
        process.kill()
        process.wait()
        reader.join(10)
        process.stderr.close()
