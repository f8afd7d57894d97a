"""What ``/set`` changes: how answers are drawn, for this session."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from engineroom.chat import ChatModel
from engineroom.config import argument_names, parse_arguments, parse_words
from engineroom.errors import ArgumentError
from engineroom.params import PARAMETER_ALIASES, SamplingParams

Origin: TypeAlias = Literal["model default", "arguments", "set here"]

DEFAULT = "default"
"""``/set NAME=default`` takes a setting back."""

_ALWAYS_SHOWN = ("temperature", "top_p", "top_k", "max_new_tokens", "seed", "stop")
_ELSEWHERE = {"enable_thinking": "/think on|off|auto", "default_system": "/system TEXT"}
_NOT_HERE = {
    "n": "the terminal shows one answer; /regen gives another",
    "logprobs": "the terminal does not show log-probabilities; `engineroom chat -p … --json` does",
    "prompt_logprobs": "the terminal does not show log-probabilities; the Python API does",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A sampling parameter in force, and who set it."""

    name: str
    value: Any
    origin: Origin

    @property
    def shown(self) -> str:
        """The value for people."""
        value: object = self.value
        if value is None or value == ():
            return "none"
        if isinstance(value, tuple):
            return ", ".join(repr(item) for item in cast("tuple[object, ...]", value))
        return f"{value:g}" if isinstance(value, float) else str(value)


def settable() -> tuple[str, ...]:
    """The names that ``/set`` takes."""
    return tuple(n for n in (*SamplingParams.names(), "do_sample") if n not in _NOT_HERE)


def changed(overrides: Mapping[str, Any], words: str, model: ChatModel) -> dict[str, Any]:
    """The overrides with ``name=value`` words applied; checked against the model and its engine.

    Raises:
        ArgumentError, ParameterError, UnsupportedError: a word is wrong; nothing was changed.
    """
    given, taken_back = _read(words)
    kept = {name: value for name, value in overrides.items() if name not in taken_back}
    if given.get("temperature") is not None:
        kept.pop("do_sample", None)  # the later word on sampling holds
    now = {**kept, **given}
    model.resolve_sampling(**now)
    return now


def in_force(model: ChatModel, overrides: Mapping[str, Any]) -> list[Setting]:
    """The parameters that the next answer is drawn with: those that do something, and those that people ask for."""
    params, neutral = model.resolve_sampling(**overrides), SamplingParams()
    return [
        Setting(name, getattr(params, name), _origin(name, model, overrides))
        for name in settable()
        if name != "do_sample"
        and (name in _ALWAYS_SHOWN or name in overrides or getattr(params, name) != getattr(neutral, name))
    ]


def _origin(name: str, model: ChatModel, overrides: Mapping[str, Any]) -> Origin:
    names = (name, "do_sample") if name == "temperature" else (name,)
    if any(n in overrides for n in names):
        return "set here"
    return "arguments" if any(n in model.arguments.sampling() for n in names) else "model default"


def _read(words: str) -> tuple[dict[str, Any], set[str]]:
    """``a=1 b=default`` as the values given and the names taken back."""
    given: list[str] = []
    taken_back: set[str] = set()
    for word in split_words(words):
        name, equals, value = word.partition("=")
        name = PARAMETER_ALIASES.get(name, name)
        if not equals:
            raise ArgumentError(
                f"{word!r} is not a setting",
                why="settings are name=value, several with spaces between",
                fix=f"/set {name}=…, or /set {name}={DEFAULT} to take it back",
            )
        _check_place(name)
        if value == DEFAULT:
            parse_arguments({name: None})
            taken_back.add(name)
        else:
            given.append(f"{name}={value}")
    # ``temperature=`` and ``none`` read as None: "as it was", which is what taking back means
    values = parse_words(given)
    parse_arguments(values)
    return {n: v for n, v in values.items() if v is not None}, taken_back | {
        n for n, v in values.items() if v is None
    }


def _check_place(name: str) -> None:
    if name in _ELSEWHERE:
        raise ArgumentError(f"{name} is not set with /set", fix=_ELSEWHERE[name], argument=name)
    if name in _NOT_HERE:
        raise ArgumentError(f"{name} can't be set here", why=_NOT_HERE[name], argument=name)
    if name in argument_names() and name not in settable():
        raise ArgumentError(
            f"{name} is settled when a model is loaded",
            fix=f"/model {name}=… loads the model again with it",
            argument=name,
        )


def split_words(words: str) -> list[str]:
    """Words as a shell splits them, so that values with spaces can be quoted."""
    try:
        return shlex.split(words)
    except ValueError as error:
        raise ArgumentError(
            f"can't read {words!r}", why=str(error), fix="close the quotation mark"
        ) from error
