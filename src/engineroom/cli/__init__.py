"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys

USAGE = """\
usage: engineroom chat [MODEL | config.yaml] [-p PROMPT] [-s SYSTEM] [key=value …]
       engineroom score [key=value …] TEXT…
       engineroom --version

Without a model, the one that ships inside answers. Settings are key=value or --key value.
"""


def main() -> None:
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        from engineroom import __version__

        print(f"engineroom {__version__}")
        return
    if words[0] not in ("chat", "score"):
        print(f"engineroom: unknown command {words[0]!r}\n\n{USAGE}", end="", file=sys.stderr)
        sys.exit(2)
    from engineroom.cli.commands import run

    sys.exit(run(words[0], words[1:]))
