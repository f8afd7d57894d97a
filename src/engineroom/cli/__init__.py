"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """The ``engineroom`` program: runs the words it was started with, and exits."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="replace")  # a locale without a character shows "?"; the run goes on
    try:
        from engineroom.cli.app import run

        sys.exit(run(sys.argv[1:], own_process=True))
    except KeyboardInterrupt:  # before the command line itself was there to deal with it
        sys.exit(130)
