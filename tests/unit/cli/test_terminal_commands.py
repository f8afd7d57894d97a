"""Every slash command, as a user types it."""

import json
from pathlib import Path
from typing import Any

import pytest
from talking import THINKING_TEMPLATE, Making

from engineroom import ChatModel, Prompt, Reply, SamplingParams, ScriptedEngine
from engineroom.cli.conversation import Said
from engineroom.cli.store import ConversationStore
from engineroom.cli.terminal import commands, transcript
from engineroom.cli.terminal.outcome import Leave, Notice, Shown, Table
from engineroom.config import parse_arguments
from engineroom.errors import (
    ArgumentError,
    EngineroomError,
    HistoryError,
    ModelNotFoundError,
    ParameterError,
    UnsupportedError,
)


def rows(outcome: Any) -> dict[str, tuple[str, ...]]:
    assert isinstance(outcome, Table)
    return {row[0]: row[1:] for row in outcome.rows}


def text(outcome: Any) -> str:
    assert isinstance(outcome, Notice)
    return outcome.text


# --- adapters -------------------------------------------------------------------------------------------------------


def test_adapters_are_listed_loaded_and_unloaded(make: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = make()
    engine: Any = chat.engine
    engine.capabilities = {**engine.capabilities, "adapter": "native", "load_adapter": "native"}

    async def load(name: str, path: Path) -> None:
        engine.adapters = {**engine.adapters, name: path}

    async def unload(name: str) -> None:
        engine.adapters = {}

    monkeypatch.setattr(engine, "load_adapter", load)
    monkeypatch.setattr(engine, "unload_adapter", unload)
    assert "no adapters" in text(chat.type("/adapter"))
    assert "/set adapter=late" in text(chat.type("/adapter load late some folder/with a space"))
    assert rows(chat.type("/adapter")) == {"late": ("some folder/with a space",)}
    chat.type("/set adapter=late")
    assert chat.type("hi") == "Hello!"
    assert engine.requests[-1][1].adapter == "late"
    with pytest.raises(ArgumentError, match="answers here"):
        chat.type("/adapter unload late")
    chat.type("/set adapter=default")
    assert text(chat.type("/adapter unload late")) == "unloaded late"
    with pytest.raises(ParameterError, match="there is no adapter 'late'"):
        chat.type("/set adapter=late")


@pytest.mark.parametrize("rest", ["load", "load late", "unload", "unload a b", "late"])
def test_other_ways_to_say_adapter_are_refused(make: Making, rest: str) -> None:
    with pytest.raises(ArgumentError, match="is not a way to say it"):
        make().type(f"/adapter {rest}")


def test_an_engine_without_adapters_says_so(make: Making) -> None:
    with pytest.raises(UnsupportedError, match="huggingface"):
        make().type("/adapter load late x")


# --- what is a command ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", [" /help", "/etc/hosts is what?", "/1", "//", "clear the table", "exit?", " exit"]
)
def test_other_lines_are_messages(make: Making, line: str) -> None:
    chat = make("fine")
    assert chat.type(line) == "fine"
    assert chat.said[0] == ("user", line.strip())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("/regn", "/regen"), ("/contineu", "/continue"), ("/hlep", "/help"), ("/modle x", "/model")],
)
def test_a_typo_names_the_nearest_command(make: Making, typed: str, meant: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        make().type(typed)
    assert caught.value.fix == f"did you mean {meant}?"


def test_what_resembles_nothing_points_to_help(make: Making) -> None:
    with pytest.raises(ArgumentError) as caught:
        make().type("/xyzzy")
    assert "/help" in caught.value.fix


@pytest.mark.parametrize("line", ["/exit", "exit", "/quit", "/EXIT"])
def test_exit(make: Making, line: str) -> None:
    assert isinstance(make().type(line), Leave)


@pytest.mark.parametrize("line", ["/regen", "/continue", "/edit", "/undo", "/save x", "/export x.md"])
def test_what_needs_a_conversation_says_so(make: Making, line: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        make().type(line)
    assert caught.value.fix


@pytest.mark.parametrize("name", ["regen", "continue", "undo", "stats", "clear", "exit"])
def test_what_takes_nothing_refuses_more(make: Making, name: str) -> None:
    with pytest.raises(ArgumentError, match="takes nothing more"):
        make().type(f"/{name} now")


def test_help_lists_all_and_explains_each(make: Making) -> None:
    chat = make()
    listed = chat.type("/help")
    assert len(rows(listed)) == len(commands.COMMANDS) == 16
    assert isinstance(listed, Table)
    assert "Ctrl-C" in listed.note
    for name in commands.COMMANDS:
        (usage,) = rows(chat.type(f"/help {name}"))
        assert usage.startswith(f"/{name}")
    assert chat.type("/help /set") == chat.type("/help set")
    with pytest.raises(ArgumentError, match="unknown command"):
        chat.type("/help nothing")


# --- answers -------------------------------------------------------------------------------------------------------


def test_regen_answers_again(make: Making) -> None:
    chat = make("one", "two")
    chat.type("hi")
    first = chat.last_prompt
    assert chat.type("/regen") == "two"
    assert chat.said == [("user", "hi"), ("assistant", "two")]
    assert chat.last_prompt == first


def test_continue_goes_on_where_the_answer_was_cut(make: Making) -> None:
    def answering(prompt: Prompt, params: SamplingParams) -> str:
        return "one two three" if prompt.text.endswith("assistant\n") else "o three"

    chat = make(answering=answering)
    chat.type("/set max_tokens=6")
    assert chat.type("count") == "one tw"
    chat.type("/set max_tokens=default")
    assert chat.type("/continue") == "o three"
    assert chat.last_prompt.endswith("assistant\none tw")
    assert chat.said == [("user", "count"), ("assistant", "one two three")]
    answer = chat.session.last_answer
    assert answer is not None
    assert (answer.ended, answer.completion_tokens) == ("stop", 6 + 8)
    assert rows(chat.type("/stats"))["answers"] == ("1",)


def test_continue_goes_on_after_a_stop(make: Making) -> None:
    chat = make(Reply("Hello world", pause_at=5), " there")
    answer = chat.session.ask("hi")
    for _ in range(5):
        next(answer)
    answer.close()
    chat.type("/continue")
    assert chat.said[-1] == ("assistant", "Hello there")


def test_edit_opens_the_last_message_and_sends_it(make: Making) -> None:
    opened: list[str] = []

    def edit(text: str) -> str:
        opened.append(text)
        return "what is up?"

    chat = make("one", "two", "three", edit=edit)
    chat.type("first")
    chat.type("waht is up?")
    assert chat.type("/edit") == "three"
    assert opened == ["waht is up?"]
    assert chat.said[2:] == [("user", "what is up?"), ("assistant", "three")]
    assert len(chat.said) == 4


def test_edit_with_a_text_needs_no_editor(make: Making) -> None:
    chat = make("one", "two")
    chat.type("first")
    assert chat.type("/edit second") == "two"
    assert chat.said == [("user", "second"), ("assistant", "two")]


def test_edit_left_unchanged_sends_nothing(make: Making) -> None:
    chat = make("one", edit=lambda text: None)
    chat.type("first")
    assert "unchanged" in text(chat.type("/edit"))
    assert len(chat.engine.requests) == 1


def test_undo_takes_turn_after_turn_back(make: Making) -> None:
    chat = make("one", "two")
    chat.type("first")
    chat.type("second " + "x" * 100)
    assert text(chat.type("/undo")).startswith("taken back: second xxx")
    assert chat.said == [("user", "first"), ("assistant", "one")]
    chat.type("/undo")
    assert chat.said == []
    with pytest.raises(ArgumentError, match="nothing to undo"):
        chat.type("/undo")


# --- settings ------------------------------------------------------------------------------------------------------


def test_set_shows_what_is_in_force_and_who_set_it(make: Making) -> None:
    chat = make(arguments={"top_p": 0.5, "stop": ["END"]})
    chat.type("/set temperature=0.3")
    shown = rows(chat.type("/set"))
    assert shown["temperature"] == ("0.3", "set here")
    assert shown["top_p"] == ("0.5", "arguments")
    assert shown["stop"] == ("'END'", "arguments")
    assert shown["top_k"] == ("0", "model default")
    assert shown["max_new_tokens"] == ("none", "model default")


def test_set_changes_how_the_next_answers_are_drawn(make: Making) -> None:
    chat = make()
    changed = rows(chat.type("/set temperature=0.7 top_k=5 stop='two words'"))
    assert set(changed) == {"temperature", "top_k", "stop"}
    chat.type("hi")
    params = chat.engine.requests[-1][1]
    assert (params.temperature, params.top_k, params.stop) == (0.7, 5, ("two words",))


def test_set_default_takes_a_setting_back(make: Making) -> None:
    chat = make(arguments={"temperature": 0.4})
    chat.type("/set temperature=1.5 seed=3")
    assert rows(chat.type("/set temperature=default"))["temperature"] == ("0.4", "arguments")
    assert rows(chat.type("/set"))["seed"] == ("3", "set here")
    assert rows(chat.type("/set seed=none"))["seed"] == ("none", "model default")


def test_set_knows_the_other_names(make: Making) -> None:
    chat = make()
    assert rows(chat.type("/set max_tokens=9"))["max_new_tokens"] == ("9", "set here")
    assert rows(chat.type("/set do_sample=false"))["temperature"] == ("0", "set here")
    assert rows(chat.type("/set temperature=0.5"))["temperature"] == ("0.5", "set here")
    chat.type("hi")
    assert chat.engine.requests[-1][1].temperature == 0.5


@pytest.mark.parametrize(
    ("words", "error", "expected"),
    [
        ("top_p=3", EngineroomError, "(0, 1]"),
        ("temperature=hot", EngineroomError, "number"),
        ("tempreture=1", ArgumentError, "temperature"),
        ("temperature", ArgumentError, "/set temperature=default"),
        ("n=3", ArgumentError, "one answer"),
        ("logprobs=3", ArgumentError, "--json"),
        ("infer_dtype=float16", ArgumentError, "/model infer_dtype="),
        ("enable_thinking=true", ArgumentError, "/think"),
        ("default_system=x", ArgumentError, "/system"),
        ("learning_rate=1", ArgumentError, "training"),
        ("foo=default", ArgumentError, "foo"),
        ("repetition_penalty=1.5", UnsupportedError, "huggingface"),
        ("stop_token_ids=99999", ParameterError, "99999"),
        ("stop='open", ArgumentError, "quotation"),
        ("length_penalty=2", ParameterError, "num_beams"),
    ],
)
def test_set_refuses_at_once_and_changes_nothing(
    make: Making, words: str, error: type[EngineroomError], expected: str
) -> None:
    chat = make()
    chat.type("/set seed=1")
    with pytest.raises(error) as caught:
        chat.type(f"/set top_k=7 {words}")
    assert expected in str(caught.value)
    assert chat.session.overrides == {"seed": 1}


def test_set_to_what_it_is_says_so(make: Making) -> None:
    chat = make()
    chat.type("/set seed=1")
    assert "already" in text(chat.type("/set seed=1"))


def test_think_turns_the_templates_switch(make: Making) -> None:
    chat = make(template=THINKING_TEMPLATE)
    assert "auto" in text(chat.type("/think"))
    assert text(chat.type("/think off")) == "thinking: off"
    chat.type("hi")
    assert chat.last_prompt.endswith("<think>\n\n</think>\n\n")
    chat.type("/think on")
    chat.type("hi")
    assert chat.last_prompt.endswith("assistant\n")
    chat.type("/think auto")
    assert chat.session.thinking is None
    with pytest.raises(ArgumentError, match="/think maybe is not a state"):
        chat.type("/think maybe")


def test_think_is_refused_where_there_is_no_switch(make: Making) -> None:
    chat = make()
    for state in ("on", "off"):
        with pytest.raises(ArgumentError, match="no enable_thinking switch"):
            chat.type(f"/think {state}")
    assert "no switch" in text(chat.type("/think"))


def test_system_shows_and_changes_the_prompt(make: Making) -> None:
    chat = make(system="Be brief.")
    assert "Be brief." in text(chat.type("/system"))
    chat.type("/system Talk like\na pirate.")
    chat.type("hi")
    assert "Talk like\na pirate." in chat.last_prompt
    assert text(chat.type("/system none")) == "no system prompt any more"
    chat.type("hi")
    assert "pirate" not in chat.last_prompt
    assert "Be brief." in text(chat.type("/system default"))


def test_system_none_does_not_hide_a_default_system(make: Making) -> None:
    chat = make(arguments={"default_system": "Default."})
    assert chat.session.system == "Default."
    assert "Default." in text(chat.type("/system none"))


def test_model_loads_another_and_keeps_the_conversation(make: Making) -> None:
    asked: list[dict[str, Any]] = []

    def load(arguments: Any) -> ChatModel:
        asked.append(arguments)
        return ChatModel(arguments, engine=ScriptedEngine(["new"]))

    chat = make("old", arguments={"infer_backend": "scripted", "temperature": 0.5}, load=load)
    chat.type("hi")
    assert "demo-reward" in text(chat.type("/model demo-reward top_k=3"))
    assert asked == [{"infer_backend": "scripted", "model_name_or_path": "demo-reward", "top_k": 3}]
    chat.type("/model temperature=0.1")
    assert asked[1] == {**asked[0], "temperature": 0.1}
    assert chat.type("again") == "new"
    assert chat.said[:2] == [("user", "hi"), ("assistant", "old")]


def test_model_that_fails_leaves_the_old_one(make: Making) -> None:
    chat = make("one", "two")
    chat.type("hi")
    with pytest.raises(ModelNotFoundError):
        chat.type("/model ./nowhere infer_backend=huggingface")
    assert "still here" in str(chat.session.take_notices()[0])
    assert chat.type("again") == "two"


def test_model_refuses_wrong_settings_before_it_loads(make: Making) -> None:
    chat = make(load=lambda arguments: ChatModel(parse_arguments(arguments)))
    with pytest.raises(ArgumentError, match="infer_dtyp"):
        chat.type("/model demo infer_dtyp=float16")
    assert chat.type("hi") == "Hello!"


def test_model_alone_says_who_answers(make: Making) -> None:
    facts = rows(make().type("/model"))
    assert facts["model"] == ("demo",)
    assert facts["engine"] == ("scripted",)
    assert facts["context"] == ("4,096 tokens",)


# --- files and the store -------------------------------------------------------------------------------------------


def test_save_names_the_conversation_and_load_brings_it_back(make: Making, store: ConversationStore) -> None:
    chat = make("one", "two", "three", store=store)
    chat.type("first")
    assert "my talk" in text(chat.type("/save my talk"))
    assert "/load 1" in text(chat.type("clear"))
    assert chat.said == []
    chat.type("other")
    listed = chat.type("/load")
    assert list(rows(listed)) == ["1"]
    assert isinstance(chat.type("/load my talk"), Shown)
    assert chat.said == [("user", "first"), ("assistant", "one")]
    chat.type("more")
    assert len(store.recent()) == 2
    chat.type("/load 2")
    assert chat.said[0] == ("user", "other")


def test_load_of_a_mistyped_name_tells_the_nearest(make: Making, store: ConversationStore) -> None:
    chat = make(store=store)
    chat.type("first")
    chat.type("/save recipes")
    with pytest.raises(ArgumentError) as caught:
        chat.type("/load recipse")
    assert caught.value.fix == "did you mean recipes?"


def test_names_need_the_store(make: Making, store: ConversationStore) -> None:
    chat = make()
    chat.type("first")
    with pytest.raises(HistoryError, match="history is off") as caught:
        chat.type("/save talk")
    assert "talk.json" in caught.value.fix
    with pytest.raises(ArgumentError, match="history is off"):
        chat.type("/load")
    kept = make(store=store)
    kept.type("first")
    with pytest.raises(ArgumentError, match="can't be a name"):
        kept.type("/save 12")


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_file_brings_the_conversation_back(make: Making, tmp_path: Path, ending: str) -> None:
    chat = make("<think>\nhm\n</think>\n\n12.", template=THINKING_TEMPLATE, system="Add.")
    chat.type("7 + 5 — “?”")
    file = tmp_path / f"talk.{ending}"
    assert str(file) in text(chat.type(f"/{'save' if ending == 'json' else 'export'} {file}"))
    other = make("next")
    assert isinstance(other.type(f"/load {file}"), Shown)
    assert other.session.system == "Add."
    assert other.said == [("user", "7 + 5 — “?”"), ("assistant", "12.")]
    assert other.session.messages[1].reasoning == "hm"
    assert other.type("more") == "next"


def test_export_writes_for_people_and_for_training(make: Making, tmp_path: Path) -> None:
    chat = make("**Hello**")
    chat.type("hi")
    chat.type(f"/export {tmp_path}/t.md")
    assert (tmp_path / "t.md").read_text() == "# demo\n\n## User\n\nhi\n\n## Assistant\n\n**Hello**\n"
    chat.type(f"/export {tmp_path}/t.jsonl")
    (line,) = (tmp_path / "t.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "**Hello**"}]
    }
    chat.type(f"/export {tmp_path}/t.json")
    whole = json.loads((tmp_path / "t.json").read_text())
    assert (whole["model"], whole["engine"], whole["messages"][1]["finish_reason"]) == (
        "demo",
        "scripted",
        "stop",
    )


def test_no_file_of_the_users_is_overwritten(make: Making, tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("precious")
    chat = make()
    chat.type("hi")
    with pytest.raises(ArgumentError, match="is there already"):
        chat.type(f"/export {tmp_path}/mine.md")
    assert (tmp_path / "mine.md").read_text() == "precious"
    chat.type(f"/export {tmp_path}/new.md")
    chat.type("more")
    chat.type(f"/export {tmp_path}/new.md")
    assert (tmp_path / "new.md").read_text().count("## User") == 2


def test_an_unknown_ending_and_a_missing_folder_are_told(make: Making, tmp_path: Path) -> None:
    chat = make()
    chat.type("hi")
    with pytest.raises(ArgumentError, match=r"\.md, \.json, \.jsonl"):
        chat.type("/export talk.docx")
    with pytest.raises(ArgumentError, match="can't write"):
        chat.type(f"/export {tmp_path}/no/such/t.md")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "can't read"),
        ('{"a": 1}', "holds no conversation"),
        ('[{"role": "tool", "content": "x"}]', "message 1 is from 'tool'"),
        ('[{"role": "user", "content": [1]}]', "not plain text"),
        ("[3]", "message 1 is from None"),
    ],
)
def test_a_file_with_something_else_is_refused(
    make: Making, tmp_path: Path, content: str, expected: str
) -> None:
    file = tmp_path / "t.json"
    file.write_text(content)
    chat = make()
    chat.type("hi")
    before = chat.said
    with pytest.raises(ArgumentError, match=expected):
        chat.type(f"/load {file}")
    assert chat.said == before


def test_sharegpt_files_are_read(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(
        json.dumps({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]})
    )
    assert transcript.read(file) == (Said("user", "a"), Said("assistant", "b"))


def test_stats_add_up(make: Making) -> None:
    chat = make("12345", "123")
    assert rows(chat.type("/stats"))["speed"] == ("not measured yet",)
    chat.type("a")
    chat.type("b")
    stats = rows(chat.type("/stats"))
    assert stats["answers"] == ("2",)
    assert stats["tokens generated"] == (str(6 + 4),)
    assert stats["prompt tokens"] == (str(sum(len(prompt) for prompt, _ in chat.engine.requests)),)
    assert stats["context"] == (f"{len(chat.engine.requests[1][0]) + 4} of 4,096 tokens",)


def test_clear_begins_anew(make: Making, store: ConversationStore) -> None:
    chat = make("one", "two", store=store, system="Keep me.")
    chat.type("first")
    chat.type("/clear")
    chat.type("second")
    assert "first" not in chat.last_prompt
    assert "Keep me." in chat.last_prompt
    assert len(store.recent()) == 2


def test_the_page_about_the_terminal_names_every_command() -> None:
    page = (
        (Path(__file__).parents[3] / "docs" / "terminal.md").read_text(encoding="utf-8").replace("\\|", "|")
    )
    for command in commands.COMMANDS.values():
        assert f"`{command.usage}`" in page
