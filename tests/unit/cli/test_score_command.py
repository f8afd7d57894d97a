"""``engineroom score``: what is scored, in which order, and what is said of what can't be."""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engineroom import ChatModel, ScriptedEngine
from engineroom.cli import loading
from engineroom.cli.scorable import read_lines
from engineroom.errors import MessageError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A reward model whose score is the length of the text in bytes; the list fills with the arguments it got."""
    seen: list[Any] = []

    @contextmanager
    def open_model(arguments: Any) -> Generator[ChatModel, None, None]:
        seen.append(arguments)
        engine = ScriptedEngine(context_length=40)
        engine.can_generate = False
        with ChatModel(engine=engine) as model:
            yield model

    monkeypatch.setattr(loading, "open_model", open_model)
    return seen


def test_a_score_a_line_in_order(program: Run, asked: list[Any]) -> None:
    assert program("score", "a", "abc", "ab") == (0, "1.000000\n3.000000\n2.000000\n", "")
    assert asked[0].model_name_or_path == "demo-reward"


def test_a_text_may_be_longer_than_any_path(program: Run, asked: list[Any]) -> None:
    code, _, err = program("score", "x" * 5000)
    assert (code, "tokens" in err) == (2, True)


def test_settings_stand_among_the_texts(program: Run, asked: list[Any]) -> None:
    code, out, _ = program("score", "a", "model_name_or_path=other", "ab", "--infer_dtype", "float32")
    assert (code, out) == (0, "1.000000\n2.000000\n")
    assert (asked[0].model_name_or_path, asked[0].infer_dtype) == ("other", "float32")


def test_after_two_dashes_everything_is_a_text(program: Run, asked: list[Any]) -> None:
    assert program("score", "--json", "--", "x=1", "--y", "a.yaml")[1].count("\n") == 3


def test_a_file_with_a_byte_order_mark(program: Run, asked: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "in.txt"
    file.write_bytes(b"\xef\xbb\xbfab\n")
    assert program("score", "--file", str(file))[1] == "2.000000\n"


def test_input_that_is_not_text(program: Run, asked: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "in.bin"
    file.write_bytes(b"\xff\xfe\x00a")
    code, _, err = program("score", "--file", str(file))
    assert (code, "not UTF-8" in err) == (2, True)


@pytest.mark.parametrize("words", [["-"], [], ["--file", "-"]])
def test_piped_lines(program: Run, asked: list[Any], words: list[str]) -> None:
    assert program("score", *words, stdin="a\nab\r\nabc")[1] == "1.000000\n2.000000\n3.000000\n"


def test_a_file_of_json_lines_with_ids_and_conversations(
    program: Run, asked: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "in.jsonl"
    messages = [{"role": "user", "content": "q"}]
    file.write_text(f'{{"text": "abc", "id": "x7"}}\n{json.dumps({"messages": messages})}\n')
    code, out, _ = program("score", "--file", str(file), "--json")
    first, second = map(json.loads, out.splitlines())
    assert code == 0
    assert first == {"index": 0, "id": "x7", "score": 3.0}
    assert second["index"] == 1
    assert second["score"] > 3  # the template's tokens count


def test_more_than_a_batch_keeps_its_order(program: Run, asked: list[Any]) -> None:
    texts = ["x" * n for n in range(1, 21)]
    assert [float(line) for line in program("score", *texts)[1].split()] == list(range(1, 21))


def test_what_came_before_a_text_that_is_too_long_is_scored(program: Run, asked: list[Any]) -> None:
    code, out, err = program("score", stdin=f"a\nab\n{'x' * 50}\nabc\n")
    assert (code, out) == (2, "1.000000\n2.000000\n")
    assert "line 3: the prompt has" in err


def test_what_came_before_an_empty_line_is_scored(program: Run, asked: list[Any]) -> None:
    code, out, err = program("score", stdin="a\n\nab\n")
    assert (code, out) == (2, "1.000000\n")
    assert "line 2 is empty" in err


@pytest.mark.parametrize(
    ("words", "stdin"),
    [([], ""), ([], None), (["-", "a"], "b"), (["a", "--file", "b"], None), (["--file", "/nowhere"], None)],
)
def test_nothing_or_too_much_to_score_is_misuse(program: Run, words: list[str], stdin: str | None) -> None:
    code, out, err = program("score", *words, stdin=stdin)
    assert (code, out) == (2, "")
    assert "fix:" in err


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{broken", "line 2 is not valid JSON"),
        ("plain", "line 2 is not valid JSON"),
        ("[1]", "line 2 is not a JSON object"),
        ('{"txt": "a"}', "did you mean text"),
        ('{"text": "a", "messages": []}', "one of text and messages"),
        ('{"id": 1}', "one of text and messages"),
        ('{"text": 5}', "text is a int"),
        ('{"messages": "a"}', "messages is a str"),
    ],
)
def test_a_bad_json_line_is_named(line: str, what: str) -> None:
    items = read_lines(['{"text": "a"}\n', line])
    assert next(items).content == "a"
    with pytest.raises(MessageError, match=what):
        next(items)


def test_a_line_that_only_begins_like_json_is_a_text() -> None:
    assert [item.content for item in read_lines(["{x} is a set", "b"])] == ["{x} is a set", "b"]


def test_a_model_folder_among_the_texts_is_a_mistake(program: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    code, _, err = program("score", str(tmp_path), "a text")
    assert code == 2
    assert f"model_name_or_path={tmp_path}" in err
