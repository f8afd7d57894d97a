"""The models that ship inside the package, by name: nothing to download, no account, no GPU."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

_HERE = Path(__file__).parent
_FOLDERS = MappingProxyType({"demo": "chat", "demo-moe": "moe", "demo-reward": "reward"})

NAMES: tuple[str, ...] = tuple(_FOLDERS)


def resolve(name: str) -> Path | None:
    """The folder of the shipped model called ``name``, or None if there is none."""
    folder = _FOLDERS.get(name)
    return _HERE / folder if folder else None
