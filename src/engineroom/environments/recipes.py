"""What is installed for an engine, by build: lists of pinned requirements that lie beside this file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from engineroom.errors import ArgumentError, nearest

_LISTS = Path(__file__).parent / "requirements"
_FILES: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "sglang": {"cpu": ("sglang-cpu", "sglang-cpu-bare"), "cuda": ("sglang-cuda", "sglang-cuda-bare")},
        "vllm": {"cpu": ("vllm-cpu", "vllm-cpu-bare"), "cuda": ("vllm-cuda",)},
        "ktransformers": {"cpu": ("ktransformers", "ktransformers-bare")},
    }
)
_IN_PROCESS = ("vllm", "ktransformers")


@dataclass(frozen=True, slots=True)
class Recipe:
    """
    Attributes:
        lists: requirement files, installed in order; those whose name ends in ``-bare`` without their dependencies.
        in_process: the engine's library is imported by engineroom, which therefore has to be in the environment too.
    """

    engine: str
    build: str
    lists: tuple[Path, ...]
    in_process: bool

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"\0".join(file.read_bytes() for file in self.lists)).hexdigest()[:16]


def recipe(engine: str, build: str) -> Recipe:
    """
    Raises:
        ArgumentError: there is none.
    """
    if engine not in _FILES:
        guess = nearest(engine, _FILES)
        raise ArgumentError(
            f"there is no environment to install for {engine!r}",
            why=f"engines that can have one: {', '.join(_FILES)}",
            fix=f"engineroom env install {guess}" if guess else "name one of them",
        )
    files: Mapping[str, tuple[str, ...]] = _FILES[engine]
    if build not in files:
        raise ArgumentError(
            f"there is no {build} build of the {engine} environment",
            why=f"builds: {', '.join(files)}",
            fix=f"engineroom env install {engine} --build {next(iter(files))}",
        )
    lists = tuple(_LISTS / f"{name}.txt" for name in files[build])
    return Recipe(engine, build, lists, engine in _IN_PROCESS)


def builds_of(engine: str) -> tuple[str, ...]:
    return tuple(_FILES.get(engine, ()))
