"""Typing: keys, history, completion, the editor. prompt_toolkit runs on a pipe."""

import stat
from collections.abc import Generator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from talking import Chat

from engineroom.cli.store import ConversationStore
from engineroom.cli.terminal import editor
from engineroom.cli.terminal.completion import CommandCompleter
from engineroom.cli.terminal.prompt import RichPrompt, quotes_are_open, without_quotes
from engineroom.errors import ArgumentError

CTRL_C, CTRL_D, ESCAPE, UP = "\x03", "\x04", "\x1b", "\x1b[A"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENGINEROOM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def keys() -> Generator[PipeInput, None, None]:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


def typed(keys: PipeInput, text: str) -> str:
    keys.send_text(text)
    return RichPrompt().read()


def test_enter_sends(keys: PipeInput) -> None:
    assert typed(keys, "hello\r") == "hello"


def test_alt_enter_begins_a_new_line(keys: PipeInput) -> None:
    assert typed(keys, f"one{ESCAPE}\rtwo\r") == "one\ntwo"


def test_a_paste_of_several_lines_is_not_sent(keys: PipeInput) -> None:
    assert typed(keys, "\x1b[200~one\r\ntwo\nthree\x1b[201~ four\r") == "one\ntwo\nthree four"


def test_a_block_of_quotes_is_one_message(keys: PipeInput) -> None:
    assert typed(keys, '"""\rone\r\rtwo\r"""\r') == " one\n\ntwo"
    assert typed(keys, '"""one line"""\r') == " one line"


def test_ctrl_c_clears_what_is_typed(keys: PipeInput) -> None:
    assert typed(keys, f"wrong{CTRL_C}right\r") == "right"


def test_ctrl_c_and_ctrl_d_with_nothing_typed(keys: PipeInput) -> None:
    with pytest.raises(KeyboardInterrupt):
        typed(keys, CTRL_C)
    with pytest.raises(EOFError):
        typed(keys, CTRL_D)


def test_up_recalls_what_was_typed_in_an_earlier_chat(keys: PipeInput, own_home: Path) -> None:
    typed(keys, "remember me\r")
    assert typed(keys, f"{UP}\r") == "remember me"
    (file,) = own_home.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_without_history_nothing_is_written(keys: PipeInput, own_home: Path) -> None:
    keys.send_text("secret\r")
    assert RichPrompt(keep_history=False).read() == "secret"
    assert not own_home.exists()


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        ('"""', True),
        ('"""a\nb', True),
        ('"""a"""', False),
        ('""""""', False),
        ('a """', False),
        ('"""a""" b', True),
    ],
)
def test_when_a_block_is_open(text: str, is_open: bool) -> None:
    assert quotes_are_open(text) is is_open


def test_a_block_is_never_a_command() -> None:
    assert without_quotes('"""\n/exit\n"""') == " /exit"
    assert without_quotes("/exit") == "/exit"


# --- completion ----------------------------------------------------------------------------------------------------


@pytest.fixture
def chat(tmp_path: Path) -> Generator[Chat, None, None]:
    with ConversationStore.open(tmp_path / "c.sqlite") as store:
        chat = Chat(store=store)
        yield chat
        chat.close()


def offered(chat: Chat, text: str) -> list[str]:
    found = CommandCompleter(chat.session).get_completions(Document(text), CompleteEvent())
    return [completion.text for completion in found]


def test_commands_are_offered(chat: Chat) -> None:
    assert offered(chat, "/re") == ["/regen"]
    assert offered(chat, "/s") == ["/system", "/set", "/save", "/stats"]
    assert len(offered(chat, "/")) == 16
    assert offered(chat, "what is /re") == offered(chat, "") == []


def test_adapters_are_offered(chat: Chat, tmp_path: Path) -> None:
    chat.engine.adapters = {"first": tmp_path, "second": tmp_path}
    (tmp_path / "folder").mkdir()
    assert offered(chat, "/adapter ") == ["load", "unload"]
    assert offered(chat, "/adapter unload s") == ["second"]
    assert offered(chat, f"/adapter load late {tmp_path}/f") == [f"{tmp_path}/folder/"]
    assert offered(chat, "/adapter load l") == []


def test_settings_and_their_values_are_offered(chat: Chat) -> None:
    assert offered(chat, "/set temp") == ["temperature="]
    assert offered(chat, "/set seed=1 top") == ["top_p=", "top_k="]
    assert offered(chat, "/set do_sample=") == [
        "do_sample=true",
        "do_sample=false",
        "do_sample=none",
        "do_sample=default",
    ]
    assert offered(chat, "/set temperature=") == ["temperature=default"]
    assert "infer_dtype=" not in offered(chat, "/set ")
    assert "logprobs=" not in offered(chat, "/set ")


def test_states_and_help_are_offered(chat: Chat) -> None:
    assert offered(chat, "/think ") == ["on", "off", "auto"]
    assert offered(chat, "/help reg") == ["regen"]
    assert offered(chat, "/think on ") == []


def test_models_their_folders_and_settings_are_offered(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert {"demo", "demo-reward"} <= set(offered(chat, "/model de"))
    assert offered(chat, "/model mod")[0] == "models/"
    assert offered(chat, "/model models/") == ["models/mine/"]
    assert offered(chat, "/model demo infer_d") == ["infer_dtype="]
    assert "infer_dtype=float16" in offered(chat, "/model demo infer_dtype=")


def test_kept_conversations_and_files_are_offered(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talk.json").write_text("[]")
    (tmp_path / "other.txt").write_text("")
    chat.type("hi")
    chat.type("/save talks")
    assert offered(chat, "/load t") == ["talks", "talk.json"]
    assert offered(chat, "/export o") == []


# --- the editor ----------------------------------------------------------------------------------------------------


def use_editor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    program = tmp_path / "my editor"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setenv("VISUAL", f"'{program}' --wait")


def test_the_editor_changes_the_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_editor(monkeypatch, tmp_path, 'test "$1" = --wait && cat "$2" > "$0.saw" && echo changed > "$2"')
    assert editor.edit("as it was") == "changed"
    assert (tmp_path / "my editor.saw").read_text() == "as it was"


@pytest.mark.parametrize("script", ["true", 'printf "" > "$2"'])
def test_unchanged_or_emptied_is_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
) -> None:
    use_editor(monkeypatch, tmp_path, script)
    assert editor.edit("as it was") is None


def test_an_editor_that_fails_or_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_editor(monkeypatch, tmp_path, "exit 3")
    with pytest.raises(ArgumentError, match="exit code 3"):
        editor.edit("x")
    monkeypatch.setenv("VISUAL", str(tmp_path / "nowhere"))
    with pytest.raises(ArgumentError, match="EDITOR"):
        editor.edit("x")
    monkeypatch.delenv("VISUAL")
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ArgumentError, match="neither VISUAL nor EDITOR"):
        editor.edit("x")
