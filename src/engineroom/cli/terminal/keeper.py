"""Keeps a session's conversation in the store, and goes on without when that fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from engineroom import demo
from engineroom.chat import ChatModel
from engineroom.cli.conversation import Conversation, Said
from engineroom.cli.store import ConversationStore
from engineroom.errors import HistoryError

_PATHS = {"model_name_or_path", "adapter_name_or_path", "adapter_folder", "template"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Which model answers: what a kept conversation needs to be gone on with."""

    model: str
    engine: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, model: ChatModel) -> Origin:
        settings = model.arguments.model_dump(mode="json", exclude_unset=True, exclude={"hf_hub_token"})
        for name in _PATHS & settings.keys():
            settings[name] = _from_anywhere(settings[name])
        return cls(model.arguments.model_name_or_path, model.engine.name, settings)


def _from_anywhere(value: Any) -> Any:
    """A path as it reads from any folder; a name that is no path stays."""
    if isinstance(value, list):
        return [_from_anywhere(item) for item in cast("list[Any]", value)]
    if not isinstance(value, str) or value in (*demo.NAMES, "chatml"):
        return value
    path = Path(value).expanduser()
    return str(path.resolve()) if path.exists() else value


class Keeper:
    """Writes a conversation down whenever it changed.

    Args:
        store: None keeps nothing.
        on_problem: told once, when the store can't be written any more.
    """

    def __init__(self, store: ConversationStore | None, on_problem: Callable[[HistoryError], None]) -> None:
        self.store = store
        self.number: int | None = None
        self._kept: tuple[Said, ...] = ()
        self._origin: Origin | None = None
        self._on_problem = on_problem

    def first_notice(self) -> str | None:
        """That conversations are kept, and how to turn it off: the first time that they are."""
        try:
            if self.store is None or not self.store.first_time("history notice"):
                return None
        except HistoryError as error:
            self._give_up(error)
            return None
        return (
            f"conversations are kept on this machine, in {self.store.path}; "
            "--no-history or ENGINEROOM_HISTORY=0 turns that off"
        )

    def adopt(self, conversation: Conversation) -> None:
        """Goes on with a kept conversation."""
        summary = conversation.summary
        self.number, self._kept = summary.id, conversation.messages
        self._origin = Origin(summary.model, summary.engine, summary.settings)

    def begin(self) -> None:
        """What comes next is another conversation."""
        self.number, self._kept, self._origin = None, (), None

    def keep(self, messages: Sequence[Said], origin: Origin) -> None:
        """Makes the kept conversation equal to ``messages``. One without a user's word in it is not kept."""
        if self.store is None:
            return
        now = tuple(messages)
        try:
            self._write(self.store, now, origin)
        except HistoryError as error:
            self._give_up(error)

    def _give_up(self, error: HistoryError) -> None:
        self.store = None
        self._on_problem(error)

    def _write(self, store: ConversationStore, now: tuple[Said, ...], origin: Origin) -> None:
        if not any(message.role == "user" for message in now):
            if self.number is not None:
                store.delete(self.number)
            self.begin()
            return
        if self.number is None:
            self.number = store.create(origin.model, origin.engine, origin.settings)
        elif origin != self._origin:
            store.retarget(self.number, origin.model, origin.engine, origin.settings)
        if now[: len(self._kept)] == self._kept:
            store.append(self.number, *now[len(self._kept) :])
        else:
            store.replace(self.number, now)
        self._kept, self._origin = now, origin
