"""``engineroom logs``: the conversations that are kept on this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engineroom.cli.command import JsonFlag, refuse_settings
from engineroom.cli.console import BOLD, CYAN, DIM, columns, paint, print_json
from engineroom.errors import ArgumentError, HistoryError

if TYPE_CHECKING:
    from engineroom.cli.conversation import Conversation, Hit, Said, Summary
    from engineroom.cli.store import ConversationStore

EXAMPLES = """\
engineroom logs                      the latest conversations
engineroom logs capital of france    messages with these words, or words that begin so
engineroom logs --id 12              one conversation, by number or name
engineroom logs --id 12 --json       the same, for a program
engineroom logs --id 12 --delete     forget it
engineroom logs --path               the file that they are in
"""


def logs(
    context: typer.Context,
    query: Annotated[
        list[str] | None, typer.Argument(metavar="QUERY", help="Words to search for.", show_default=False)
    ] = None,
    key: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Show one conversation, by number or name.")
    ] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="Show at most so many.")] = 20,
    delete: Annotated[bool, typer.Option("--delete", help="Forget the conversation named by --id.")] = False,
    path: Annotated[bool, typer.Option("--path", help="Print the path of the file and leave.")] = False,
    as_json: JsonFlag = False,
) -> int:
    """List and search the conversations kept on this machine.

    `engineroom chat` keeps them.

    With --json, a list of conversations (id, name, title, model, engine, created, updated, messages); of hits
    (conversation, role, excerpt) for a search; or one conversation with its settings and messages for --id.
    """
    refuse_settings(context, "logs")
    words = " ".join(query or [])
    if key is not None and words:
        raise ArgumentError("there are words to search for and --id", fix="give one of the two")
    if delete and key is None:
        raise ArgumentError("--delete needs a conversation", fix="engineroom logs --id ID --delete")
    file = _file()
    if path:
        print_json({"path": str(file)}) if as_json else print(file)
        return 0
    if not file.exists():
        return _nothing(key, as_json)
    from engineroom.cli.store import ConversationStore

    with ConversationStore.open(file) as store:
        if key is not None:
            return _forget(store, key, as_json) if delete else _show_one(store, key, as_json)
        if words:
            return _show_hits(store.search(words, limit), words, as_json)
        return _show_list(store.recent(limit), as_json)


def _file() -> Path:
    from engineroom.cli.home import home
    from engineroom.cli.store import FILE_NAME

    return home() / FILE_NAME


def _nothing(key: str | None, as_json: bool) -> int:
    if key is not None:
        raise _no_such(key)
    if as_json:
        print_json([])
    else:
        print("no conversations are kept yet; `engineroom chat` begins one", file=sys.stderr)
    return 0


# --- lists ------------------------------------------------------------------------------------------------------


def _show_list(summaries: Sequence[Summary], as_json: bool) -> int:
    if as_json:
        print_json([_summary_as_json(summary) for summary in summaries])
        return 0
    if not summaries:
        return _nothing(None, as_json)
    rows = [(str(s.id), _when(s.updated), s.model, f"{s.messages} messages", s.title) for s in summaries]
    print(columns(rows, indent=""))
    if sys.stdout.isatty():
        print(paint("--id N shows one; `engineroom chat -c` goes on with the first", DIM, sys.stdout))
    return 0


def _show_hits(hits: Sequence[Hit], words: str, as_json: bool) -> int:
    if as_json:
        print_json([
            {"conversation": _summary_as_json(h.conversation), "role": h.role, "excerpt": h.excerpt} for h in hits
        ])  # fmt: skip
        return 0
    if not hits:
        print(f"nothing was said with {words!r} in it", file=sys.stderr)
        return 0
    rows = [(str(h.conversation.id), _when(h.conversation.updated), h.role, h.excerpt) for h in hits]
    print(columns(rows, indent=""))
    return 0


# --- one conversation -------------------------------------------------------------------------------------------


def _show_one(store: ConversationStore, key: str, as_json: bool) -> int:
    conversation = _find(store, key)
    if as_json:
        print_json(_as_json(conversation))
        return 0
    summary = conversation.summary
    print(paint(f"{summary.id}  {summary.title}", BOLD, sys.stdout))
    print(paint(f"{_when(summary.created)}  {summary.model} on {summary.engine}", DIM, sys.stdout))
    for message in conversation.messages:
        print(f"\n{paint(message.role, CYAN, sys.stdout)}{_ending(message)}")
        if message.reasoning:
            print(paint(message.reasoning, DIM, sys.stdout))
        print(message.text)
    return 0


def _ending(message: Said) -> str:
    """How an answer ended, where that is worth a word."""
    return f" {paint(f'({message.ended})', DIM, sys.stdout)}" if message.ended not in (None, "stop") else ""


def _forget(store: ConversationStore, key: str, as_json: bool) -> int:
    summary = _find(store, key).summary
    store.delete(summary.id)
    if as_json:
        print_json({"deleted": summary.id})
    else:
        print(f"forgot conversation {summary.id}: {summary.title}")
    return 0


def _find(store: ConversationStore, key: str) -> Conversation:
    conversation = store.get(key)
    if conversation is None:
        raise _no_such(key)
    return conversation


def _no_such(key: str) -> HistoryError:
    return HistoryError(f"there is no conversation {key!r}", fix="`engineroom logs` lists them")


def _when(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _summary_as_json(summary: Summary) -> dict[str, Any]:
    return {
        "id": summary.id,
        "name": summary.name,
        "title": summary.title,
        "model": summary.model,
        "engine": summary.engine,
        "created": summary.created.isoformat(),
        "updated": summary.updated.isoformat(),
        "messages": summary.messages,
    }


def _as_json(conversation: Conversation) -> dict[str, Any]:
    return {
        **_summary_as_json(conversation.summary),
        "settings": dict(conversation.summary.settings),
        "messages": [
            {
                "role": m.role,
                "text": m.text,
                "reasoning": m.reasoning,
                "ended": m.ended,
                "prompt_tokens": m.prompt_tokens,
                "completion_tokens": m.completion_tokens,
                "first_token_seconds": m.first_token_seconds,
                "seconds": m.seconds,
            }
            for m in conversation.messages
        ],
    }
