"""``engineroom bench``: table, JSON, file, exit code, and what can't be asked."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import openai_server

Run = Callable[..., tuple[int, str, str]]
SCRIPTED = "infer_backend=scripted"
QUICK = ("--requests", "3", "--warmup", "0", "--prompt-tokens", "60-70", "--answer-tokens", "4")


def test_a_table_with_a_column_for_each_level(program: Run) -> None:
    code, out, err = program("bench", SCRIPTED, "--concurrency", "1,2", "--seed", "7", *QUICK)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "demo on scripted: prompts of 60-70 tokens, answers of 4"
    assert lines[1] == "seed 7"
    assert lines[3].split() == ["1", "at", "once", "2", "at", "once"]
    assert "3 of 3" in out
    for name in ("first token, ms", "between tokens, ms", "whole answer, ms", "a CPU second", "peak memory"):
        assert name in out


def test_json_and_a_file_with_every_request(program: Run, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    code, out, _ = program("bench", SCRIPTED, "--rate", "50", "--json", "--save", str(file), *QUICK)
    shown, saved = json.loads(out), json.loads(file.read_text())
    assert code == 0
    assert set(shown) == {
        "model", "engine", "prompt_tokens", "answer_tokens", "seed", "timeout", "notes", "levels",
    }  # fmt: skip
    (level,), (kept,) = shown["levels"], saved["levels"]
    assert (level["rate"], level["concurrency"], level["answered"], level["answer_tokens"]) == (
        50,
        None,
        3,
        12,
    )
    assert set(level["ttft"]) == {"mean", "p50", "p90", "p99"}
    records = kept.pop("records")
    assert kept == level
    assert [record["answer_tokens"] for record in records] == [4, 4, 4]


def test_a_server(program: Run) -> None:
    with openai_server.running(["word " * 50]) as server:
        code, out, err = program("bench", "--url", server.url, "--concurrency", "2", *QUICK)
    assert (code, err) == (0, "")
    assert out.startswith(f"scripted on {server.url}: ")
    assert "answer tokens a CPU second" in out


def test_failures_are_shown_and_are_the_exit_code(program: Run) -> None:
    with openai_server.running(["word " * 50]) as server:
        server.talent.faults += ["", "", "500"]  # two questions are of the preparation
        code, out, _ = program("bench", "--url", server.url, "--concurrency", "1", *QUICK)
    assert code == 1
    assert "failed: 1 of 3 (1 at once): ServerError: the server answers with status 500: the fan" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--concurrency", "1", "--rate", "2"], "two ways to ask"),
        (["--concurrency", "0"], "--concurrency '0'"),
        (["--concurrency", "1,x"], "--concurrency 'x'"),
        (["--timeout", "0"], "--timeout"),
        (["--rate", "nan"], "--rate 'nan'"),
        (["--prompt-tokens", "9-2"], "--prompt-tokens '9-2'"),
        (["--answer-tokens", "5000"], "the context has 4096"),
        (["--prompt-tokens", "3"], "a prompt can't have 3 tokens"),
        (["--model", "x"], "--model without --url"),
        (["--api-key", "x"], "--api-key without --url"),
        (["--pid", "1"], "--pid without --url"),
        (["--url", "nowhere"], "not the address of a server"),
        (["--url", "http://127.0.0.1:9/v1"], "infer_backend would be set on it"),
        (["temperature=-1"], "temperature"),
        (["n=2"], "n=2"),
        (["model_name_or_path=demo-reward", "infer_backend=huggingface"], "is a reward model"),
    ],
)
def test_what_can_not_be_asked_is_misuse(program: Run, words: list[str], says: str) -> None:
    code, out, err = program("bench", SCRIPTED, *words)
    assert (code, out) == (2, "")
    assert says in err


def test_nobody_there(program: Run, tmp_path: Path) -> None:
    with openai_server.running() as server:
        url = server.url
    code, _, err = program("bench", "--url", url)
    assert code == 1
    assert "nothing answers at" in err
    code, _, err = program("bench", SCRIPTED, "--save", str(tmp_path / "no" / "such" / "folder.json"))
    assert code == 1
    assert "folder.json" in err
