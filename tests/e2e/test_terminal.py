"""``engineroom chat`` at a real pseudo-terminal, as a user sees it."""

import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pseudo_terminal import ALT_ENTER, CTRL_C, CTRL_D, ENTER, TAB, UP, User

pytestmark = pytest.mark.slow
SCRIPTED = str(Path(__file__).with_name("scripted_chat.py"))
Starting = Callable[..., User]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "VISUAL", "EDITOR", "COLUMNS", "LINES")
    }
    return {**kept, "TERM": "xterm-256color", "ENGINEROOM_HOME": str(tmp_path / "home")}


@pytest.fixture
def start(env: dict[str, str]) -> Generator[Starting, None, None]:
    """Starts the chat with a scripted model; ``real=True``: the program itself, with what it ships."""
    with ExitStack() as stack:

        def start(*words: str, real: bool = False, **more: str) -> User:
            program = None if real else SCRIPTED
            return stack.enter_context(User("chat", *words, env={**env, **more}, program=program))

        yield start


# --- the shipped model, as a user starts it ------------------------------------------------------------------------


def test_a_stranger_talks_to_the_shipped_model(start: Starting) -> None:
    user = start(real=True)
    user.sees("demo on huggingface, context 2,048 tokens", "/help", "--no-history")
    screen = user.asks("What is the capital of France?")
    assert "Paris" in screen
    for word in ("s to first token", "tokens/s", "of 2,048", "finished"):
        assert word in screen
    assert "what there is" in user.asks("/help")
    user.types("exit", ENTER)
    assert user.exit_code() == 0


def test_ctrl_c_stops_the_shipped_model_and_the_next_question_is_answered(start: Starting) -> None:
    user = start("ignore_eos=true", "temperature=0", real=True)  # it would go on for 2,000 tokens
    user.gets_the_prompt()
    user.types("What is the capital of France?", ENTER)
    user.sees("Paris")
    user.types(CTRL_C)
    user.sees("stopped: /continue")
    user.asks("/clear")
    user.asks("/set ignore_eos=false")
    assert "Berlin" in user.asks("What is the capital of Germany?")


def test_ctrl_c_while_it_loads_leaves_with_130(start: Starting) -> None:
    user = start(real=True)
    user.sees("loading demo")
    user.types(CTRL_C)
    assert user.exit_code() == 130
    assert "Traceback" not in user.screen


# --- answers -------------------------------------------------------------------------------------------------------


def test_an_answer_is_shown_while_it_comes(start: Starting, tmp_path: Path) -> None:
    pipe = tmp_path / "resume"
    os.mkfifo(pipe)
    user = start(RESUME_PIPE=str(pipe))
    user.gets_the_prompt()
    user.types("wait for it", ENTER)
    screen = user.sees("Streaming")
    assert "the rest" not in screen
    pipe.write_text("go\n")
    user.sees("Streaming then the rest.", "finished")
    assert user.gets_the_prompt().count("Streaming") == 1


def test_ctrl_c_stops_the_answer_and_keeps_the_part_that_came(start: Starting) -> None:
    user = start()
    user.gets_the_prompt()
    user.types("wait for it", ENTER)
    user.sees("Streaming")
    user.types(CTRL_C)
    user.sees("stopped: /continue")
    assert "Streaming\n" in user.gets_the_prompt()
    assert "then the rest." in user.asks("/continue")
    user.types(CTRL_D)
    assert user.exit_code() == 0


def test_keys_pressed_during_an_answer_wait_for_the_prompt(start: Starting, tmp_path: Path) -> None:
    pipe = tmp_path / "resume"
    os.mkfifo(pipe)
    user = start(RESUME_PIPE=str(pipe))
    user.gets_the_prompt()
    user.types("wait for it", ENTER)
    user.sees("Streaming")
    user.types("typed early")
    pipe.write_text("go\n")
    screen = user.sees("finished", "> typed early")
    assert screen.count("typed early") == 1


def test_an_answer_cut_at_the_limit_can_be_continued(start: Starting) -> None:
    user = start()
    user.asks("/set max_new_tokens=20")
    screen = user.asks("long")
    assert "cut at the token limit: /continue" in screen
    assert "second" not in screen
    user.asks("/set max_new_tokens=default")
    assert "The second one ends now." in user.asks("/continue")


def test_a_failed_turn_loses_nothing(start: Starting) -> None:
    user = start()
    user.asks("first")
    user.gets_the_prompt()
    user.types("x" * 70 + ALT_ENTER)
    user.types(("y" * 70 + ALT_ENTER) * 15, ENTER)
    user.sees("the prompt has", "fix:")
    user.gets_the_prompt()
    user.types(UP)
    user.sees("y" * 70)
    user.types(CTRL_C)
    assert "You said: first" in user.asks("/regen")


# --- typing --------------------------------------------------------------------------------------------------------


def test_several_lines(start: Starting) -> None:
    user = start()
    user.gets_the_prompt()
    user.types("one", ALT_ENTER, "two", ENTER)
    user.sees("You said: one\ntwo")
    user.gets_the_prompt()
    user.types('"""', ENTER, "three", ENTER, "four", ENTER, '"""', ENTER)
    user.sees("You said: three\nfour")


def test_a_paste_is_not_sent_before_enter(start: Starting) -> None:
    user = start()
    user.gets_the_prompt()
    user.types("\x1b[200~pasted one\npasted two\x1b[201~")
    assert "You said" not in user.sees("pasted two")
    user.types(" and more", ENTER)
    user.sees("You said: pasted one\npasted two and more")


def test_completion_and_a_typo(start: Starting) -> None:
    user = start()
    user.gets_the_prompt()
    user.types("/st")
    user.sees("/stats", "tokens, speed and context")
    user.types(TAB)
    user.sees("> /stats")
    user.types(ENTER, ENTER)
    user.sees("tokens generated")
    assert "did you mean /regen?" in user.asks("/regn")


def test_the_editor(start: Starting, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i s/wrong/right/ "$1"\n')
    editor.chmod(0o700)
    user = start(EDITOR=str(editor))
    user.asks("a wrong word")
    assert "You said: a right word" in user.asks("/edit")
    user.types("wrong again", "\x18\x05")
    user.sees("> right again")
    user.types(ENTER)
    user.sees("You said: right again")


# --- leaving -------------------------------------------------------------------------------------------------------


def test_ctrl_c_clears_the_line_and_twice_at_an_empty_prompt_leaves(start: Starting) -> None:
    user = start()
    user.gets_the_prompt()
    user.types("half a thought")
    user.sees("half a thought")
    user.types(CTRL_C)
    assert "half" not in user.gets_the_prompt()
    user.types(CTRL_C)
    user.sees("Ctrl-C again leaves")
    user.asks("still here")
    user.types(CTRL_C)
    user.waits_until(lambda screen: screen.count("Ctrl-C again leaves") == 2, "the second warning")
    user.gets_the_prompt()
    user.types(CTRL_C)
    assert user.exit_code() == 0
    assert "Traceback" not in user.screen


# --- what is kept --------------------------------------------------------------------------------------------------


def test_the_last_conversation_goes_on(start: Starting) -> None:
    user = start("-s", "Be brief.", "temperature=0.25")
    assert "conversations are kept on this machine" in user.gets_the_prompt()
    user.asks("remember this")
    user.types(CTRL_D)
    assert user.exit_code() == 0

    user = start("-c")
    screen = user.gets_the_prompt()
    assert "> remember this\nYou said: remember this" in screen
    assert "are kept on this machine" not in screen
    assert "Be brief." in user.asks("/system")
    assert "arguments" in user.asks("/set").partition("0.25")[2].splitlines()[0]
    assert "You said: remember this" in user.asks("/regen")


@pytest.mark.parametrize("switch", ["--no-history", "ENGINEROOM_HISTORY=0"])
def test_the_history_can_be_turned_off(start: Starting, tmp_path: Path, switch: str) -> None:
    user = start(switch) if switch.startswith("--") else start(ENGINEROOM_HISTORY="0")
    assert "kept" not in user.asks("secret")
    user.types(CTRL_D)
    assert user.exit_code() == 0
    assert not (tmp_path / "home").exists()


def test_a_broken_history_does_not_stop_the_chat(start: Starting, tmp_path: Path) -> None:
    file = tmp_path / "home" / "conversations.sqlite"
    file.parent.mkdir()
    file.write_bytes(b"broken" * 1000)
    user = start()
    user.sees("can't be used", "fix:", "--no-history")
    assert "You said: hi" in user.asks("hi")


# --- one answer ----------------------------------------------------------------------------------------------------


def test_one_answer_on_a_terminal_is_laid_out(start: Starting) -> None:
    user = start("-p", "long")
    assert user.exit_code() == 0
    assert user.screen == "The first paragraph is here.\n\nThe second one ends now."


def test_ctrl_c_ends_one_answer_with_130(start: Starting) -> None:
    user = start("-p", "wait")
    user.sees("Streaming")
    user.types(CTRL_C)
    assert user.exit_code() == 130
    assert "Streaming" in user.screen


def piped(env: dict[str, str], *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, SCRIPTED, "chat", *words]
    return subprocess.run(command, input=stdin, env=env, capture_output=True, timeout=120, check=False)


def test_a_pipe_gets_plain_text(env: dict[str, str]) -> None:
    done = piped(env, "-p", "long")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"The first paragraph is **here**.\n\nThe second one ends now.\n"
    done = piped(env, stdin="wörld\n".encode())
    assert done.stdout.decode() == "You said: wörld\n"
    done = piped(env, "-p", "about:", stdin=b"some text\n")
    assert done.stdout == b"You said: about:\n\nsome text\n"


def test_a_cut_answer_is_told_beside_it(env: dict[str, str]) -> None:
    done = piped(env, "-p", "long", "max_new_tokens=9")
    assert done.stdout == b"The first\n"
    assert b"cut at the token limit" in done.stderr


def test_nothing_to_answer_and_no_text_are_misuse(env: dict[str, str]) -> None:
    for done in (piped(env), piped(env, "-p", "  "), piped(env, stdin=b"\xff\xfe")):
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"why:" in done.stderr


def test_one_answer_can_go_on_with_the_last_conversation(env: dict[str, str], tmp_path: Path) -> None:
    assert piped(env, "-p", "one").returncode == 0
    assert not (tmp_path / "home").exists()
    piped(env, "-c", "-p", "two")
    piped(env, "-c", "-p", "three")
    from engineroom.cli.store import ConversationStore

    with ConversationStore.open(tmp_path / "home" / "conversations.sqlite") as store:
        last = store.last()
    assert last is not None
    assert [m.text for m in last.messages if m.role == "user"] == ["two", "three"]
    assert piped(env, "-c", "--no-history", "-p", "x").returncode == 2
