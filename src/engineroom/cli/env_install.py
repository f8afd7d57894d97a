"""``engineroom env install ENGINE``: an engine's own environment, its progress on the terminal."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engineroom.errors import ArgumentError

if TYPE_CHECKING:
    from engineroom.environments import InstalledEnvironment


def env_install(
    words: list[str], build: str | None, folder: Path | None, *, recreate: bool, dry_run: bool
) -> int:
    """
    Raises:
        ArgumentError: the words are not ``install ENGINE``, or there is no such engine or build.
        EngineStartError: venv or pip failed.
    """
    from engineroom.environments.install import choose, commands, install
    from engineroom.environments.installed import folder_of

    if len(words) != 2 or words[0] != "install":
        raise ArgumentError(
            f"engineroom env can't do {' '.join(words)!r}",
            why="it can install an engine",
            fix="engineroom env install sglang",
        )
    chosen = choose(words[1], build)
    usual = folder_of(chosen.engine)
    folder = usual if folder is None else folder.absolute()
    if dry_run:
        print("\n".join(map(shlex.join, commands(chosen, folder))))
        return 0
    made = install(chosen, _report, folder=folder, recreate=recreate)
    print(f"{made.engine} ({made.build}) is in {made.folder}")
    print(_how_to_use(made, found=folder == usual))
    return 0


def _how_to_use(made: InstalledEnvironment, *, found: bool) -> str:
    """
    Args:
        found: it is where engines look that look by themselves.
    """
    from engineroom.engines import registry

    spec = registry.find(made.engine)
    named = spec.python_argument or (f"{spec.name}_python" if spec.elsewhere else "")
    if not named:
        return f"run it with {made.folder / 'bin' / 'engineroom'} … infer_backend={spec.name}"
    if spec.elsewhere and found:
        return f"infer_backend={spec.name} finds it there, without {named}={made.python}"
    return f"use it with infer_backend={spec.name} {named}={made.python}"


def _report(line: str) -> None:
    """What is being done, on standard error: on a terminal in one line that changes."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line[:100]}", end="\n" if line.startswith("/") else "", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)
