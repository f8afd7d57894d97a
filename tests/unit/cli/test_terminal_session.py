"""The state of a chat, without a terminal."""

from pathlib import Path

import pytest
from talking import THINKING_TEMPLATE, Making, drain

from engineroom import ChatModel, Reply, ScriptedEngine
from engineroom.cli.conversation import Conversation, Said
from engineroom.cli.store import ConversationStore
from engineroom.cli.terminal.session import can_go_on
from engineroom.errors import EngineroomError, GenerationError, HistoryError, PromptTooLongError


def kept(store: ConversationStore) -> Conversation:
    last = store.last()
    assert last is not None
    return last


def test_a_conversation_grows_turn_by_turn(make: Making) -> None:
    chat = make("one", "two")
    assert chat.type("first") == "one"
    assert chat.type("second") == "two"
    assert chat.said == [("user", "first"), ("assistant", "one"), ("user", "second"), ("assistant", "two")]
    assert "first" in chat.last_prompt
    assert "one" in chat.last_prompt


def test_an_answer_carries_how_it_came_about(make: Making) -> None:
    chat = make("Hello!")
    chat.type("hi")
    answer = chat.session.last_answer
    assert answer is not None
    assert answer.ended == "stop"
    assert (answer.prompt_tokens, answer.completion_tokens) == (len(chat.engine.requests[0][0]), 7)
    assert answer.first_token_seconds is not None
    assert answer.seconds is not None
    assert 0 <= answer.first_token_seconds <= answer.seconds
    assert chat.session.context_used == len(chat.engine.requests[0][0]) + 7
    assert not can_go_on(answer)


def test_leaving_an_answer_keeps_the_part_that_came(make: Making) -> None:
    chat = make(Reply("Hello world", pause_at=5))
    answer = chat.session.ask("hi")
    came = "".join(next(answer).text for _ in range(5))
    answer.close()
    last = chat.session.last_answer
    assert last is not None
    assert (last.text, last.ended, last.completion_tokens) == (came, "stopped", 5)
    assert last.prompt_tokens == len(chat.engine.requests[0][0])
    assert came == "Hello"
    assert can_go_on(last)
    assert chat.engine.cancelled == 1


def test_leaving_before_the_first_token_keeps_nothing(make: Making) -> None:
    chat = make("Hello")
    answer = chat.session.ask("hi")
    answer.close()
    assert chat.said == []


@pytest.mark.parametrize("reply", [Reply("part", error=ValueError("boom")), Reply("part", die=True)])
def test_a_failed_turn_changes_nothing(make: Making, reply: Reply) -> None:
    chat = make("fine", reply)
    chat.type("first")
    before = chat.session.messages
    with pytest.raises(EngineroomError):
        chat.type("second")
    assert chat.session.messages is before


def test_too_long_a_prompt_changes_nothing_and_the_next_one_works(make: Making) -> None:
    chat = make("fine")
    with pytest.raises(PromptTooLongError):
        chat.type("x" * 5000)
    assert chat.said == []
    assert chat.type("short") == "fine"


def test_a_failed_regeneration_keeps_the_old_answer(make: Making) -> None:
    chat = make("good", Reply("bad", error=ValueError()))
    chat.type("hi")
    with pytest.raises(GenerationError):
        chat.type("/regen")
    assert chat.said == [("user", "hi"), ("assistant", "good")]


def test_thoughts_are_kept_apart_without_their_tags(make: Making) -> None:
    chat = make("<think>\nlet me see\n</think>\n\n12.", template=THINKING_TEMPLATE)
    chat.type("7 + 5?")
    answer = chat.session.last_answer
    assert answer is not None
    assert (answer.text, answer.reasoning) == ("12.", "let me see")
    assert answer.as_message() == {"role": "assistant", "content": "12.", "reasoning_content": "let me see"}


def test_a_cut_thought_goes_on_to_the_answer(make: Making) -> None:
    chat = make("<think>\nlet me", " see\n</think>\n\n12.", template=THINKING_TEMPLATE)
    chat.type("/set max_new_tokens=7")
    chat.type("7 + 5?")
    first = chat.session.last_answer
    assert first is not None
    assert (first.text, first.reasoning, first.ended) == ("", "let m", "length")
    chat.type("/set max_new_tokens=default")
    chat.type("/continue")
    assert chat.last_prompt.endswith("<think>\nlet m")
    whole = chat.session.last_answer
    assert whole is not None
    assert (whole.text, whole.reasoning, whole.ended) == ("12.", "let m see", "stop")


# --- keeping -------------------------------------------------------------------------------------------------------


def test_what_is_said_is_kept_at_once(make: Making, store: ConversationStore) -> None:
    chat = make("one", "two", store=store, system="Be brief.")
    chat.type("first")
    assert [m.text for m in kept(store).messages] == ["Be brief.", "first", "one"]
    assert kept(store).messages[2] == chat.session.last_answer
    chat.type("second")
    assert len(kept(store).messages) == 5
    chat.type("/undo")
    assert len(kept(store).messages) == 3
    chat.type("/system Be long.")
    assert [m.text for m in kept(store).messages] == ["Be long.", "first", "one"]
    assert len(store.recent()) == 1


def test_a_conversation_undone_to_nothing_is_not_kept(make: Making, store: ConversationStore) -> None:
    chat = make(store=store)
    chat.type("first")
    chat.type("/undo")
    assert store.recent() == []
    chat.type("again")
    assert [s.title for s in store.recent()] == ["again"]


def test_it_can_be_resumed_elsewhere(make: Making, store: ConversationStore) -> None:
    make("one", store=store, system="Be brief.").type("first")
    other = make("two", store=store)
    other.session.resume(kept(store))
    assert other.session.system == "Be brief."
    other.type("second")
    assert "first" in other.last_prompt
    assert "Be brief." in other.last_prompt
    assert len(store.recent()) == 1
    assert len(kept(store).messages) == 5


def test_the_token_of_the_hub_is_not_kept(make: Making, store: ConversationStore) -> None:
    make(store=store, arguments={"hf_hub_token": "secret", "temperature": 0.5}).type("hi")
    assert kept(store).summary.settings == {"temperature": 0.5}


def test_paths_are_kept_so_that_they_hold_from_any_folder(
    make: Making, store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("base", "lora", "demo"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    make(
        store=store, arguments={"model_name_or_path": "base", "adapter_name_or_path": "lora,org/other"}
    ).type("hi")
    assert kept(store).summary.settings == {
        "model_name_or_path": str(tmp_path / "base"),
        "adapter_name_or_path": [str(tmp_path / "lora"), "org/other"],
    }
    make(store=store, arguments={"model_name_or_path": "demo"}).type("hi")
    assert kept(store).summary.settings == {"model_name_or_path": "demo"}


def test_a_broken_store_is_told_once_and_the_chat_goes_on(make: Making, store: ConversationStore) -> None:
    chat = make("one", "two", store=store)
    store.close()
    assert chat.type("first") == "one"
    error, note = chat.session.take_notices()
    assert isinstance(error, HistoryError)
    assert "not kept any more" in str(note)
    assert chat.type("second") == "two"
    assert chat.session.take_notices() == []
    assert len(chat.said) == 4


# --- another model -------------------------------------------------------------------------------------------------


def test_switching_closes_the_old_model_after_the_new_one_came(
    make: Making, store: ConversationStore
) -> None:
    new = ChatModel({"model_name_or_path": "demo"}, engine=ScriptedEngine(["new"]))
    chat = make("old", store=store, load=lambda arguments: new)
    old = chat.session.model
    chat.type("hi")
    chat.session.switch({})
    assert (old.health().state, new.health().state) == ("closed", "ready")
    assert chat.type("again") == "new"
    assert len(chat.said) == 4
    assert len(store.recent()) == 1


def test_settings_that_the_new_model_refuses_are_taken_back(make: Making) -> None:
    new = ChatModel(engine=ScriptedEngine(["new"]))
    chat = make("old", load=lambda arguments: new, template=THINKING_TEMPLATE)
    chat.session.thinking = True
    chat.session.overrides = {"repetition_penalty": 1.5}
    chat.session.switch({})
    assert chat.session.thinking is None
    assert chat.session.overrides == {}
    assert ["thinking" in str(n) or "taken back" in str(n) for n in chat.session.take_notices()] == [
        True,
        True,
    ]


def test_messages_read_from_a_file_begin_a_new_conversation(make: Making, store: ConversationStore) -> None:
    chat = make("one", "two", store=store)
    chat.type("first")
    chat.session.load_messages((Said("system", "S"), Said("user", "a"), Said("assistant", "b")))
    assert chat.session.system == "S"
    assert drain(chat.session.ask("c")) == "two"
    assert len(store.recent()) == 2
