"""The generated pages are what the program would write today."""

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "docs.py"


def test_the_generated_pages_are_current() -> None:
    stale = runpy.run_path(str(SCRIPT))["stale"]
    assert stale() == [], "run: python scripts/docs.py"
