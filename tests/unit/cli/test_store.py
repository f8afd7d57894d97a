"""Conversations kept on this machine."""

import sqlite3
import stat
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engineroom.cli import store as store_module
from engineroom.cli.conversation import Said
from engineroom.cli.home import history_wanted, home
from engineroom.cli.store import ConversationStore
from engineroom.errors import HistoryError

HI = (
    Said("user", "Hi there"),
    Said("assistant", "Hello!", ended="stop", prompt_tokens=5, completion_tokens=2),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "c.sqlite"


@pytest.fixture
def store(file: Path) -> Generator[ConversationStore, None, None]:
    with ConversationStore.open(file) as store:
        yield store


def talk(store: ConversationStore, *texts: str) -> int:
    number = store.create("demo", "huggingface", {"temperature": 0.0})
    store.append(number, *(Said("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts)))
    return number


def test_what_is_kept_comes_back_as_it_was(store: ConversationStore) -> None:
    number = store.create("demo", "huggingface", {"temperature": 0.0})
    store.append(number, *HI)
    kept = store.get(number)
    assert kept is not None
    assert kept.messages == HI
    summary = kept.summary
    assert (summary.model, summary.engine, summary.settings) == ("demo", "huggingface", {"temperature": 0.0})
    assert (summary.title, summary.name, summary.messages) == ("Hi there", None, 2)
    assert summary.created.tzinfo is not None
    assert summary.created <= summary.updated


def test_replacing_takes_the_old_words_out_of_the_search_too(store: ConversationStore) -> None:
    number = talk(store, "an elephant", "grey")
    store.replace(number, [Said("user", "a mouse")])
    assert store.search("elephant") == []
    assert [hit.excerpt for hit in store.search("mouse")] == ["a mouse"]
    kept = store.get(number)
    assert kept is not None
    assert kept.summary.title == "a mouse"


def test_the_last_one_is_the_one_last_added_to(store: ConversationStore) -> None:
    assert store.last() is None
    first, second = talk(store, "one"), talk(store, "two")
    assert [s.id for s in store.recent()] == [second, first]
    store.append(first, Said("assistant", "again"))
    last = store.last()
    assert last is not None
    assert last.summary.id == first
    assert [s.id for s in store.recent(limit=1)] == [first]


def test_search_finds_all_words_whatever_their_case_and_accents(store: ConversationStore) -> None:
    talk(store, "Where is the Café?", "In Paris.")
    talk(store, "A cafe in Rome")
    assert len(store.search("cafe")) == 2
    assert [hit.role for hit in store.search("PARIS")] == ["assistant"]
    assert [hit.excerpt for hit in store.search("cafe rome")] == ["A cafe in Rome"]
    assert len(store.search("caf")) == 2
    assert len(store.search("cafe", limit=1)) == 1
    assert store.search("café zürich") == store.search("  ") == []


def test_search_finds_parts_of_words_and_takes_every_character_as_itself(store: ConversationStore) -> None:
    talk(store, "北京的天气怎么样", 'it is 100% "sure" AND _so_')
    assert len(store.search("天气")) == 1
    assert len(store.search("100%")) == 1
    assert len(store.search('"sure"')) == 1
    assert len(store.search("_so_")) == 1
    assert store.search("%x") == store.search("NEAR(") == []


def test_a_hit_shows_the_part_around_the_word(store: ConversationStore) -> None:
    talk(store, "x " * 200 + "needle" + " y" * 200)
    (hit,) = store.search("needle")
    assert "needle" in hit.excerpt
    assert len(hit.excerpt) < 100
    assert hit.excerpt.startswith("…")
    assert hit.excerpt.endswith("…")


def test_search_works_without_the_full_text_index(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_has_fts5", lambda db: False)
    with ConversationStore.open(file) as store:
        talk(store, "an elephant", "is grey")
        assert [hit.excerpt for hit in store.search("ELEPH")] == ["an elephant"]
        store.replace(1, [Said("user", "mouse")])
        assert store.search("elephant") == []


def test_a_name_finds_a_conversation_and_is_had_once(store: ConversationStore) -> None:
    first, second = talk(store, "one"), talk(store, "two")
    store.rename(first, "my talk")
    kept = store.get("my talk")
    assert kept is not None
    assert (kept.summary.id, kept.summary.title) == (first, "my talk")
    assert store.names() == ["my talk"]
    with pytest.raises(HistoryError, match="another conversation is called 'my talk'"):
        store.rename(second, "my talk")
    by_number = store.get(str(second))
    assert by_number is not None
    assert by_number.summary.id == second


def test_deleted_is_gone(store: ConversationStore) -> None:
    number = talk(store, "secret")
    assert store.delete(number)
    assert not store.delete(number)
    assert store.get(number) is None
    assert store.search("secret") == []


def test_another_model_may_go_on(store: ConversationStore) -> None:
    number = talk(store, "one")
    store.retarget(number, "other", "vllm", {"top_k": 1})
    kept = store.get(number)
    assert kept is not None
    assert (kept.summary.model, kept.summary.engine, kept.summary.settings) == ("other", "vllm", {"top_k": 1})


def test_only_the_owner_may_read_the_file(store: ConversationStore, file: Path) -> None:
    talk(store, "private")
    for path in file.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_it_is_reopened_with_all_in_it(store: ConversationStore, file: Path) -> None:
    talk(store, "one")
    store.close()
    with ConversationStore.open(file) as again:
        assert [s.title for s in again.recent()] == ["one"]


def test_something_is_told_once(store: ConversationStore) -> None:
    assert store.first_time("notice")
    assert not store.first_time("notice")
    assert store.first_time("other")


def test_many_writers_at_once_lose_nothing(file: Path) -> None:
    def write(i: int) -> None:
        with ConversationStore.open(file) as store:
            for k in range(5):
                talk(store, f"writer {i} talk {k}", "ok")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    with ConversationStore.open(file) as store:
        assert len(store.recent(100)) == 20
        assert len(store.search("writer", 100)) == 20


def test_a_corrupt_file_is_told_with_what_to_do(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"not a database" * 100)
    with pytest.raises(HistoryError, match="file is not a database") as caught:
        ConversationStore.open(file)
    assert "--no-history" in caught.value.fix
    assert file.read_bytes().startswith(b"not a database")


def test_a_place_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match="can't be used"):
        ConversationStore.open(tmp_path / "file" / "c.sqlite")


def test_a_newer_file_is_left_alone(store: ConversationStore, file: Path) -> None:
    store.close()
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(HistoryError, match="newer engineroom"):
        ConversationStore.open(file)


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENGINEROOM_HOME", str(tmp_path / "mine"))
    assert home() == tmp_path / "mine"
    with ConversationStore.open() as store:
        assert store.path == tmp_path / "mine" / "conversations.sqlite"
    monkeypatch.delenv("ENGINEROOM_HOME")
    assert home().name == "engineroom"


@pytest.mark.parametrize(
    ("value", "wanted"), [("0", False), ("off", False), ("False", False), ("1", True), ("", True)]
)
def test_the_off_switch(monkeypatch: pytest.MonkeyPatch, value: str, wanted: bool) -> None:
    monkeypatch.setenv("ENGINEROOM_HISTORY", value)
    assert history_wanted() is wanted
