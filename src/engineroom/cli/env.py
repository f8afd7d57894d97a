"""``engineroom env``: what there is here, and what is missing."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from engineroom.cli.command import JsonFlag, refuse_settings, settings_of
from engineroom.cli.console import BOLD, DIM, GREEN, YELLOW, columns, paint, print_json, quantity, size
from engineroom.cli.env_install import env_install
from engineroom.errors import ArgumentError

if TYPE_CHECKING:
    from engineroom.environment import EngineFacts, Environment

EXAMPLES = """\
engineroom env                   engines found here, and why one is missing
engineroom env --capabilities    what each engine can do
engineroom env --devices         ask torch for its devices, too (seconds)
engineroom env --json            for a bug report
engineroom env vllm_python=/opt/vllm/bin/python    look for vLLM in another Python environment
engineroom env install sglang    make the environment of its own that SGLang needs (gigabytes, minutes)
engineroom env install sglang --dry-run
"""

CapabilityRows: TypeAlias = Mapping[str, Mapping[str, str]]

_STYLES = {"ready": GREEN, "missing": YELLOW}


def env(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="install ENGINE", help="Make an engine's environment.", show_default=False),
    ] = None,
    build: Annotated[
        str | None,
        typer.Option("--build", help="install: cpu or cuda; without it, what this machine has."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", metavar="FOLDER", help="install: make it there, for sglang_python or vllm_python."
        ),
    ] = None,
    recreate: Annotated[
        bool, typer.Option("--recreate", help="install: make it anew, whatever is there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="install: show the commands, and run none.")
    ] = False,
    capabilities: Annotated[
        bool, typer.Option("--capabilities", help="Show what each engine can do, parameter by parameter.")
    ] = False,
    devices: Annotated[
        bool,
        typer.Option("--devices", help="Ask torch which devices it can use; importing it takes seconds."),
    ] = False,
    as_json: JsonFlag = False,
) -> int:
    """Show the engines found here, and why one is missing; or install an engine's environment.

    `env install ENGINE` makes a Python environment with the versions that this engineroom was tested with, under the
    user's data. SGLang is used from there without further settings; for the others the last line says how.

    And Python, memory, GPUs, the shipped models and the versions of libraries. With --json: engineroom, python, platform, cores, memory, gpus, engines (name, state, version, summary, why, fix),
    models, packages, variables; capabilities and devices where asked for. Sizes are in bytes.
    """
    if words:
        refuse_settings(context, "env")
        return env_install(words, build, folder, recreate=recreate, dry_run=dry_run)
    if build or folder or recreate or dry_run:
        raise ArgumentError(
            "--build, --folder, --recreate and --dry-run belong to install",
            fix="engineroom env install sglang",
        )
    from engineroom.environment import capability_rows, torch_devices

    here = _inspected(context)
    found = torch_devices() if devices else None
    rows = capability_rows() if capabilities else None
    if as_json:
        print_json(_as_json(here, found, rows))
    else:
        _show(here, found, rows)
    return 0


def _inspected(context: typer.Context) -> Environment:
    """
    Raises:
        ArgumentError: settings were given that are no engine's interpreter.
    """
    from engineroom.engines import registry
    from engineroom.environment import inspect

    pythons = [spec.python_argument for spec in registry.engines().values() if spec.python_argument]
    refuse_settings(context, "env", allowed=pythons)
    return inspect({name: str(value) for name, value in settings_of(context).values().items()})


def _show(here: Environment, devices: tuple[str, ...] | None, rows: CapabilityRows | None) -> None:
    _show_place(here, devices)
    _show_engines(here.engines)
    _show_rest(here)
    if rows is not None:
        _show_capabilities(rows)


def _show_place(here: Environment, devices: tuple[str, ...] | None) -> None:
    memory = "unknown"
    if here.memory:
        memory = f"{size(here.memory.free)} free of {size(here.memory.total)}"
        memory += ", limited by a control group" if here.memory.limited else ""
    gpus = [
        f"{g.name}, {size(g.memory_free)} free of {size(g.memory_total)}, driver {g.driver}"
        for g in here.gpus
    ]
    rows = [
        ("engineroom", here.version),
        ("python", f"{here.python}, {here.executable}"),
        ("platform", here.platform),
        ("memory", memory),
        ("cores", str(here.cores)),
        ("gpus", "; ".join(gpus) or "none that nvidia-smi reports"),
        ("devices", ", ".join(devices) if devices else paint("not asked; add --devices", DIM, sys.stdout)),
    ]
    print(columns(rows, indent=""))


def _show_engines(engines: tuple[EngineFacts, ...]) -> None:
    _head("engines")
    rows = [(e.name, e.state, e.version or "-", e.summary) for e in engines]
    for engine, line in zip(engines, columns(rows).splitlines(), strict=True):
        print(line.replace(engine.state, paint(engine.state, _STYLES[engine.state], sys.stdout), 1))
        for name, text in (("why", engine.why), ("fix", engine.fix)):
            if text:
                print(f"      {paint(f'{name}:', DIM, sys.stdout)} {text}")


def _show_rest(here: Environment) -> None:
    _head("models that ship inside")
    print(columns([(m.name, quantity(m.parameters or 0), m.kind.replace("_", " ")) for m in here.models]))
    _head("packages")
    print(columns(list(here.packages.items())))
    if here.variables:
        _head("environment variables")
        print(columns(list(here.variables.items())))


def _show_capabilities(rows: CapabilityRows) -> None:
    _head("capabilities")
    engines = list(next(iter(rows.values())))
    print(columns([("", *engines), *((name, *(by[e] for e in engines)) for name, by in rows.items())]))
    print("  native: the engine's library does it; emulated: engineroom does it around the library;")
    print("  unsupported: refused by name before anything is generated")


def _head(title: str) -> None:
    print(f"\n{paint(title, BOLD, sys.stdout)}")


def _as_json(
    here: Environment, devices: tuple[str, ...] | None, rows: CapabilityRows | None
) -> dict[str, Any]:
    rest = dataclasses.asdict(here)
    version, python, executable = (rest.pop(name) for name in ("version", "python", "executable"))
    for model in rest["models"]:
        model["path"] = str(model["path"])
    asked = {"capabilities": rows, "devices": devices}
    return {
        "engineroom": version,
        "python": {"version": python, "executable": executable},
        **rest,
        **{name: value for name, value in asked.items() if value is not None},
    }
