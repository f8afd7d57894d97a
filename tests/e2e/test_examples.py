"""Every example runs as a reader would run it, and warns of nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each starts a program that imports torch

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(*words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
        env={**os.environ, "ENGINEROOM_HISTORY": "0"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(path: Path) -> None:
    assert run("-W", "error::UserWarning", path).strip()


def test_the_examples_say_what_they_are_about() -> None:
    assert EXAMPLES
    assert all(path.read_text(encoding="utf-8").startswith('"""') for path in EXAMPLES)


def test_a_llama_factory_file_runs_unchanged() -> None:
    said = run("-m", "engineroom", "chat", "examples/llama_factory.yaml", "-p", "Who are you?")
    assert "engineroom" in said
