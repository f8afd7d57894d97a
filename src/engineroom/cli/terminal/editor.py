"""The user's own editor."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from engineroom.errors import ArgumentError

_USUAL = ("nano", "vim", "vi", "emacs")


def edit(text: str) -> str | None:
    """Opens ``text`` in ``$VISUAL`` or ``$EDITOR`` and returns it as saved; None if it was left unchanged or empty.

    Raises:
        ArgumentError: no editor can be run.
    """
    command = _command()
    handle, name = tempfile.mkstemp(prefix="engineroom-", suffix=".md")
    file = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the editor's while it runs
        try:
            code = subprocess.run([*command, name], check=False).returncode
        except OSError as error:
            raise _no_editor(f"{shlex.join(command)}: {error.strerror or error}") from error
        finally:
            signal.signal(signal.SIGINT, before)
        if code != 0:
            raise _no_editor(f"{shlex.join(command)} ended with exit code {code}")
        edited = file.read_text(encoding="utf-8", errors="replace").strip()
    finally:
        file.unlink(missing_ok=True)
    return edited if edited and edited != text.strip() else None


def _command() -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        if named := os.environ.get(variable, "").strip():
            return shlex.split(named)
    found = next((name for name in _USUAL if shutil.which(name)), None)
    if found is None:
        raise _no_editor("neither VISUAL nor EDITOR is set, and no usual editor is installed")
    return [found]


def _no_editor(why: str) -> ArgumentError:
    return ArgumentError(
        "the message can't be edited in an editor",
        why=why,
        fix="set EDITOR to one, as in EDITOR=nano, or give the new text: /edit NEW TEXT",
    )
