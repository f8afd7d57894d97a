"""Makes an engine's environment with ``venv`` and ``pip``."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from engineroom import machine
from engineroom.environments.installed import MARKER, InstalledEnvironment, find, folder_of
from engineroom.environments.recipes import Recipe, builds_of, recipe
from engineroom.errors import EngineStartError

_STAGES = ("Collecting", "Downloading", "Building", "Installing")
"""How the lines of pip begin that tell what it is at."""

_QUOTED = 12


def choose(engine: str, build: str | None) -> Recipe:
    """The recipe for this machine, unless ``build`` says otherwise: with an NVIDIA GPU the CUDA build, if there is one.

    Raises:
        ArgumentError: there is no such engine or build.
    """
    if build is None:
        build = "cuda" if machine.gpus() and "cuda" in builds_of(engine) else "cpu"
    return recipe(engine, build)


def commands(chosen: Recipe, folder: Path) -> list[list[str]]:
    """What makes the environment, in order."""
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    steps = [[sys.executable, "-m", "venv", str(folder)]]
    for file in chosen.lists:
        bare = ["--no-deps"] if file.stem.endswith("-bare") else []
        steps.append([*pip, *bare, "-r", str(file)])
    if chosen.in_process:
        steps.append([*pip, _own_requirement()])
    return steps


def install(
    chosen: Recipe, report: Callable[[str], None], *, folder: Path | None = None, recreate: bool = False
) -> InstalledEnvironment:
    """Makes the environment, or finds it made.

    Args:
        report: is told what is being done, a line each.
        folder: another place than the one where engines look.
        recreate: make it anew, whatever is there.

    Raises:
        EngineStartError: venv or pip failed; its last lines are in the message.
    """
    folder = folder or folder_of(chosen.engine)
    there = find(chosen.engine, folder)
    if there is not None and not recreate and there.fingerprint == chosen.fingerprint:
        return there
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{folder.name}-install.log"
    log.write_text("", encoding="utf-8")
    for command in commands(chosen, folder):
        _run(command, log, report)
    marker = {"engine": chosen.engine, "build": chosen.build, "fingerprint": chosen.fingerprint}
    (folder / MARKER).write_text(json.dumps(marker), encoding="utf-8")
    log.unlink()
    return InstalledEnvironment(chosen.engine, chosen.build, folder, chosen.fingerprint)


def _run(command: Sequence[str], log: Path, report: Callable[[str], None]) -> None:
    report(shlex.join(command))
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")
    }
    lines: list[str] = []
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**environment, "PIP_PROGRESS_BAR": "off"},
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                lines = [*lines[1 - _QUOTED :], line.strip()]
                if line.strip().startswith(_STAGES):
                    report(line.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise EngineStartError(
            f"the environment could not be made: {Path(command[0]).name} ended with {process.returncode}",
            why=" | ".join(line for line in lines if line),
            fix=f"everything that it said is in {log}; run the command again when that is mended",
        )


def _own_requirement() -> str:
    """engineroom as it is here: its source folder if it runs from one, else its version."""
    source = metadata.distribution("engineroom").read_text("direct_url.json")
    url = json.loads(source).get("url", "") if source else ""
    return (
        url.removeprefix("file://")
        if url.startswith("file://")
        else f"engineroom=={metadata.version('engineroom')}"
    )
