"""vLLM's log: the engine process writes into it from outside, this process through ``STREAM``."""

from __future__ import annotations

import sys

from engineroom.engines.process.log import EngineLog

ECHOES = (
    "Engine core initialization failed",
    "EngineCore encountered an issue",
    "WorkerProc initialization",
)
"""vLLM's exceptions that only say that there was another."""


def vllm_log() -> EngineLog:
    return EngineLog("vllm", ECHOES)


class LogStream:
    """What ``VLLM_LOGGING_STREAM`` names. In the engine's process, where nobody sets ``log``, it is the output."""

    def __init__(self) -> None:
        self.log: EngineLog | None = None

    def write(self, text: str) -> int:
        if self.log is not None:
            self.log.write(text)
        else:
            sys.stdout.write(text)
        return len(text)

    def flush(self) -> None:
        if self.log is None:
            sys.stdout.flush()


STREAM = LogStream()
"""This process's side. vLLM has one logger for all engines of a process; the newest engine's log gets its lines."""

STREAM_NAME = f"ext://{__name__}.STREAM"
