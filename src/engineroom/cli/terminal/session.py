"""The state of a chat: a model, a conversation, and the settings made on the way. It knows no terminal.

A conversation changes only when an answer has come to its end or was stopped; when a turn fails, it is as before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeAlias

from engineroom.chat import ChatModel
from engineroom.cli.conversation import STOPPED, Conversation, Said
from engineroom.cli.store import ConversationStore
from engineroom.cli.terminal.keeper import Keeper, Origin
from engineroom.cli.terminal.meter import Meter
from engineroom.errors import ArgumentError, EngineroomError, HistoryError
from engineroom.types import Delta

Answer: TypeAlias = Generator[Delta, None, None]
"""An answer on its way. Closing it, or an interrupt while it waits, keeps the part that came, marked as stopped."""

Loader: TypeAlias = Callable[[Mapping[str, Any]], ChatModel]


class Session:
    """One chat, from start to end; the model in it may change.

    Attributes:
        model: who answers.
        system: the system prompt, or None.
        messages: what was said, system prompt left out.
        overrides: sampling parameters set here.
        thinking: True, False, or None for the template's own default.
        notices: what the user should be told, taken by :meth:`take_notices`.
        answers: every answer of this session, undone ones included, for the statistics.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        load: Loader = ChatModel,
        system: str | None = None,
        store: ConversationStore | None = None,
    ) -> None:
        self.model = model
        self.started_system = system if system is not None else model.arguments.default_system
        self.system = self.started_system
        self.messages: tuple[Said, ...] = ()
        self.overrides: dict[str, Any] = {}
        self.thinking: bool | None = None
        self.notices: list[str | EngineroomError] = []
        self.answers: list[Said] = []
        self._load = load
        self.keeper = Keeper(store, self._on_history_problem)

    # --- what was said -----------------------------------------------------------------------------------------

    @property
    def last_answer(self) -> Said | None:
        return self.messages[-1] if self.messages and self.messages[-1].role == "assistant" else None

    @property
    def last_question(self) -> str | None:
        """The last user message's text."""
        return next((m.text for m in reversed(self.messages) if m.role == "user"), None)

    @property
    def whole(self) -> tuple[Said, ...]:
        """The conversation, system prompt included."""
        return ((Said("system", self.system),) if self.system is not None else ()) + self.messages

    # --- answers -----------------------------------------------------------------------------------------------

    def ask(self, text: str) -> Answer:
        """The answer to a new message."""
        return self._answer((*self.messages, Said("user", text)))

    def regenerate(self) -> Answer:
        """Another answer to the last message."""
        return self._answer(self._until_question("there is nothing to answer again"))

    def edit(self, text: str) -> Answer:
        """The answer to another last message."""
        before = self._until_question("there is no message to edit")
        return self._answer((*before[:-1], replace(before[-1], text=text)))

    def go_on(self) -> Answer:
        """The rest of the last answer."""
        if self.last_answer is None:
            raise ArgumentError("there is no answer to go on with", fix="ask something first")
        return self._answer(self.messages[:-1], begun=self.last_answer)

    def undo(self) -> str:
        """Takes the last turn back, and returns its message's text."""
        before = self._until_question("there is nothing to undo")
        self._settle(before[:-1])
        return before[-1].text

    def _until_question(self, otherwise: str) -> tuple[Said, ...]:
        for place in range(len(self.messages) - 1, -1, -1):
            if self.messages[place].role == "user":
                return self.messages[: place + 1]
        raise ArgumentError(otherwise, fix="ask something first")

    def _answer(self, before: tuple[Said, ...], begun: Said | None = None) -> Answer:
        said = (*before, begun) if begun else before
        system = [Said("system", self.system)] if self.system is not None else []
        messages = [message.as_message() for message in (*system, *said)]
        meter = Meter(self.model.renderer.template.thinking_tags, begun)
        try:
            with closing(self._deltas(messages, going_on=begun is not None)) as deltas:
                for delta in deltas:
                    meter.push(delta)
                    yield delta
        except (GeneratorExit, KeyboardInterrupt):
            if not meter.empty:
                prompt = self.model.render(
                    messages, enable_thinking=self.thinking, continue_final=begun is not None
                )
                self._end_turn(before, begun, meter.said(len(prompt)))
            raise
        self._end_turn(before, begun, meter.said())

    def _deltas(self, messages: list[dict[str, str]], *, going_on: bool) -> Answer:
        return self.model.stream_deltas(
            messages, enable_thinking=self.thinking, continue_final=going_on, n=1, **self.overrides
        )

    def _end_turn(self, before: tuple[Said, ...], begun: Said | None, answer: Said) -> None:
        self.answers = [*(a for a in self.answers if a is not begun), answer]
        self._settle((*before, answer))

    def _settle(self, messages: tuple[Said, ...]) -> None:
        self.messages = messages
        self.keeper.keep(self.whole, Origin.of(self.model))

    # --- the conversation --------------------------------------------------------------------------------------

    def set_system(self, text: str | None) -> None:
        """Changes the system prompt, for all that comes."""
        self.system = text
        if self.messages:
            self._settle(self.messages)

    def clear(self) -> int | None:
        """Begins a new conversation. Returns the number of the one left, if it was kept."""
        number = self.keeper.number
        self.keeper.begin()
        self.messages = ()
        return number

    def load_messages(self, messages: tuple[Said, ...]) -> None:
        """Goes on with a conversation that was read from a file, as a new one."""
        self.keeper.begin()
        self._take_over(messages)
        self._settle(self.messages)

    def resume(self, conversation: Conversation) -> None:
        """Goes on with a kept conversation."""
        self.keeper.adopt(conversation)
        self._take_over(conversation.messages)

    def _take_over(self, messages: tuple[Said, ...]) -> None:
        systems = [m.text for m in messages if m.role == "system"]
        self.system = systems[0] if systems else None
        self.messages = tuple(m for m in messages if m.role != "system")

    # --- the model ---------------------------------------------------------------------------------------------

    @property
    def context_used(self) -> int | None:
        """Tokens of the context that the last answer's prompt and the answer took."""
        last = self.last_answer
        if last is None or last.prompt_tokens is None:
            return None
        return last.prompt_tokens + (last.completion_tokens or 0)

    @property
    def can_think(self) -> bool:
        """Has the chat template a switch for thinking?"""
        return self.model.renderer.template.supports_thinking

    def switch(self, arguments: Mapping[str, Any]) -> None:
        """Another model goes on with the conversation.

        The new one is loaded before the old one is closed, so that a failure leaves the old one in place. Both need
        memory for a moment.
        """
        new = self._load(arguments)
        old, self.model = self.model, new
        old.close()
        if self.thinking is not None and not self.can_think:
            self.thinking = None
            self.notices.append(
                "thinking is back at the template's default: this template has no switch for it"
            )
        try:
            new.resolve_sampling(**self.overrides)
        except EngineroomError as error:
            self.overrides = {}
            self.notices.append(f"what was set with /set is taken back: {error.what}")

    # --- notices -----------------------------------------------------------------------------------------------

    def take_notices(self) -> list[str | EngineroomError]:
        """What happened beside the answers since this was last asked."""
        taken, self.notices = self.notices, []
        return taken

    def _on_history_problem(self, error: HistoryError) -> None:
        self.notices += [error, "the conversation goes on, but is not kept any more"]


def can_go_on(answer: Said | None) -> bool:
    """Was the answer cut before its end?"""
    return answer is not None and answer.ended in ("length", STOPPED)
