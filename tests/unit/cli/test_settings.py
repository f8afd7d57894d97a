"""Settings among a command's words: wherever they stand, in every form, and never a crash."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engineroom.cli.settings import OwnOptions, Settings, split
from engineroom.config import OTHER_NAMES, argument_names
from engineroom.errors import ArgumentError, EngineroomError, UnknownArgumentError

OWN = OwnOptions(valued=frozenset({"-p", "--prompt"}), flags=frozenset({"--json", "-c"}))


def assignments(*words: str) -> dict[str, str]:
    return dict(split(words, OWN).settings.assignments)


@pytest.mark.parametrize(
    "words",
    [
        ["temperature=0.5", "demo", "-p", "hi"],
        ["demo", "--temperature", "0.5", "-p", "hi"],
        ["demo", "-p", "hi", "--temperature=0.5"],
    ],
)
def test_settings_stand_anywhere_in_every_form(words: list[str]) -> None:
    found = split(words, OWN)
    assert found.settings.assignments == (("temperature", "0.5"),)
    assert found.own == ("demo", "-p", "hi")


def test_dashes_in_a_name_are_underscores() -> None:
    assert assignments("--max-new-tokens", "5", "--top-p=1") == {"max_new_tokens": "5", "top_p": "1"}


def test_the_value_of_an_own_option_is_never_a_setting() -> None:
    found = split(["-p", "x=1", "--prompt", "--temperature", "--json"], OWN)
    assert found.own == ("-p", "x=1", "--prompt", "--temperature", "--json")
    assert found.settings == Settings(known_options=("--json", "--prompt"))


def test_two_dashes_end_the_settings() -> None:
    found = split(["seed=1", "--", "x=1", "a.yaml", "--top_p"], OWN)
    assert found.settings.assignments == (("seed", "1"),)
    assert found.own == ("--", "x=1", "a.yaml", "--top_p")


def test_a_switch_does_not_swallow_the_model() -> None:
    found = split(["--trust_remote_code", "some/model", "--ignore_eos", "false"], OWN)
    assert found.settings.assignments == (("trust_remote_code", "true"), ("ignore_eos", "false"))
    assert found.own == ("some/model",)


def test_an_own_option_is_nobody_elses_value() -> None:
    found = split(["--jsno", "-p", "hi"], OWN)
    assert found.settings.assignments == (("jsno", "true"),)
    assert found.own == ("-p", "hi")


def test_a_negative_number_is_a_value() -> None:
    assert assignments("--top_k", "-1") == {"top_k": "-1"}


def test_files_anywhere_come_first_and_single_settings_win(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.json"
    one.write_text("temperature: 0.1\nseed: 1\ntop_k: 7\n")
    two.write_text(json.dumps({"temperature": 0.2, "seed": 2}))
    found = split(["temperature=0.3", "demo", str(one), "-p", "hi", str(two)], OWN)
    arguments = found.settings.arguments()
    assert (arguments.temperature, arguments.seed, arguments.top_k) == (0.3, 2, 7)
    assert found.own == ("demo", "-p", "hi")


def test_a_sentence_that_ends_like_a_file_is_a_text() -> None:
    assert split(["please read config.yaml"], OWN).own == ("please read config.yaml",)


def test_the_last_of_equal_settings_wins() -> None:
    assert split(["seed=1", "--seed", "2"], OWN).settings.arguments().seed == 2


def test_defaults_hold_where_nothing_is_said() -> None:
    given_none = split(["seed=1"], OWN).settings
    assert given_none.arguments(model_name_or_path="demo-reward").model_name_or_path == "demo-reward"
    given_one = split(["model_name_or_path=other"], OWN).settings
    assert given_one.arguments(model_name_or_path="demo-reward").model_name_or_path == "other"
    assert given_none.arguments(model_name_or_path=None).model_name_or_path == "demo"


def test_a_mistyped_name_names_the_nearest_setting_or_option() -> None:
    with pytest.raises(UnknownArgumentError, match="did you mean temperature"):
        split(["temprature=1"], OWN).settings.arguments()
    with pytest.raises(UnknownArgumentError, match="did you mean --json"):
        split(["--jsno"], OWN).settings.arguments()


@pytest.mark.parametrize(("theirs", "ours"), OTHER_NAMES.items())
def test_other_projects_names_lead_to_ours(theirs: str, ours: str) -> None:
    assert ours in argument_names()
    with pytest.raises(UnknownArgumentError, match=f"did you mean {ours}"):
        split([f"{theirs}=1"], OWN).settings.arguments()


WORD = (
    st.text(max_size=12)
    | st.sampled_from(
        ["--", "-", "--=", "=", "x=", "--x", "-p", "--prompt", "--json=1", "a.yaml", "\0.json", "é=1"]
    )
    | st.builds("{}={}".format, st.sampled_from(argument_names()), st.text(max_size=8))
    | st.builds("--{}".format, st.sampled_from(argument_names()))
)


@settings(deadline=None)
@given(st.lists(WORD, max_size=6))
def test_any_words_are_settings_or_an_argument_error(words: list[str]) -> None:
    found = split(words, OWN)
    try:
        found.settings.arguments()
    except EngineroomError as error:
        assert isinstance(error, ArgumentError)
        assert error.what


@settings(deadline=None)
@given(st.lists(WORD, max_size=6))
def test_no_word_is_lost(words: list[str]) -> None:
    """Every word is a setting, a part of one, or the command's own."""
    found = split(words, OWN)
    named = sum(1 for word in words if word.startswith("--") and "=" not in word)
    accounted = len(found.own) + len(found.settings.assignments) + len(found.settings.configs)
    assert accounted <= len(words) <= accounted + named
