"""Where engineroom keeps what is the user's: conversations, and environments of engines."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "ENGINEROOM_HOME"
"""Names another folder than the system's own for a user's data."""


def home() -> Path:
    """``ENGINEROOM_HOME``, or the system's folder for a user's data. Not created here."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named).expanduser()
    from platformdirs import user_data_dir

    return Path(user_data_dir("engineroom", appauthor=False))
