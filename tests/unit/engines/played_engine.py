"""What runs in the other environment in test_hosted.py: a scripted engine that the last message tells what to do."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import engineroom
from engineroom import Prompt, Reply, SamplingParams, ScriptedEngine
from engineroom.engines.pooling import Pooling
from engineroom.errors import ModelLoadError, ParameterError, UnsupportedError


class Played(ScriptedEngine):
    made = 0

    @classmethod
    def from_arguments(cls, arguments: Any) -> "Played":
        engine = cls(None, context_length=arguments.model_maxlen or 4096, max_concurrency=7)
        engine._answer = engine.play
        engine.pooling = Pooling("mean", False, 77)
        engine.lacks = {"images": "blind"}
        return engine

    def play(self, prompt: Prompt, params: SamplingParams) -> str | Reply:
        said = prompt.text.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
        match said.split():
            case ["where"]:
                return "\n".join([sys.prefix, str(Path(engineroom.__file__).parent), *sys.path])
            case ["made"]:
                return str(self.made)
            case ["long"]:
                return "x" * 2000
            case ["wait"]:
                return Reply("wait", pause_at=1)
            case ["fail"]:
                return Reply(error=RuntimeError("deep down"))
            case ["stranger"]:
                raise KeyError("who?")
            case ["die"]:
                return Reply(die=True)
            case ["leave"]:
                print("I have had enough", flush=True)
                os._exit(3)
            case ["child"]:
                child = subprocess.Popen(["sleep", "600"], start_new_session=True)
                return str(child.pid)
            case ["pid"]:
                return str(os.getpid())
            case ["nonsense"]:
                os.write(int(sys.argv[1]), b"\xff" * 64)
                return Reply("wait", pause_at=1)
            case ["hang"]:
                threading.Event().wait()
        return said

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Any, None]:
        async for chunk in super().generate(prompt, params):
            self.made += 1
            yield chunk

    async def prepare(self, params: SamplingParams) -> None:
        if params.seed == 13:
            raise ParameterError("seed=13 is not allowed", why="bad luck", fix="seed=14", parameter="seed")
        if params.seed == 14:
            raise UnsupportedError("seed", "played", ["lucky", "other"])

    async def embed(self, prompts: Any) -> list[tuple[float, ...]]:
        return [(float(len(prompt)), 0.5) for prompt in prompts]

    async def load_adapter(self, name: str, path: Path) -> None:
        if name == "bad":
            raise ModelLoadError(f"no adapter in {path}")
        self.adapters = {**self.adapters, name: path}

    async def unload_adapter(self, name: str) -> None:
        self.adapters = {other: path for other, path in self.adapters.items() if other != name}

    async def flush_cache(self) -> None:
        self.lacks = {**self.lacks, "flush_cache": "flushed"}

    async def update_weights(self, path: Path) -> None:
        raise ModelLoadError(f"no weights in {path}")

    async def sleep(self) -> None:
        self._state = "sleeping"

    async def wake(self) -> None:
        self._state = "ready"


class Scorer(ScriptedEngine):
    @classmethod
    def from_arguments(cls, arguments: Any) -> "Scorer":
        return cls(scorer=lambda prompt: len(prompt) / 3)


class Broken(ScriptedEngine):
    """``model_name_or_path`` says how."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    @classmethod
    def from_arguments(cls, arguments: Any) -> "Broken":
        return cls(arguments.model_name_or_path)

    async def start(self, progress: Any) -> None:
        progress("breaking", 0.5)
        if self.how == "raises":
            raise ModelLoadError("no weights", why="they are gone", fix="look again")
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "leaves":
            print("MemoryError: it was too much", file=sys.stderr, flush=True)
            os._exit(1)
        threading.Event().wait()
