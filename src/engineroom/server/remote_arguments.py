"""Which of the model's arguments may come over HTTP, and which folders they may name.

An admin chooses among models; what runs code, opens a connection or names a place on this machine's disk is chosen by
whoever starts the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engineroom.config import Arguments, parse_arguments
from engineroom.errors import ArgumentError
from engineroom.server.settings import ServerSettings

HERE_ONLY = frozenset(
    {
        "trust_remote_code",
        "hf_hub_token",
        "cache_dir",
        "adapter_folder",
        "offload_folder",
        "vllm_config",
        "vllm_python",
        "sglang_config",
        "sglang_python",
        "sglang_url",
        "kt_weight_path",
    }
)
"""Arguments that only the command line, the environment and the configuration file set."""

_NAMED_TEMPLATES = (None, "chatml", "auto", "default")


def changed(now: Arguments, given: Mapping[str, Any], settings: ServerSettings) -> Arguments:
    """The arguments in force with those of a request over them; null takes one back to its default.

    Raises:
        ArgumentError: one is unknown, mistyped or out of range, is not set over HTTP, or names a folder that this server
            may not load from.
    """
    values = now.model_dump(exclude_unset=True)
    for name, value in given.items():
        if name in HERE_ONLY:
            raise ArgumentError(
                f"{name} is not set over HTTP",
                why="it runs code, opens connections or names places on the server's disk",
                fix="start the server with it",
                argument=name,
            )
        if value is None and name in Arguments.model_fields:
            values.pop(name, None)
        else:
            values[name] = value
    wanted = parse_arguments(values)
    places = {
        "model_name_or_path": _model(wanted, now, settings),
        "template": _template(wanted, now, settings),
        "adapter_name_or_path": _adapters(wanted, now, settings),
    }
    return parse_arguments(wanted, **{name: place for name, place in places.items() if name in values})


def inside(allowed: Path | None, path: str) -> Path | None:
    """The real place of a path below a folder; None if there is no such folder, or the path leads out of it."""
    if allowed is None:
        return None
    try:
        place = (allowed / path).resolve()
        return place if place.is_relative_to(allowed.resolve()) and place.exists() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _model(wanted: Arguments, now: Arguments, settings: ServerSettings) -> str:
    """A shipped model's name or a hub repository's as it is; whatever could be a path must be in the models' folder."""
    name = wanted.model_name_or_path
    if name == now.model_name_or_path:
        return name
    place = inside(settings.model_folder, name)
    if place is not None:
        return str(place)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or _is_path(name, settings.model_folder):
        raise _outside("model_name_or_path", "model", "--model-folder")
    return name


def _template(wanted: Arguments, now: Arguments, settings: ServerSettings) -> str | None:
    choice = wanted.template
    if choice in _NAMED_TEMPLATES or choice == now.template:
        return choice
    place = inside(settings.model_folder, choice)
    if place is not None:
        return str(place)
    if "/" in choice or _is_path(choice, settings.model_folder):
        raise _outside("template", "template", "--model-folder")
    return choice


def _adapters(wanted: Arguments, now: Arguments, settings: ServerSettings) -> tuple[str, ...]:
    places: list[str] = []
    for name in wanted.adapter_name_or_path:
        place = inside(settings.lora_folder, name)
        if name not in now.adapter_name_or_path and place is None:
            raise _outside("adapter_name_or_path", "adapter", "--lora-folder")
        places.append(name if name in now.adapter_name_or_path else str(place))
    return tuple(places)


def _is_path(name: str, folder: Path | None) -> bool:
    """Does something lie there, as seen from the server, or in its folder, as a link that leads out of it?"""
    try:
        return "\0" in name or Path(name).exists() or (folder is not None and (folder / name).exists())
    except OSError:
        return False


def _outside(argument: str, what: str, flag: str) -> ArgumentError:
    """Whether something is there is not told."""
    return ArgumentError(
        f"{argument}: there is no such {what} that may be loaded over HTTP",
        why=f"folders are loaded from below the server's {flag} alone",
        fix=f"start the server with {flag} FOLDER, and name what lies in it",
        argument=argument,
    )
