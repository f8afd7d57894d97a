"""The header by which Anthropic's clients tell which version of its API they speak."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header

from engineroom.errors import ParameterError, shown

_FIRST_VERSION = "2023-06-01"
"""Its events are typed and hold pieces. Versions since have taken fields away, and changed nothing that is sent here."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
Version = Annotated[
    str | None, Header(alias="anthropic-version", description=f"{_FIRST_VERSION} or later; or none.")
]


def check_version(version: str | None) -> None:
    """
    Raises:
        ParameterError: there is no such version, or it is older than what is spoken here.
    """
    if version is not None and not (_DATE.fullmatch(version) and version >= _FIRST_VERSION):
        raise ParameterError(
            f"anthropic-version {shown(version)} is not spoken here",
            why=f"a date from {_FIRST_VERSION} on",
            parameter="anthropic-version",
        )
