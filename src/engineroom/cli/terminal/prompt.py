"""Where the user types: editing, history, several lines, paste, completion."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from engineroom.cli.home import home, private_file

HISTORY_FILE = "prompt_history"
QUOTES = '"""'

_STYLE = Style.from_dict({"prompt": "bold ansicyan", "continuation": "ansibrightblack"})


class Prompt(Protocol):
    """Reads what the user types next.

    Raises:
        KeyboardInterrupt: Ctrl-C with nothing typed.
        EOFError: the user is done.
    """

    def read(self) -> str: ...


class PlainPrompt:
    """Line by line, for an output that is no terminal."""

    def read(self) -> str:
        return input()


class RichPrompt:
    """prompt_toolkit's, with keys of our own.

    Args:
        completer: what Tab offers.
        keep_history: remember what was typed in a file, for later sessions.
    """

    def __init__(self, completer: Completer | None = None, *, keep_history: bool = True) -> None:
        self._session: PromptSession[str] = PromptSession(
            multiline=True,  # Enter is bound below; this allows newlines in the text
            prompt_continuation=_continuation,
            history=_history() if keep_history else InMemoryHistory(),
            completer=completer,
            complete_while_typing=Condition(self._is_command),
            key_bindings=_keys(),
            editing_mode=EditingMode.EMACS,
            enable_open_in_editor=True,
            enable_suspend=True,
            tempfile_suffix=".md",
            style=_STYLE,
        )

    def read(self) -> str:
        return without_quotes(self._session.prompt([("class:prompt", "> ")]))

    def _is_command(self) -> bool:
        return self._session.default_buffer.text.startswith("/")


def quotes_are_open(text: str) -> bool:
    """Did a block of ``\"\"\"`` begin that has not ended?"""
    text = text.strip()
    return text.startswith(QUOTES) and not (len(text) >= 2 * len(QUOTES) and text.endswith(QUOTES))


def without_quotes(text: str) -> str:
    """The text of a block of ``\"\"\"``; another text as it is."""
    inner = text.strip()
    if inner.startswith(QUOTES) and not quotes_are_open(inner):
        # a block is a message, whatever it looks like: the space keeps commands.run from reading a command in it
        return " " + inner[len(QUOTES) : -len(QUOTES)].strip("\n")
    return text


def _history() -> History:
    """A file that only its owner can read; memory if there is no place for one."""
    try:
        file: Path = private_file(home() / HISTORY_FILE)
    except OSError:
        return InMemoryHistory()
    return FileHistory(file)


def _continuation(width: int, line_number: int, is_soft_wrap: int) -> StyleAndTextTuples:
    return [("class:continuation", "  " if is_soft_wrap else "· ")]


def _keys() -> KeyBindings:
    keys = KeyBindings()
    keys.add("enter")(_on_enter)
    keys.add("escape", "enter")(_on_newline)
    keys.add("c-c")(_on_interrupt)
    return keys


def _on_enter(event: KeyPressEvent) -> None:
    """Takes a chosen completion; goes on in an open block; else sends."""
    buffer = event.current_buffer
    if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
        buffer.apply_completion(buffer.complete_state.current_completion)
    elif quotes_are_open(buffer.text):
        buffer.insert_text("\n")
    else:
        buffer.validate_and_handle()


def _on_newline(event: KeyPressEvent) -> None:
    event.current_buffer.insert_text("\n")


def _on_interrupt(event: KeyPressEvent) -> None:
    """Clears what is typed; with nothing typed, the loop decides."""
    if event.current_buffer.text:
        event.current_buffer.reset()
    else:
        event.app.exit(exception=KeyboardInterrupt, style="class:aborting")
