"""The interpreter of another Python environment: is it one, is it new enough, does it have the libraries?"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engineroom.errors import ArgumentError, EngineNotInstalledError, EngineStartError

OLDEST = (3, 11)

PACKAGES = (("pydantic", "pydantic"), ("yaml", "pyyaml"), ("jinja2", "jinja2"))
"""What engineroom itself needs beside an engine: (import name, distribution name)."""

_LIMIT = 30.0
"""Seconds in which an interpreter has to say what it has; usual ones take 0.1."""

_MARK = "engineroom:"

# Old interpreters have to be able to read it.
_QUESTION = """
import json, sys
versions = {}
if sys.version_info >= (3, 8):
    from importlib import metadata, util
    for module, names in json.loads(sys.argv[2]):
        if util.find_spec(module) is None:
            continue
        versions[module] = ""
        for name in names:
            try:
                versions[module] = metadata.version(name)
                break
            except metadata.PackageNotFoundError:
                pass
print(sys.argv[1] + json.dumps([list(sys.version_info[:3]), versions]))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python environment's interpreter, found good.

    Attributes:
        path: as it was named; a virtual environment's interpreter is a link that must not be followed.
        versions: the version of each library that was asked for, by its import name; empty where none is told.
    """

    path: Path
    versions: Mapping[str, str]


def inspect_interpreter(
    argument: str, named: str, packages: Sequence[tuple[str, str]], other_builds: Sequence[str] = ()
) -> Interpreter:
    """Asks the interpreter. Blocks for a tenth of a second, and at most for half a minute.

    Args:
        argument: the setting that names it, for errors.
        named: a path or a command's name.
        packages: (import name, distribution name) of what must be there, beside what engineroom needs; the last one is
            the engine library.
        other_builds: distributions that hold the engine library under another name.

    Raises:
        ArgumentError: it is no Python interpreter.
        EngineNotInstalledError: it is too old, or a library is missing.
        EngineStartError: it does not answer.
    """
    path = find_interpreter(argument, named)
    wanted = {module: [distribution] for module, distribution in (*PACKAGES, *packages)}
    if packages:
        wanted[packages[-1][0]] += other_builds
    version, versions = _answer(
        argument, named, _ask(argument, named, path, json.dumps(list(wanted.items())))
    )
    if version < OLDEST:
        raise EngineNotInstalledError(
            f"{argument}={named} is Python {'.'.join(map(str, version))}",
            why=f"engineroom needs {'.'.join(map(str, OLDEST))} or newer there, too",
            fix=f"make that environment anew: python{'.'.join(map(str, OLDEST))} -m venv …",
        )
    missing = {module: names[0] for module, names in wanted.items() if module not in versions}
    if missing:
        raise EngineNotInstalledError(
            f"{argument}={named} has no module {', '.join(missing)}",
            fix=f"{path} -m pip install {' '.join(missing.values())}",
        )
    return Interpreter(path, versions)


def find_interpreter(argument: str, named: str) -> Path:
    """
    Raises:
        ArgumentError: there is no such file, or it can't be run.
    """
    path = Path(named).expanduser()
    found = shutil.which(path)
    if found is None:
        inside = path / "bin" / "python"
        raise ArgumentError(
            f"{argument}={named} is not a Python interpreter",
            why="it is a folder" if path.is_dir() else "there is no such program",
            fix=f"{argument}={inside}"
            if inside.is_file()
            else "name the python of an environment: …/bin/python",
            argument=argument,
        )
    return Path(found).absolute()


def environment(path: Path, packages: Path | None = None) -> dict[str, str]:
    """This process's variables for a program of the other environment: nothing of this one's packages leaks in.

    Args:
        packages: a folder to import from, before the environment's own.
    """
    variables = {name: value for name, value in os.environ.items() if name not in _OWN}
    variables["PATH"] = os.pathsep.join(filter(None, (str(path.parent), os.environ.get("PATH"))))
    variables["PYTHONSAFEPATH"] = "1"  # no import of what happens to lie in the working directory
    if packages is not None:
        variables["PYTHONPATH"] = str(packages)
    return variables


_OWN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__", "VIRTUAL_ENV")
"""Variables that belong to one Python environment."""


def _ask(argument: str, named: str, path: Path, wanted: str) -> str:
    """What it printed. Whatever it is that was named is ended, with what it has started."""
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [path, "-c", _QUESTION, _MARK, wanted],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(path),
                start_new_session=True,
            )
        except OSError as error:
            raise _no_interpreter(argument, named, str(error)) from error
        try:
            process.wait(_LIMIT)
        except subprocess.TimeoutExpired as error:
            raise EngineStartError(
                f"{argument}={named} did not answer within {_LIMIT:g} seconds",
                why="it was asked for its version and its libraries",
                fix=f"see what hangs: {path} -c 'print(1)'",
            ) from error
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return output.read().decode("utf-8", errors="replace")


def _answer(argument: str, named: str, output: str) -> tuple[tuple[int, ...], dict[str, str]]:
    line = next((line for line in output.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        said = output.strip().splitlines()
        raise _no_interpreter(argument, named, said[-1][:200] if said else "it says nothing")
    version, versions = json.loads(line.removeprefix(_MARK))
    return tuple(version), versions


def _no_interpreter(argument: str, named: str, why: str) -> ArgumentError:
    return ArgumentError(
        f"{argument}={named} is not a Python interpreter",
        why=why,
        fix="name the python of an environment: …/bin/python",
        argument=argument,
    )
