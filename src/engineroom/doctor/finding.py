"""One thing that is wrong, or that one should know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from engineroom.errors import EngineroomError

Severity: TypeAlias = Literal["problem", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem keeps the model from loading; a warning does not. ``what``, ``why`` and ``fix`` as in errors."""

    severity: Severity
    what: str
    why: str = ""
    fix: str = ""


def problem(what: str, why: str = "", fix: str = "") -> Finding:
    return Finding("problem", what, why, fix)


def warning(what: str, why: str = "", fix: str = "") -> Finding:
    return Finding("warning", what, why, fix)


def from_error(error: EngineroomError) -> Finding:
    """The problem that loading would end with."""
    return problem(error.what, error.why, error.fix)
