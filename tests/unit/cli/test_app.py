"""The program as a whole, in this process: what it prints, where, and how it ends."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engineroom.cli import app, ending
from engineroom.cli.app import COMMANDS, run
from engineroom.engines import registry
from engineroom.errors import EngineBusyError, ModelNotFoundError

Run = Callable[..., tuple[int, str, str]]
NAMES = [function.__name__.replace("_", "-") for _, function in COMMANDS]


def test_help_lists_every_command(program: Run) -> None:
    code, out, err = program("--help")
    assert (code, err) == (0, "")
    assert all(f"\n  {name} " in out for name in NAMES)


@pytest.mark.parametrize(("words", "same"), [(["help"], ["--help"]), (["help", "env"], ["env", "--help"])])
def test_help_is_a_word_too(program: Run, words: list[str], same: list[str]) -> None:
    assert program(*words) == program(*same)


def test_no_words_is_help_and_misuse(program: Run) -> None:
    code, out, _ = program()
    assert code == 2
    assert "Commands:" in out


def test_version(program: Run) -> None:
    from engineroom import __version__

    assert program("--version")[:2] == (0, f"engineroom {__version__}\n")


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_examples_that_name_it(program: Run, name: str) -> None:
    code, out, _ = program(name, "--help")
    assert code == 0
    examples = out.partition("Examples:")[2]
    assert f"engineroom {name}" in examples
    assert "--json" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["chta"], "did you mean `engineroom chat`?"),
        (["some/model"], "engineroom chat some/model"),
        (["chat", "-p"], "engineroom chat --help"),
        (["chat", "-p", "x", "temprature=1"], "did you mean temperature?"),
        (["chat", "-p", "x", "infer_backend=vlm"], "did you mean infer_backend=vllm?"),
        (["chat", "-p", "x", "learning_rate=1"], "remove learning_rate"),
        (["chat", "-p", "x", "top_p=3"], "engineroom settings top_p"),
        (["chat", "-p", "x", "nowhere.yaml"], "check the path"),
        (["chat", "one", "two", "-p", "x"], "engineroom chat --help"),
        (["env", "seed=1"], "engineroom env --help"),
        (["env", "--capabilties"], "engineroom env --help"),
        (["settings", "tempreture"], "did you mean temperature?"),
        (["score", "x=1"], "--"),
    ],
)
def test_misuse_ends_with_2_and_says_what_to_do(program: Run, words: list[str], expected: str) -> None:
    code, out, err = program(*words)
    assert (code, out) == (2, "")
    assert err.startswith("engineroom: ")
    assert expected in err
    assert "Traceback" not in err


def test_an_engine_that_is_missing_ends_with_1(program: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "util", SimpleNamespace(find_spec=lambda name: None))
    code, _, err = program("chat", "-p", "x", "infer_backend=ktransformers")
    assert code == 1
    assert "kt-kernel" in err
    assert "pip install 'engineroom[ktransformers]'" in err


@pytest.mark.parametrize(
    "words", [["chta"], ["chat", "-p"], ["chat", "-p", "x", "seed=x"], ["doctor", "./nowhere"]]
)
def test_with_json_an_error_is_one_json_line_on_stderr(program: Run, words: list[str]) -> None:
    plain_code, _, _ = program(*words)
    code, out, err = program(words[0], "--json", *words[1:])
    assert (code, out) == (plain_code, "")
    error = json.loads(err)["error"]
    assert set(error) == {"type", "what", "why", "fix"}
    assert error["type"].endswith("Error")
    assert error["what"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("what is 7 plus 5?", 'engineroom chat -p "…"'),
        ("what? " * 1000, 'engineroom chat -p "…"'),
        ("demo-rewrd", "did you mean demo-reward?"),
        (__file__, f"name the folder: {Path(__file__).parent}"),
        ("./nowhere", "check the path"),
    ],
)
def test_a_model_that_is_not_there_says_what_to_do(program: Run, name: str, expected: str) -> None:
    code, out, err = program("doctor", name)
    assert (code, out) == (1, "")
    assert expected in err


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def invoke(own_process: bool, words: Any) -> int:
        raise error

    monkeypatch.setattr(app, "_invoke", invoke)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelNotFoundError("gone"), 1),
        (EngineBusyError("full"), 1),
        (PermissionError(13, "Permission denied", "/some/file"), 1),
        (MemoryError(), 1),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
    ],
)
def test_exit_codes(program: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    failing(monkeypatch, error)
    found, _, err = program("chat")
    assert found == code
    assert "Traceback" not in err
    if code in (130, 141):
        assert err == ""


def test_a_file_that_is_refused_is_named(program: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, PermissionError(13, "Permission denied", "/some/file"))
    assert "ls -ld /some/file" in program("chat")[2]


def test_a_defect_keeps_its_traceback_in_a_file_that_is_named(
    program: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing(monkeypatch, ZeroDivisionError("by zero"))
    code, _, err = program("chat")
    assert code == 1
    assert "unexpected ZeroDivisionError: by zero" in err
    assert "Traceback" not in err
    (log,) = (tmp_path / "crashes").iterdir()
    assert str(log) in err
    assert "ZeroDivisionError: by zero" in log.read_text()


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_debug_shows_the_traceback(program: Run, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "variable":
        monkeypatch.setenv("ENGINEROOM_DEBUG", "1")
    words = ["--debug"] if how == "flag" else []
    code, _, err = program("chat", *words, "-p", "x", "temprature=1")
    assert code == 2
    assert "Traceback" in err
    assert "did you mean temperature?" in err


def test_after_two_dashes_debug_is_a_text() -> None:
    assert ending._without_debug(["score", "--", "--debug"]) == (["score", "--", "--debug"], False)


def test_settings_are_listed_and_found(program: Run) -> None:
    code, out, _ = program("settings", "--json")
    assert code == 0
    docs = json.loads(out)
    assert {"name", "type", "default", "help"} == set(docs[0])
    assert {"temperature", "infer_backend"} <= {doc["name"] for doc in docs}
    assert "temperature" in program("settings", "temperature")[1]


def test_nothing_is_printed_to_a_reader_that_went_away(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    assert run(["settings"]) == 141
    assert capfd.readouterr().err == ""


WORDS = st.lists(
    st.text(st.characters(exclude_characters="\0"), max_size=8)
    | st.sampled_from(
        ["--json", "--help", "--debug", "--", "-", "-p", "-n", "-x", "--id", "--limit=x", "--tools", "--text", "=", "a=b",
         "seed=1", "--seed", "top_p=9", "x.yaml", "./x", "demo", "demo-reward", "--delete", "--continue-final"]
    ),
    max_size=6,
)  # fmt: skip


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_half_a_character_is_named_in_the_error(program: Run, more: list[str]) -> None:
    code, _, err = program("render", "", "\ud800", *more, "infer_backend=scripted", stdin="")
    assert code == 2
    assert "\\ud800" in err
    assert not more or json.loads(err.splitlines()[-1])["error"]["what"]


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["render", "doctor", "env", "logs", "settings", "chta", "--json"]), WORDS)
def test_whatever_is_typed_the_end_is_orderly(program: Run, command: str, words: list[str]) -> None:
    code, _, err = program(command, *words, "infer_backend=scripted", stdin="")
    assert code in (0, 1, 2)
    assert "this is a defect" not in err
    assert (code == 0) or err or command == "doctor"
