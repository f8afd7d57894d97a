"""``engineroom compare``: the two sides, the verdict, the exit code, and what can't be asked."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import openai_server

Run = Callable[..., tuple[int, str, str]]
SCRIPTED = "infer_backend=scripted"


def test_two_sides_that_agree(program: Run) -> None:
    code, out, err = program("compare", SCRIPTED, "--with", "infer_backend=scripted")
    assert (code, err) == (0, "")
    assert out.startswith("agree: both sides answer alike\n")


def test_two_sides_that_differ(program: Run) -> None:
    code, out, _ = program("compare", SCRIPTED, "--with", "default_system=Be kind.")
    assert code == 1
    assert out.startswith("differ: 5 differences found\nlikely cause: prompt: ")
    assert "default_system  None" in out
    assert "the texts part at character" in out


def test_the_first_sides_settings_hold_for_both_and_can_be_left_out(program: Run) -> None:
    words = ["compare", SCRIPTED, "default_system=Be kind.", "--samples", "0", "--json"]
    code, out, _ = program(*words, "--with", "temperature=0.5")
    assert (code, [c["cause"] for c in json.loads(out)["causes"]]) == (1, ["parameters"])
    code, out, _ = program(*words, "--with", "default_system=")
    assert (code, [c["cause"] for c in json.loads(out)["causes"]]) == (1, ["prompt"])


def test_the_second_side_may_come_from_a_file(program: Run, tmp_path: Path) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text("temperature: 0.25\n")
    code, out, _ = program("compare", SCRIPTED, "--with", str(file), "--samples", "0")
    assert code == 1
    assert "temperature: 0.0 | 0.25" in out


def test_json_has_every_documented_key(program: Run) -> None:
    code, out, _ = program("compare", SCRIPTED, "--with", SCRIPTED, "--json")
    shown = json.loads(out)
    assert code == 0
    assert set(shown) == {
        "agree", "causes", "aspects", "differences", "gap", "chance", "notes", "first", "second",
    }  # fmt: skip
    assert shown["agree"] is True
    assert shown["first"]["conversations"][0]["greedy"] == "Hi"


def test_conversations_from_a_file(program: Run, tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": "one"}], "id": "x7"},
        [{"role": "user", "content": "two"}],
    ]
    file.write_text("\n".join(map(json.dumps, [*lines, "three"])) + "\n\n")
    code, out, _ = program("compare", SCRIPTED, "--with", SCRIPTED, "--messages", str(file), "--json")
    asked = json.loads(out)["first"]["conversations"]
    assert code == 0
    assert [(c["name"], c["greedy"]) for c in asked] == [
        ("x7", "one"),
        ("line 2", "two"),
        ("line 3", "three"),
    ]


def test_a_server_is_the_second_side(program: Run) -> None:
    with openai_server.running() as server:
        code, out, err = program("compare", SCRIPTED, "--with", server.url)
        assert (code, err) == (0, "")
        assert out.startswith("agree: both sides answer alike, as far as was seen; not seen: parameters\n")
        assert server.url in out
        named = ["--with", f"url={server.url}", "--with", "model=scripted", "--json"]
        code, out, _ = program("compare", SCRIPTED, "default_system=Be kind.", *named)
    shown = json.loads(out)
    assert code == 1
    assert shown["causes"][0]["cause"] == "prompt"
    assert shown["aspects"]["parameters"] is None
    assert "parameters" in shown["notes"]
    assert (shown["second"]["engine"], shown["second"]["dtype"]) == (server.url, None)


@pytest.mark.slow
def test_a_server_is_the_first_side(program: Run) -> None:
    with openai_server.running(extras="refused") as server, openai_server.running() as other:
        for second in (SCRIPTED, server.url, other.url):
            code, out, _ = program("compare", "--url", server.url, "--with", second, "--json")
            shown = json.loads(out)
            assert (code, shown["first"]["engine"]) == (0, server.url)
            assert shown["aspects"]["sampled answers"] is True
        code, out, _ = program("compare", "--url", other.url, "--with", server.url, "--json")
        assert (code, json.loads(out)["aspects"]["greedy tokens"]) == (0, True)


def test_what_a_server_refuses_is_said(program: Run) -> None:
    with openai_server.running(extras="refused", logprobs="refused") as server:
        code, out, err = program("compare", SCRIPTED, "--with", server.url)
    assert code == 0
    assert "logits           not seen  no log-probabilities of 6 of 6 answers" in out
    assert "logprobs are not supported" in err


def test_a_server_that_fails_is_no_difference(program: Run) -> None:
    with openai_server.running(faults=["500"]) as server:
        code, out, err = program("compare", SCRIPTED, "--with", server.url, "--json")
    assert (code, out) == (1, "")
    assert json.loads(err)["error"]["type"] == "ServerError"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing to compare with"),
        (["--with", "http://127.0.0.1:9/v1", "--with", "temperature=0"], "names a server and temperature"),
        (["--with", "http://127.0.0.1:9", "--with", "url=http://127.0.0.1:8"], "names 2 servers"),
        (["--with", "ftp://127.0.0.1"], "not the address of a server"),
        (["--url", "http://127.0.0.1:9/v1", "--with", SCRIPTED], "infer_backend would be set on it"),
        (["--model", "m", "--with", SCRIPTED], "--model without --url"),
        (["--with", "model_name_or_path=https://example.org/v1"], "is an address"),
        (["--with", "vllm"], "is not a setting"),
        (["--with", "infer_backed=vllm"], "did you mean infer_backend?"),
        (["--with", "temperature=-1"], "temperature"),
        (["--with", SCRIPTED, "--messages", "/nowhere.jsonl"], "/nowhere.jsonl"),
        (["--with", SCRIPTED, "--top", "99"], "--top"),
        (["--with", SCRIPTED, "model_name_or_path=http://host"], "is an address"),
    ],
)
def test_what_can_not_be_asked_is_misuse(program: Run, words: list[str], says: str) -> None:
    code, out, err = program("compare", SCRIPTED, *words)
    assert (code, out) == (2, "")
    assert says in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ('{"messages": "hi"}\n{broken', "line 2 is not valid JSON"),
        ('{"message": "hi"}', "line 1 has message"),
        ('[{"role": "wizard", "content": "x"}]', "line 1: "),
    ],
)
def test_a_bad_line_is_named(program: Run, tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text(text)
    code, _, err = program("compare", SCRIPTED, "--with", SCRIPTED, "--messages", str(file))
    assert code == 2
    assert says in err
