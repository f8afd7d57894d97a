"""Which Python SGLang is in."""

from __future__ import annotations

import os
import shutil
import sys
from importlib import util
from pathlib import Path

from engineroom import environments
from engineroom.errors import ArgumentError, EngineNotInstalledError


def find_interpreter(named: str | None) -> Path:
    """
    Args:
        named: ``sglang_python``: a path, or a command on the PATH.

    Raises:
        ArgumentError: there is no such interpreter.
        EngineNotInstalledError: none is named, and SGLang is neither in an environment of its own nor here.
    """
    if named is not None:
        found = shutil.which(os.path.expanduser(named))  # noqa: PTH111 - a command has no path yet
        if found is None:
            raise ArgumentError(
                f"sglang_python={named!r} is not a program that can be run",
                why="it is the Python of the environment that SGLang is installed in",
                fix="engineroom env install sglang, and leave it out",
                argument="sglang_python",
            )
        return Path(found).absolute()
    environment = environments.find("sglang")
    if environment is not None:
        return environment.python
    if util.find_spec("sglang") is not None:
        return Path(sys.executable)
    raise EngineNotInstalledError(
        "the sglang engine can't run here",
        why="SGLang is neither in an environment of its own nor in this one",
        fix="engineroom env install sglang",
    )
