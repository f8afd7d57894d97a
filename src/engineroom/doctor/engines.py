"""Which engine would take the model, and why another would not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path
from typing import cast

from engineroom.checkpoint import Checkpoint, CheckpointKind, TensorInfo
from engineroom.config import Arguments
from engineroom.doctor.finding import Finding, problem, warning
from engineroom.engines import registry

_TASKS = {
    "causal": "CAUSAL_LM",
    "value_head": "CAUSAL_LM",
    "sequence_classification": "SEQUENCE_CLASSIFICATION",
}


@dataclass(frozen=True, slots=True)
class EngineVerdict:
    """Would this engine take the model?"""

    name: str
    can: bool
    why: str
    fix: str = ""


def engine_verdicts(
    problems: list[Finding], arguments: Arguments, tensors: Sequence[TensorInfo]
) -> list[EngineVerdict]:
    """Every engine that takes a model, and the chosen one.

    Args:
        problems: those of the model itself; what one engine can't load, none can.
        tensors: of its weights, as far as they are here and can be read.
    """
    verdicts: list[EngineVerdict] = []
    for spec in registry.engines().values():
        found = spec.presence(spec.python(arguments))
        if found.why:
            verdicts.append(EngineVerdict(spec.name, False, found.why, found.fix))
        elif not spec.packages:  # the scripted engine
            if spec.name == arguments.infer_backend:
                verdicts.append(EngineVerdict(spec.name, True, "it plays a script and reads no model"))
        elif problems:
            verdicts.append(EngineVerdict(spec.name, False, problems[0].what))
        elif spec.name == "ktransformers" and tensors and not any(is_expert(t.name) for t in tensors):
            verdicts.append(EngineVerdict(spec.name, False, "the model has no experts"))
        else:
            verdicts.append(EngineVerdict(spec.name, True, f"version {found.version}"))
    return verdicts


def is_expert(weight: str) -> bool:
    """Is this a weight of the experts that a router chooses from? All of Transformers' sparse models call them so."""
    return ".experts." in weight


def architecture_findings(
    arguments: Arguments, checkpoint: Checkpoint, kind: CheckpointKind
) -> list[Finding]:
    """Does the installed Transformers know the architecture, or would the model's own code have to run?"""
    model_type = str(checkpoint.config.get("model_type", ""))
    known = _known_model_types(_TASKS.get(kind, "CAUSAL_LM"))
    brings_code = isinstance(checkpoint.config.get("auto_map"), Mapping)
    if not known or model_type in known:
        if brings_code and not arguments.trust_remote_code:
            return [
                warning(
                    "the model brings Python code, which is not run", "Transformers knows this architecture"
                )
            ]
        return []
    if brings_code and arguments.trust_remote_code:
        return [warning("the model's own Python code will run", "trust_remote_code=true")]
    if brings_code:
        return [problem(
            f"{checkpoint.architecture} is code that comes with the model, and it may not run",
            f"Transformers {_version()} does not know model_type {model_type!r}",
            "read that code; if you trust it, add trust_remote_code=true",
        )]  # fmt: skip
    return [problem(
        f"Transformers {_version()} does not know {checkpoint.architecture}",
        f"config.json says model_type {model_type!r}" if model_type else "config.json has no model_type",
        "pip install --upgrade transformers" if model_type else "name a folder with a whole config.json",
    )]  # fmt: skip


def _version() -> str:
    return registry.find("huggingface").version or ""


@cache
def _known_model_types(task: str) -> frozenset[str]:
    """The model types in Transformers' table for a task, read from its source: importing it would import torch.

    Empty if the table is not where it was (transformers 5.19, models/auto/modeling_auto.py); then nothing is claimed.
    """
    spec = util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return frozenset()
    try:
        source = (Path(spec.origin).parent / "models/auto/modeling_auto.py").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    table = re.search(
        rf"^MODEL_FOR_{task}_MAPPING_NAMES = OrderedDict\((.*?)^\)", source, re.DOTALL | re.MULTILINE
    )
    names = cast("list[str]", re.findall(r'\(\s*"([^"]+)",', table[1])) if table else []
    return frozenset(names)
