"""The models' names to the pages of Anthropic's list."""

from __future__ import annotations

from collections.abc import Sequence

from engineroom.errors import ParameterError, shown

LIFECYCLES = ("active", "deprecated", "retired")
"""What becomes of Anthropic's models in time; those here are active as long as they are there."""


def page(
    names: Sequence[str], limit: int, *, after: str | None = None, before: str | None = None
) -> tuple[Sequence[str], bool]:
    """The ``limit`` names behind ``after``, or right before ``before``; and whether more follow in that direction.

    Raises:
        ParameterError: there is no such name, or both are given.
    """
    if after is not None and before is not None:
        raise ParameterError("before_id contradicts after_id; give one of the two", parameter="before_id")
    if before is not None:
        rest = names[: _place(names, before, "before_id")]
        return rest[-limit:], len(rest) > limit
    rest = names if after is None else names[_place(names, after, "after_id") + 1 :]
    return rest[:limit], len(rest) > limit


def check_lifecycles(wanted: Sequence[str]) -> None:
    """
    Raises:
        ParameterError: one of them is none.
    """
    wrong = next((one for one in wanted if one not in LIFECYCLES), None)
    if wrong is not None:
        raise ParameterError(
            f"lifecycle[] is {shown(wrong)}", why=f"one of {', '.join(LIFECYCLES)}", parameter="lifecycle[]"
        )


def _place(names: Sequence[str], name: str, parameter: str) -> int:
    if name not in names:
        raise ParameterError(f"{parameter} names no model: {shown(name)}", parameter=parameter)
    return names.index(name)
