"""SGLang's server as a child process: its start, its death, its end. Its words go to a log."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from engineroom.engines.process.aside import aside
from engineroom.engines.process.log import EngineLog
from engineroom.engines.process.trees import kill_trees, process_trees
from engineroom.engines.sglang.client import Client
from engineroom.engines.sglang.in_server.launch import HELD, REFUSED
from engineroom.errors import ArgumentError, EngineStartError

_LAUNCH = Path(__file__).parent / "in_server" / "launch.py"
_POLL = 0.1

_TAKEN = "address already in use"
"""Of the server's port, or of one that SGLang chose for its processes: others may take it before it is bound."""

_ATTEMPTS = 3


class Server:
    """One server in a session of its own. It ends with this process, however that ends: see ``in_server/launch.py``.

    Args:
        python: SGLang's interpreter.
    """

    def __init__(self, python: Path, log: EngineLog) -> None:
        self._python = python
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: Path | None = None
        self.died = asyncio.Event()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self, options: Mapping[str, Any], settings: Mapping[str, Any], limit: float) -> Client:
        """Returns when the server takes requests.

        Args:
            options: fields of ``ServerArgs``.
            settings: what ``in_server/contract.py`` has to change.
            limit: seconds.

        Raises:
            ArgumentError: SGLang knows no such option.
            EngineStartError: it did not come up in time, or ended. If a port was taken meanwhile, others are tried first.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._start_on(_free_port(), options, settings, limit)
            except EngineStartError:
                if attempt == _ATTEMPTS or _TAKEN not in self._log.text().lower():
                    raise
                await aside(self.kill)
        raise AssertionError("the last attempt returns or raises")

    async def _start_on(
        self, port: int, options: Mapping[str, Any], settings: Mapping[str, Any], limit: float
    ) -> Client:
        key = secrets.token_urlsafe(24)
        request = {
            "options": {**options, "host": "127.0.0.1", "port": port, "api_key": key},
            "settings": dict(settings),
        }
        self._spawn(json.dumps(request).encode() + b"\n", settings)
        client = Client(f"http://127.0.0.1:{port}", key)
        try:
            await self._wait_until_up(client, limit)
        except BaseException:
            await client.close()
            raise
        return client

    def _spawn(self, request: bytes, settings: Mapping[str, Any]) -> None:
        self.died = asyncio.Event()
        self._log.begin()
        # Its sockets lie here: a path of a socket has at most 107 bytes, and they would be left in /tmp otherwise.
        self._scratch = Path(tempfile.mkdtemp(prefix="sgl-"))
        log = os.open(self._log.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self._process = subprocess.Popen(
                [str(self._python), str(_LAUNCH)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._scratch,
                env=_environment(self._scratch, settings),
                start_new_session=True,
            )
        except OSError as error:
            raise EngineStartError(
                f"SGLang's interpreter {str(self._python)!r} can't be run",
                why=str(error),
                fix="engineroom env install sglang, or name another one with sglang_python",
            ) from error
        finally:
            os.close(log)
        _when_dead(self._process.pid, self._has_died)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended at once; the wait for it tells why
            self._process.stdin.write(request)
            self._process.stdin.flush()

    async def _wait_until_up(self, client: Client, limit: float) -> None:
        begun, held = time.monotonic(), False
        while True:
            held = held or HELD in self._log.text()
            if held and await client.is_up():
                return
            if self._process is not None and self._process.poll() is not None:
                raise self._failed_start()
            if time.monotonic() - begun > limit:
                raise EngineStartError(
                    f"SGLang was not ready within {limit:g} seconds",
                    why=f"its last words: {self._log.last_words() or 'none'}",
                    fix=f"its log is {self._log.path}",
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(self.died.wait(), _POLL)

    def _failed_start(self) -> ArgumentError | EngineStartError:
        for line in self._log.text().splitlines():
            if line.startswith(REFUSED):
                name, guess = json.loads(line.removeprefix(REFUSED))[0]
                return ArgumentError(
                    f"sglang_config has an unknown server argument {name!r}",
                    why="SGLang's ServerArgs has no such field",
                    fix=f"did you mean {guess}?" if guess else "leave it out",
                    argument="sglang_config",
                )
        return EngineStartError(
            "SGLang could not start", why=self.obituary(), fix=f"its log is {self._log.path}"
        )

    def is_dead(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def obituary(self) -> str:
        """Why it died, as far as can be told."""
        code = self._process.poll() if self._process else None
        words = self._log.last_words()
        if code is not None and code < 0 and not words:
            return f"killed by {signal.Signals(-code).name}"
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}; its log says: {words}"
        return words or "it said nothing"

    def _has_died(self) -> None:
        """The group goes with its first process: SGLang's own children may outlive it."""
        self.died.set()
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Ends the server and all that it started. Blocks for moments. May be called twice, and from any thread."""
        process = self._process
        if process is None:
            return
        family = process_trees([process.pid])
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        kill_trees(family)
        process.wait()
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _environment(scratch: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """This process's variables, less those that would bring its Python packages into the other environment."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    ours = {
        "TMPDIR": str(scratch),
        "PYTHONUNBUFFERED": "1",
        "SGLANG_RETURN_ORIGINAL_LOGPROB": "1",
        "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1",
        "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",
        **({"SGLANG_USE_CPU_ENGINE": "1"} if settings["device"] == "cpu" else {}),
    }
    return {"TQDM_DISABLE": "1", **kept, **ours}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _when_dead(pid: int, call: Callable[[], None]) -> None:
    """Calls on the running loop, once, in the moment in which the process ends."""
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(pid)

    def ended() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        call()

    loop.add_reader(descriptor, ended)
