"""Another package's engine takes the suite by subclassing it; and the suite finds what is wrong with defective ones."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent / "third_party"


def run(*words: str) -> tuple[int, set[str], str]:
    """Runs pytest as that package's author would; the exit code, what failed, and the output."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(PACKAGE / "suite_of_toy.py"),
        "-q",
        "-rfE",
        "--timeout=120",
    ]
    done = subprocess.run(
        [*command, "-c", os.devnull, "-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function", *words],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    failed = set(re.findall(r"^(?:FAILED|ERROR) \S*::(\S+)", done.stdout, re.MULTILINE))
    return done.returncode, failed, done.stdout


@pytest.mark.slow
def test_a_sound_engine_passes() -> None:
    quick = "not context_bounds and not slots"  # without a cache those take minutes
    code, failed, output = run("-k", f"TestToy and {quick}")
    assert (code, failed) == (0, set()), output[-4000:]
    assert "passed" in output


@pytest.mark.slow
def test_an_engine_that_goes_on_with_what_was_left_fails() -> None:
    code, failed, output = run("-k", "TestLeaky and while_decoding")
    assert (code, failed) == (1, {"test_while_decoding"}), output[-4000:]


@pytest.mark.slow
def test_an_engine_that_declares_what_it_does_not_do_fails() -> None:
    asked = (
        "seed",
        "logprobs",
        "logit_bias",
        "skip_special_tokens",
        "n",
    )  # the last two are proven with others
    names = {f"test_the_engine_does_what_it_declares[{name}]" for name in asked}
    code, failed, output = run("-k", "TestBoastful and does_what_it_declares and not prompt_logprobs")
    assert code == 1, output[-4000:]
    assert failed == names
