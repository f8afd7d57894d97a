"""Conversations kept on this machine, in one SQLite file that only its owner can read.

>>> with ConversationStore.open() as store:
...     number = store.create("demo", "huggingface")
...     store.append(number, Said("user", "hi"), Said("assistant", "Hello!"))
...     store.search("hello")[0].conversation.id == number
True
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from engineroom.cli.conversation import Conversation, Hit, Said, Speaker, Summary, title_of
from engineroom.cli.home import home, private_file
from engineroom.errors import HistoryError

FILE_NAME = "conversations.sqlite"
_VERSION = 1
_BUSY_SECONDS = 5.0
_EXCERPT = 40  # characters on each side of what was found

_TABLES = """
CREATE TABLE conversation (
    id INTEGER PRIMARY KEY,
    name TEXT UNIQUE,
    title TEXT NOT NULL DEFAULT '',
    model TEXT NOT NULL,
    engine TEXT NOT NULL,
    settings TEXT NOT NULL,
    created REAL NOT NULL,
    updated REAL NOT NULL
);
CREATE TABLE message (
    id INTEGER PRIMARY KEY,
    conversation INTEGER NOT NULL REFERENCES conversation ON DELETE CASCADE,
    role TEXT NOT NULL,
    text TEXT NOT NULL,
    reasoning TEXT NOT NULL,
    ended TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    first_token_seconds REAL,
    seconds REAL
);
CREATE INDEX message_of ON message (conversation, id);
CREATE TABLE once (what TEXT PRIMARY KEY);
"""

_INDEX = """
CREATE VIRTUAL TABLE words USING fts5 (
    text, content='message', content_rowid='id', tokenize='unicode61 remove_diacritics 2'
);
CREATE TRIGGER message_added AFTER INSERT ON message BEGIN
    INSERT INTO words (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER message_removed AFTER DELETE ON message BEGIN
    INSERT INTO words (words, rowid, text) VALUES ('delete', old.id, old.text);
END;
"""

_SUMMARY = """
SELECT c.*, (SELECT COUNT(*) FROM message WHERE conversation = c.id) AS messages FROM conversation c
"""

_FIELDS = (
    "role", "text", "reasoning", "ended",
    "prompt_tokens", "completion_tokens", "first_token_seconds", "seconds",
)  # fmt: skip
_ADD = f"INSERT INTO message (conversation, {', '.join(_FIELDS)}) VALUES (?{', ?' * len(_FIELDS)})"


class ConversationStore:
    """Conversations by number. Used from one thread; other processes may use the same file.

    Every method raises :class:`HistoryError` when the file can't be read or written.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._connection = connection
        connection.row_factory = sqlite3.Row

    @classmethod
    def open(cls, path: Path | None = None) -> Self:
        """Opens the file, or makes it.

        Args:
            path: the file; None is ``conversations.sqlite`` in :func:`engineroom.cli.home.home`.
        """
        path = path or home() / FILE_NAME
        try:
            connection = sqlite3.connect(private_file(path), timeout=_BUSY_SECONDS, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise _unusable(path, error) from error
        store = cls(connection, path)
        try:
            store._prepare()
        except BaseException:
            connection.close()
            raise
        return store

    def _prepare(self) -> None:
        with self._work():
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA foreign_keys=ON")
        with self._change() as db:  # the write lock: of two processes that come first, one makes the tables
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise HistoryError(
                    f"{str(self.path)!r} was written by a newer engineroom",
                    why=f"it has version {version}; this one knows {_VERSION}",
                    fix="update engineroom, or go without with --no-history",
                )
            if version == 0:
                for statement in _statements(_TABLES + (_INDEX if _has_fts5(db) else "")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={_VERSION}")

    # --- writing -----------------------------------------------------------------------------------------------

    def create(self, model: str, engine: str, settings: Mapping[str, Any] | None = None) -> int:
        """Begins a conversation and returns its number. ``settings`` are the model's arguments, JSON values."""
        now = _now()
        with self._change() as db:
            cursor = db.execute(
                "INSERT INTO conversation (model, engine, settings, created, updated) VALUES (?, ?, ?, ?, ?)",
                (model, engine, json.dumps(dict(settings or {}), default=str), now, now),
            )
        return cast("int", cursor.lastrowid)

    def append(self, number: int, *messages: Said) -> None:
        """Adds messages at the end of a conversation."""
        with self._change() as db:
            self._add(db, number, messages)

    def replace(self, number: int, messages: Iterable[Said]) -> None:
        """Puts ``messages`` in the place of all that was said."""
        with self._change() as db:
            db.execute("DELETE FROM message WHERE conversation = ?", (number,))
            self._add(db, number, tuple(messages))

    def retarget(self, number: int, model: str, engine: str, settings: Mapping[str, Any]) -> None:
        """Another model goes on with the conversation."""
        with self._change() as db:
            db.execute(
                "UPDATE conversation SET model = ?, engine = ?, settings = ? WHERE id = ?",
                (model, engine, json.dumps(dict(settings), default=str), number),
            )

    def rename(self, number: int, name: str) -> None:
        """Names a conversation, so that it can be loaded by that name.

        Raises:
            HistoryError: another conversation has the name.
        """
        try:
            with self._change() as db:
                db.execute("UPDATE conversation SET name = ? WHERE id = ?", (name, number))
        except HistoryError as error:
            if isinstance(error.__cause__, sqlite3.IntegrityError):
                raise HistoryError(
                    f"another conversation is called {name!r}",
                    fix="choose another name, or delete that one with `engineroom logs`",
                ) from error
            raise

    def delete(self, number: int) -> bool:
        """Forgets a conversation for good; False if there was none."""
        with self._change() as db:
            return db.execute("DELETE FROM conversation WHERE id = ?", (number,)).rowcount > 0

    def first_time(self, what: str) -> bool:
        """True the first time that it is asked about ``what``, on this machine."""
        with self._change() as db:
            return db.execute("INSERT OR IGNORE INTO once VALUES (?)", (what,)).rowcount > 0

    # --- reading -----------------------------------------------------------------------------------------------

    def get(self, key: int | str) -> Conversation | None:
        """The conversation with this number or name, or None."""
        with self._work() as db:
            row = db.execute(f"{_SUMMARY} WHERE c.name = ?", (str(key),)).fetchone()
            if row is None and str(key).isdecimal():
                row = db.execute(f"{_SUMMARY} WHERE c.id = ?", (int(key),)).fetchone()
            if row is None:
                return None
            messages = db.execute("SELECT * FROM message WHERE conversation = ? ORDER BY id", (row["id"],))
            return Conversation(_summary(row), tuple(Said(**{n: m[n] for n in _FIELDS}) for m in messages))

    def last(self) -> Conversation | None:
        """The conversation that was last added to, or None."""
        recent = self.recent(1)
        return self.get(recent[0].id) if recent else None

    def recent(self, limit: int = 20) -> list[Summary]:
        """The conversations last added to, latest first."""
        with self._work() as db:
            return [
                _summary(r)
                for r in db.execute(f"{_SUMMARY} ORDER BY updated DESC, id DESC LIMIT ?", (limit,))
            ]

    def names(self) -> list[str]:
        """The names that conversations were given."""
        with self._work() as db:
            rows = db.execute("SELECT name FROM conversation WHERE name IS NOT NULL ORDER BY updated DESC")
            return [row["name"] for row in rows]

    def search(self, query: str, limit: int = 20) -> list[Hit]:
        """The messages that hold all words of ``query`` (or words that begin so), the latest first."""
        words = query.split()
        if not words:
            return []
        with self._work() as db:
            rows = self._indexed(db, words, limit) or self._scanned(db, words, limit)
            summaries: dict[int, Summary] = {}
            for number in {row["conversation"] for row in rows}:
                found = db.execute(f"{_SUMMARY} WHERE c.id = ?", (number,)).fetchone()
                summaries[number] = _summary(found)
        return [
            Hit(summaries[r["conversation"]], cast("Speaker", r["role"]), excerpt(r["text"], words))
            for r in rows
        ]

    @staticmethod
    def _indexed(db: sqlite3.Connection, words: list[str], limit: int) -> list[sqlite3.Row]:
        """By the full-text index; nothing if this SQLite was built without it."""
        phrases = " ".join('"' + word.replace('"', '""') + '"*' for word in words)
        try:
            return db.execute(
                "SELECT m.* FROM words JOIN message m ON m.id = words.rowid"
                " WHERE words MATCH ? ORDER BY m.id DESC LIMIT ?",
                (phrases, limit),
            ).fetchall()
        except sqlite3.OperationalError:
            return []

    @staticmethod
    def _scanned(db: sqlite3.Connection, words: list[str], limit: int) -> list[sqlite3.Row]:
        """By reading everything: finds parts of words too, and languages that write without spaces."""
        where = " AND ".join("text LIKE ? ESCAPE '\\'" for _ in words)
        patterns = ["%" + _escaped(word) + "%" for word in words]
        return db.execute(
            f"SELECT * FROM message WHERE {where} ORDER BY id DESC LIMIT ?", (*patterns, limit)
        ).fetchall()

    # --- end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def _add(db: sqlite3.Connection, number: int, messages: tuple[Said, ...]) -> None:
        db.executemany(_ADD, [(number, *(getattr(m, name) for name in _FIELDS)) for m in messages])
        first = db.execute(
            "SELECT text FROM message WHERE conversation = ? AND role = 'user' ORDER BY id LIMIT 1", (number,)
        ).fetchone()
        title = title_of([Said("user", first["text"])]) if first else ""
        db.execute("UPDATE conversation SET updated = ?, title = ? WHERE id = ?", (_now(), title, number))

    @contextmanager
    def _work(self) -> Generator[sqlite3.Connection, None, None]:
        """The one place where SQLite's errors become ours."""
        try:
            yield self._connection
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error

    @contextmanager
    def _change(self) -> Generator[sqlite3.Connection, None, None]:
        """A transaction: all of it or nothing."""
        with self._work() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def excerpt(text: str, words: list[str]) -> str:
    """The part of ``text`` around the first of ``words`` in it, on one line."""
    line = " ".join(text.split())
    places = [place for word in words if (place := line.lower().find(word.lower())) >= 0]
    start = max(min(places, default=0) - _EXCERPT, 0)
    end = min(start + 2 * _EXCERPT + len(words[0]), len(line))
    return ("…" if start else "") + line[start:end] + ("…" if end < len(line) else "")


def _unusable(path: Path, error: Exception) -> HistoryError:
    busy = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
    return HistoryError(
        f"the conversations in {str(path)!r} can't be used",
        why=str(error),
        fix="close the other engineroom that is writing to it"
        if busy
        else "move that file away (a new one is made), or go without with --no-history",
    )


def _summary(row: sqlite3.Row) -> Summary:
    return Summary(
        id=row["id"],
        name=row["name"],
        title=row["name"] or row["title"],
        model=row["model"],
        engine=row["engine"],
        settings=json.loads(row["settings"]),
        created=datetime.fromtimestamp(row["created"], UTC),
        updated=datetime.fromtimestamp(row["updated"], UTC),
        messages=row["messages"],
    )


def _has_fts5(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").fetchone() is not None


def _statements(script: str) -> Generator[str, None, None]:
    """The statements of a script one by one: ``executescript`` would commit the transaction that they are in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _now() -> float:
    return datetime.now(UTC).timestamp()
