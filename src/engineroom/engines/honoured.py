"""What an engine that passes arguments on to its library would have to ignore."""

from __future__ import annotations

from collections.abc import Mapping

from engineroom.config import Arguments
from engineroom.errors import ArgumentError


def check_honoured(
    arguments: Arguments, engine: str, *, foreign: Mapping[str, str], reserved: Mapping[str, str]
) -> None:
    """
    Args:
        engine: its word in ``infer_backend``; ``<engine>_config`` holds its library's own arguments.
        foreign: arguments that only other engines honour → what to do instead.
        reserved: the library's arguments that engineroom sets itself → our argument for it; empty where there is none.

    Raises:
        ArgumentError: an argument that this engine would have to ignore.
    """
    defaults = type(arguments).model_fields
    for name, instead in foreign.items():
        if getattr(arguments, name) != defaults[name].default:
            raise ArgumentError(
                f"{name} is not supported by the {engine} engine",
                why=instead,
                fix=f"leave {name} out, or use infer_backend=huggingface",
                argument=name,
            )
    config = f"{engine}_config"
    for name, instead in reserved.items():
        if name in (getattr(arguments, config) or {}):
            raise ArgumentError(
                f"{config} can't hold {name}",
                why="engineroom sets it" + (f", by {instead}" if instead else ""),
                fix=f"use {instead} instead" if instead else f"leave {name} out",
                argument=config,
            )
