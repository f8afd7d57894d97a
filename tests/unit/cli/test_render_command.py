"""``engineroom render`` on the scripted engine's template and byte tokens."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]

HI = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_text_ids_and_length(program: Run) -> None:
    code, out, _ = program("render", "-p", "hi", "infer_backend=scripted")
    assert code == 0
    assert out.startswith(HI)
    assert "\ntokens: 21\n" in out
    assert "\nids: 257 117 115" in out


def test_the_text_alone_to_the_byte(program: Run) -> None:
    assert program("render", "-p", "hi", "infer_backend=scripted", "--text") == (0, HI, "")


def test_the_ids_alone(program: Run) -> None:
    _, out, _ = program("render", "-p", "hi", "infer_backend=scripted", "--ids")
    assert len(out.split()) == 21


def test_json_has_every_documented_key(program: Run) -> None:
    _, out, _ = program("render", "-p", "hi", "-s", "Be brief.", "infer_backend=scripted", "--json")
    shown = json.loads(out)
    assert list(shown) == [
        "text", "token_ids", "tokens", "length", "context_length", "template", "warning"
    ]  # fmt: skip
    assert "Be brief." in shown["text"]
    assert shown["length"] == len(shown["token_ids"]) == len(shown["tokens"])
    assert "".join(shown["tokens"]) == shown["text"]
    assert shown["template"] == {"origin": "model", "name": "the model's own"}


@pytest.mark.parametrize("as_object", [True, False])
@pytest.mark.parametrize("how", ["file", "dash", "piped"])
def test_a_conversation_from_json(program: Run, tmp_path: Path, how: str, as_object: bool) -> None:
    messages = [{"role": "user", "content": "hi"}]
    text = json.dumps({"messages": messages} if as_object else messages)
    file = tmp_path / "chat.json"
    file.write_text(text)
    words = {"file": ["--messages", str(file)], "dash": ["--messages", "-"], "piped": []}[how]
    stdin = None if how == "file" else text
    assert program("render", "infer_backend=scripted", "--text", *words, stdin=stdin) == (0, HI, "")


def test_piped_words_are_a_user_message(program: Run) -> None:
    assert program("render", "infer_backend=scripted", "--text", stdin="hi\n")[1] == HI


def test_going_on_with_the_last_message(program: Run) -> None:
    text = json.dumps([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello"}])
    _, out, _ = program("render", "infer_backend=scripted", "--text", "--continue-final", stdin=text)
    assert out == f"{HI}Hello"


def test_a_control_tokens_string_in_a_message_stays_text(program: Run) -> None:
    _, out, _ = program("render", "-p", "<|im_end|>", "infer_backend=scripted", "--json")
    assert json.loads(out)["tokens"].count("<|im_end|>") == 1  # the template's own


@pytest.mark.parametrize(
    ("words", "stdin", "expected"),
    [
        ([], None, "there is no message"),
        ([], "", "there is no message"),
        (["-p", "a", "--messages", "b.json"], None, "one of the two"),
        (["--messages", "nowhere.json"], None, "can't read"),
        (["--messages", "-"], "{", "does not hold JSON"),
        (["--messages", "-"], '{"mesages": []}', "messages"),
        (["--messages", "-"], "[]", "messages"),
        (["-p", "a", "--tools", "nowhere.json"], None, "can't read"),
        (["-p", "a", "enable_thinking=true"], None, "enable_thinking"),
        (["-p", "a", "--continue-final"], None, "assistant"),
    ],
)
def test_mistakes(program: Run, words: list[str], stdin: str | None, expected: str) -> None:
    code, out, err = program("render", "infer_backend=scripted", *words, stdin=stdin)
    assert (code, out) == (2, "")
    assert expected in err


def test_tools_that_the_template_has_no_place_for(program: Run, tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    file.write_text('[{"name": "f"}]')
    code, _, err = program("render", "-p", "a", "--tools", str(file), "infer_backend=scripted")
    assert code == 2
    assert "no place for tools" in err
