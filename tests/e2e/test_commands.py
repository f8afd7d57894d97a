"""The commands as a user starts them."""

import subprocess
import sys


def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engineroom", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_one_shot_and_piped() -> None:
    assert run("chat", "-p", "hello there", "infer_backend=scripted").stdout == "hello there\n"
    assert run("chat", "infer_backend=scripted", stdin="piped in\n").stdout == "piped in\n"


def test_the_shipped_model_answers() -> None:
    done = run("chat", "-p", "What is the capital of France?", "temperature=0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Paris" in done.stdout


def test_scores_one_a_line_and_kind_over_rude() -> None:
    done = run("score", "Thank you, I am happy to help you.", "Go away, you idiot.")
    kind, rude = map(float, done.stdout.split())
    assert kind > rude


def test_mistakes_are_told_with_exit_code_2() -> None:
    done = run("chat", "-p", "x", "temprature=1")
    assert done.returncode == 2
    assert "did you mean temperature" in done.stderr
    assert run("chta").returncode == 2
    assert run("score").returncode == 2


def test_an_engine_that_is_planned_says_so() -> None:
    done = run("chat", "-p", "x", "infer_backend=vllm")
    assert done.returncode == 1
    assert "no adapter" in done.stderr
