"""What commands print: errors as what, why and fix; JSON; the stages of loading a model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from engineroom.errors import EngineroomError

RED, GREEN, YELLOW, CYAN, DIM, BOLD = "1;31", "32", "33", "36", "2", "1"
"""Styles, as the numbers of ECMA-48's SGR sequence."""


def print_json(value: Any) -> None:
    """One JSON document, indented for people where people read it, one line otherwise."""
    indent = 2 if sys.stdout.isatty() else None
    print(json.dumps(value, ensure_ascii=False, indent=indent), flush=True)


def print_json_line(value: Any) -> None:
    """One line of JSON lines."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_error(error: EngineroomError, *, as_json: bool = False) -> None:
    """The error on stderr. Standard output holds results only, with ``--json`` too."""
    if as_json:
        told = json.dumps({"error": error_as_json(error)}, ensure_ascii=False)
        print(_encodable(told), file=sys.stderr)
        return
    lines = [f"{paint('engineroom:', RED, sys.stderr)} {error.what}"]
    lines += [f"  {paint('why:', DIM, sys.stderr)} {error.why}"] if error.why else []
    lines += [f"  {paint('fix:', GREEN, sys.stderr)} {error.fix}"] if error.fix else []
    print(_encodable("\n".join(lines)), file=sys.stderr)


def _encodable(text: str) -> str:
    """Half a character (a word that was typed may hold one, and the error names it) as ``\\udXXX``, in JSON too."""
    return text.encode("utf-8", errors="backslashreplace").decode()


def error_as_json(error: EngineroomError) -> dict[str, str]:
    return {"type": type(error).__name__, "what": error.what, "why": error.why, "fix": error.fix}


def is_coloured(stream: TextIO) -> bool:
    """Terminals get colour, unless the user asked for none (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, stream: TextIO) -> str:
    """The text in a style, where ``stream`` shows styles."""
    return f"\x1b[{style}m{text}\x1b[0m" if is_coloured(stream) else text


def columns(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Rows as aligned columns; the last one is left as long as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)] if rows else []
    return "\n".join(
        (
            indent + "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]])
        ).rstrip()
        for row in rows
    )


def size(count: int) -> str:
    """A number of bytes for people, in powers of 1024."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"


def quantity(count: int) -> str:
    """A number of parameters for people: 3.2M, 7.6B."""
    for limit, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= limit:
            return f"{count / limit:.1f}{unit}" if count < 100 * limit else f"{count / limit:.0f}{unit}"
    return str(count)
