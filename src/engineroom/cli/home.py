"""Where the command line keeps its own files: conversations and the prompt's history."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "ENGINEROOM_HOME"
HISTORY_VARIABLE = "ENGINEROOM_HISTORY"


def home() -> Path:
    """``ENGINEROOM_HOME``, or the system's folder for a user's data. Not created here."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named).expanduser()
    from platformdirs import user_data_dir

    return Path(user_data_dir("engineroom", appauthor=False))


def history_wanted() -> bool:
    """Is keeping conversations on? ``ENGINEROOM_HISTORY=0`` (or ``false``, ``no``, ``off``) turns it off."""
    return os.environ.get(HISTORY_VARIABLE, "1").strip().lower() not in ("0", "false", "no", "off")


def private_file(path: Path) -> Path:
    """Makes the file and its folder if need be, readable by their owner only. May raise OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    return path
