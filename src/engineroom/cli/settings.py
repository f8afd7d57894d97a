"""Settings among a command's words: ``key=value``, ``--key value``, ``--key=value`` and configuration files, anywhere.

What is a setting is decided by form alone, before any value is looked at, so splitting never fails. Names and values
are checked when the command asks for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engineroom.config import Arguments

_ASSIGNMENT = re.compile(r"(?:--)?([A-Za-z_][A-Za-z0-9_-]*)=(.*)", re.DOTALL)
_LONG = re.compile(r"--([A-Za-z_][A-Za-z0-9_-]*)")
_CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
_TRUTH = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0"})


@dataclass(frozen=True, slots=True)
class OwnOptions:
    """The options that a command has itself, as they are typed (``-p``, ``--json``): with a value, and without."""

    valued: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that were given: configuration files first, then single settings, later ones winning."""

    configs: tuple[Path, ...] = ()
    assignments: tuple[tuple[str, str], ...] = ()
    known_options: tuple[str, ...] = field(default=(), repr=False)

    def values(self) -> dict[str, Any]:
        """Every setting by name, read but not yet checked.

        Raises:
            ArgumentError: a file can't be read, or a word is the name of neither a setting nor an option.
        """
        from engineroom.config import parse_words, read_config

        values: dict[str, Any] = {}
        for path in self.configs:
            values.update(read_config(path))
        for name, text in self.assignments:
            self._refuse_mistyped_option(name)
            values.update(parse_words([f"{name}={text}"]))
        return values

    def arguments(self, **defaults: Any) -> Arguments:
        """The checked arguments. ``defaults`` hold where nothing else was said; None leaves the usual default.

        Raises:
            ArgumentError: a setting is unknown, mistyped or out of range.
        """
        from engineroom.config import parse_arguments

        given = {name: value for name, value in defaults.items() if value is not None}
        return parse_arguments({**given, **self.values()})

    def _refuse_mistyped_option(self, name: str) -> None:
        """``--jsno`` is nearer to this command's own ``--json`` than to any setting."""
        from engineroom.config import OTHER_NAMES, argument_names
        from engineroom.errors import UnknownArgumentError, nearest

        if name in argument_names() or name in OTHER_NAMES:
            return
        own = {option.lstrip("-").replace("-", "_"): option for option in self.known_options}
        guess = nearest(name, (*argument_names(), *own))
        if guess in own:
            raise UnknownArgumentError(
                f"unknown option --{name}", fix=f"did you mean {own[guess]}?", argument=name
            )


@dataclass(frozen=True, slots=True)
class Split:
    """A command's words, sorted: its settings, and the words that are its own."""

    settings: Settings
    own: tuple[str, ...]


def split(words: Sequence[str], options: OwnOptions) -> Split:
    """Sorts a command's words. ``--`` ends the settings: what follows is the command's own, whatever it looks like."""
    configs: list[Path] = []
    assignments: list[tuple[str, str]] = []
    own: list[str] = []
    own_options = options.valued | options.flags
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            own += [word, *rest]
            break
        if word.partition("=")[0] in own_options:
            own.append(word)
            if word in options.valued and rest:
                own.append(rest.pop(0))
        elif assignment := _ASSIGNMENT.fullmatch(word):
            assignments.append((_name(assignment[1]), assignment[2]))
        elif long := _LONG.fullmatch(word):
            has_value = bool(rest) and rest[0] not in own_options and _has_value(long[1], rest)
            assignments.append((_name(long[1]), rest.pop(0) if has_value else "true"))
        elif _is_config(word):
            configs.append(Path(word))
        else:
            own.append(word)
    known = tuple(sorted(o for o in options.valued | options.flags if o.startswith("--")))
    return Split(Settings(tuple(configs), tuple(assignments), known), tuple(own))


def _name(written: str) -> str:
    return written.replace("-", "_")


def _has_value(name: str, rest: Sequence[str]) -> bool:
    """Does the next word belong to ``--name``? After a switch, only if it says true or false."""
    if not rest or rest[0].startswith("--"):
        return False
    from engineroom.config import describe

    switches = {doc.name for doc in describe() if doc.type.startswith("true")}
    return _name(name) not in switches or rest[0].lower() in _TRUTH


def _is_config(word: str) -> bool:
    """A configuration file by its ending. A sentence that ends so is one only if the file exists."""
    if not word.endswith(_CONFIG_SUFFIXES) or word.startswith("-"):
        return False
    return not any(c.isspace() for c in word) or Path(word).is_file()
