"""The interactive chat: read, answer, again."""

from __future__ import annotations

from engineroom.cli.terminal import commands
from engineroom.cli.terminal.outcome import Leave, Notice, Outcome, Shown, Stream, Table
from engineroom.cli.terminal.prompt import Prompt
from engineroom.cli.terminal.screen import Screen
from engineroom.cli.terminal.session import Session
from engineroom.errors import EngineroomError

_RECALLED = 4  # messages of a resumed conversation that are shown again


class Loop:
    """Joins a session, a prompt and a screen."""

    def __init__(self, session: Session, prompt: Prompt, screen: Screen) -> None:
        self._session = session
        self._prompt = prompt
        self._screen = screen
        self._context = commands.Context(session)

    def greet(self) -> None:
        """Who answers, how to get help, and whether this is kept; with a resumed conversation, how it ended."""
        session, screen = self._session, self._screen
        size = session.model.context_length
        name, engine = session.model.arguments.model_name_or_path, session.model.engine.name
        screen.title(f"{name} on {engine}" + (f", context {size:,} tokens" if size else ""))
        screen.notice("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves")
        if (notice := session.keeper.first_notice()) is not None:
            screen.notice(notice)
        if session.messages:
            screen.recall(session.messages, _RECALLED)
        self._tell_notices()

    def run(self) -> None:
        """Until the user leaves."""
        leaving = False
        while True:
            try:
                self._screen.space()
                text = self._prompt.read()
                leaving = False
                if text.strip() and not self.turn(text):
                    return
            except EOFError:
                return
            except KeyboardInterrupt:  # at the prompt with nothing typed, or just before it came
                if leaving:
                    return
                leaving = True
                self._screen.notice("Ctrl-C again leaves, as Ctrl-D does")

    def turn(self, text: str) -> bool:
        """Does what was typed. False if it was to leave."""
        try:
            return self._show(commands.run(self._context, text.rstrip()) or self._ask(text.strip()))
        except EngineroomError as error:
            self._screen.error(error)
        except KeyboardInterrupt:
            self._screen.notice("stopped")
        finally:
            self._tell_notices()
        return True

    def _ask(self, text: str) -> Stream:
        return Stream(self._session.ask(text))

    def _show(self, outcome: Outcome) -> bool:
        match outcome:
            case Leave():
                return False
            case Notice(text):
                self._screen.notice(text)
            case Table():
                self._screen.table(outcome)
            case Shown(text):
                self._screen.notice(text)
                self._screen.recall(self._session.messages, _RECALLED)
            case Stream():
                self._stream(outcome)
        return True

    def _stream(self, stream: Stream) -> None:
        session, screen = self._session, self._screen
        if stream.question is not None:
            screen.question(stream.question)
        before = session.messages
        stopped = screen.answer(stream.answer, session.model.renderer.template.thinking_tags)
        if session.messages is before:
            screen.notice("stopped before the first token; nothing was kept, Up brings your message back")
        elif (answer := session.last_answer) is not None and (screen.is_rich or stopped):
            screen.footer(answer, session.context_used, session.model.context_length)

    def _tell_notices(self) -> None:
        for notice in self._session.take_notices():
            if isinstance(notice, EngineroomError):
                self._screen.error(notice)
            else:
                self._screen.notice(notice)
