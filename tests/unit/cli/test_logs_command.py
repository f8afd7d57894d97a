"""``engineroom logs`` over the conversations that chat keeps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engineroom.cli.conversation import Said
from engineroom.cli.store import FILE_NAME, ConversationStore

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Two conversations, the second one named ``greeting``."""
    path = tmp_path / FILE_NAME
    with ConversationStore.open(path) as store:
        one = store.create("demo", "huggingface", {"temperature": 0})
        store.append(one, Said("user", "What is the capital of France?"), Said("assistant", "Paris."))
        two = store.create("demo", "scripted")
        store.append(two, Said("user", "hello"), Said("assistant", "Hel", reasoning="polite", ended="length"))
        store.rename(two, "greeting")
    return path


def test_nothing_kept_is_said_and_no_file_is_made(program: Run, tmp_path: Path) -> None:
    code, out, err = program("logs")
    assert (code, out) == (0, "")
    assert "engineroom chat" in err
    assert program("logs", "--json")[1] == "[]\n"
    assert list(tmp_path.iterdir()) == []


def test_the_list_has_the_latest_first(program: Run, kept: Path) -> None:
    lines = program("logs")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["2", "1"]
    assert lines[1].endswith("What is the capital of France?")
    assert len(program("logs", "-n", "1")[1].splitlines()) == 1


def test_the_list_as_json(program: Run, kept: Path) -> None:
    newest, _ = json.loads(program("logs", "--json")[1])
    assert list(newest) == ["id", "name", "title", "model", "engine", "created", "updated", "messages"]
    assert (newest["id"], newest["name"], newest["messages"]) == (2, "greeting", 2)


def test_search_finds_words_and_beginnings_of_words(program: Run, kept: Path) -> None:
    assert program("logs", "capit", "fran")[1].split()[0] == "1"
    (hit,) = json.loads(program("logs", "paris", "--json")[1])
    assert (hit["conversation"]["id"], hit["role"], hit["excerpt"]) == (1, "assistant", "Paris.")


def test_a_search_that_finds_nothing_says_so(program: Run, kept: Path) -> None:
    code, out, err = program("logs", "zebra")
    assert (code, out) == (0, "")
    assert "zebra" in err


@pytest.mark.parametrize("key", ["2", "greeting"])
def test_one_conversation_by_number_or_name(program: Run, kept: Path, key: str) -> None:
    _, out, _ = program("logs", "--id", key)
    assert "hello" in out
    assert "assistant (length)\npolite\nHel\n" in out
    shown = json.loads(program("logs", "--id", key, "--json")[1])
    assert shown["messages"][1]["reasoning"] == "polite"
    assert shown["settings"] == {}


def test_forgetting(program: Run, kept: Path) -> None:
    assert program("logs", "--id", "1", "--delete", "--json")[1] == '{"deleted": 1}\n'
    assert [c["id"] for c in json.loads(program("logs", "--json")[1])] == [2]
    assert program("logs", "capital")[1] == ""


def test_where_the_file_is(program: Run, tmp_path: Path) -> None:
    assert program("logs", "--path")[1] == f"{tmp_path / FILE_NAME}\n"


@pytest.mark.parametrize("words", [["--id", "99"], ["--id", "99", "--delete"]])
def test_a_conversation_that_is_not_there(program: Run, kept: Path, words: list[str]) -> None:
    code, _, err = program("logs", *words)
    assert code == 1
    assert "`engineroom logs` lists them" in err


@pytest.mark.parametrize("words", [["word", "--id", "1"], ["--delete"], ["-n", "0"], ["seed=1"]])
def test_misuse(program: Run, kept: Path, words: list[str]) -> None:
    assert program("logs", *words)[0] == 2


def test_a_file_that_is_no_database(program: Run, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("not a database, but long enough to be read as one" * 50)
    code, _, err = program("logs")
    assert code == 1
    assert FILE_NAME in err
    assert "Traceback" not in err
