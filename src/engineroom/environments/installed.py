"""The environments that are there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from engineroom.home import home

MARKER = "engineroom.json"
"""Written last, so that an installation that was interrupted is none."""


@dataclass(frozen=True, slots=True)
class InstalledEnvironment:
    """
    Attributes:
        build: cpu or cuda.
        fingerprint: of the lists that it was made from.
    """

    engine: str
    build: str
    folder: Path
    fingerprint: str

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def version(self, distribution: str) -> str | None:
        """Of a package in it."""
        folders = [str(folder) for folder in self.folder.glob("lib/python*/site-packages")]
        found = next(iter(metadata.distributions(name=distribution, path=folders)), None)
        return found.version if found else None


def folder_of(engine: str) -> Path:
    return home() / "envs" / engine


def find(engine: str, folder: Path | None = None) -> InstalledEnvironment | None:
    """The engine's environment, if it was installed to its end.

    Args:
        folder: another place than the one where engines look.
    """
    folder = folder or folder_of(engine)
    try:
        told: dict[str, Any] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        found = InstalledEnvironment(engine, str(told["build"]), folder, str(told["fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.python.exists() else None
