"""What is installed for an engine, by build: lists of pinned requirements that lie beside this file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from engineroom.errors import ArgumentError, nearest

Build: TypeAlias = Literal["cpu", "cuda"]

_LISTS = Path(__file__).parent / "requirements"
_FILES: Mapping[str, Mapping[Build, tuple[str, ...]]] = MappingProxyType(
    {
        "sglang": {"cpu": ("sglang-cpu", "sglang-cpu-bare"), "cuda": ("sglang-cuda",)},
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
    build: Build
    lists: tuple[Path, ...]
    in_process: bool

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"\0".join(file.read_bytes() for file in self.lists)).hexdigest()[:16]


def recipe(engine: str, build: Build) -> Recipe:
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
    if build not in _FILES[engine]:
        raise ArgumentError(
            f"there is no {build} build of the {engine} environment",
            why=f"builds: {', '.join(_FILES[engine])}",
            fix=f"engineroom env install {engine} --build {next(iter(_FILES[engine]))}",
        )
    files = tuple(_LISTS / f"{name}.txt" for name in _FILES[engine][build])
    return Recipe(engine, build, files, engine in _IN_PROCESS)


def builds_of(engine: str) -> tuple[Build, ...]:
    return tuple(_FILES.get(engine, dict.fromkeys(get_args(Build), ())))
