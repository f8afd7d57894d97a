"""Where the command line keeps its own files: conversations and the prompt's history."""

from __future__ import annotations

import os
from pathlib import Path

from engineroom.home import home as home

HISTORY_VARIABLE = "ENGINEROOM_HISTORY"


def history_wanted() -> bool:
    """Is keeping conversations on? ``ENGINEROOM_HISTORY=0`` (or ``false``, ``no``, ``off``) turns it off."""
    return os.environ.get(HISTORY_VARIABLE, "1").strip().lower() not in ("0", "false", "no", "off")


def private_file(path: Path) -> Path:
    """Makes the file and its folder if need be, readable by their owner only. May raise OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    return path
