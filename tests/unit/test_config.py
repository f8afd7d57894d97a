"""Arguments: from everywhere, checked, and nothing ignored."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineroom.config import argument_names, describe, parse_arguments, training_argument_names
from engineroom.errors import ArgumentError, EngineroomError, TrainingArgumentError, UnknownArgumentError


def test_defaults_run_the_shipped_model_on_transformers() -> None:
    arguments = parse_arguments()
    assert (arguments.model_name_or_path, arguments.infer_backend) == ("demo", "huggingface")
    assert arguments.sampling() == {}


@pytest.mark.parametrize(
    "words",
    [
        ["temperature=0.5", "stop=END"],
        ["--temperature", "0.5", "--stop", "END"],
        ["--temperature=0.5", "--stop=END"],
    ],
)
def test_words_in_every_form(words: list[str]) -> None:
    assert parse_arguments(words).sampling() == {"temperature": 0.5, "stop": ("END",)}


def test_a_flag_without_a_value_is_true() -> None:
    assert parse_arguments(["--trust_remote_code", "--seed", "3"]).trust_remote_code is True


def test_a_llama_factory_file_and_words_that_override_it(tmp_path: Path) -> None:
    file = tmp_path / "qwen3_lora_sft.yaml"
    file.write_text(
        "### model\nmodel_name_or_path: some/model\nadapter_name_or_path: a,b\ntemplate: qwen3_nothink\n"
        "infer_backend: huggingface  # choices: [huggingface, vllm]\ntrust_remote_code: true\nvllm_maxlen: 2048\n"
    )
    arguments = parse_arguments([str(file), "temperature=0"])
    assert arguments.adapter_name_or_path == ("a", "b")
    assert arguments.template == "qwen3_nothink"
    assert arguments.sampling() == {"temperature": 0.0}


def test_json_files_and_json_values(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"vllm_config": '{"max_num_seqs": 4}', "logit_bias": {"5": -1}}))
    arguments = parse_arguments(file)
    assert arguments.vllm_config == {"max_num_seqs": 4}
    assert arguments.logit_bias == {5: -1.0}


def test_text_stays_text() -> None:
    arguments = parse_arguments(["model_name_or_path=123", "template=on", "stop=no"])
    assert (arguments.model_name_or_path, arguments.template, arguments.stop) == ("123", "on", ("no",))


def test_an_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(UnknownArgumentError, match="did you mean temperature"):
        parse_arguments({"temprature": 1})


@pytest.mark.parametrize("name", ["learning_rate", "lora_rank", "dataset", "cutoff_len", "num_train_epochs"])
def test_a_training_argument_is_refused_as_such(name: str) -> None:
    with pytest.raises(TrainingArgumentError, match=f"{name} is a training argument"):
        parse_arguments({name: 1})


def test_no_name_is_both_known_and_refused() -> None:
    assert not training_argument_names() & set(argument_names())


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ({"infer_dtype": "int7"}, "bfloat16"),
        ({"top_p": 3}, r"\(0, 1\]"),
        ({"temperature": -1}, r"\[0, 100\]"),
        ({"temperature": True}, "number"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"vllm_gpu_util": 2}, "≤ 1"),
        ({"device": "tpu"}, "cuda"),
        ({"trust_remote_code": "perhaps"}, "true | false"),
        ({"model_name_or_path": None}, "text"),
        ({"image_max_pixels": 5}, "not supported"),
        ({"finetuning_type": "full", "adapter_name_or_path": "a"}, "adapter"),
        ({"vllm_config": "{broken"}, "object"),
    ],
)
def test_a_bad_value_says_what_is_allowed(values: dict[str, object], allowed: str) -> None:
    with pytest.raises(ArgumentError, match=allowed):
        parse_arguments(values)


@pytest.mark.parametrize("text", ["- a\n- b", "a: [", "\x00"])
def test_a_broken_file_is_an_argument_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ArgumentError, match=r"c\.yaml"):
        parse_arguments(file)


def test_a_missing_file_is_an_argument_error() -> None:
    with pytest.raises(ArgumentError, match="can't read"):
        parse_arguments("/nowhere/config.yaml")


def test_every_argument_is_documented() -> None:
    assert all(doc.help and doc.type for doc in describe())


@given(
    st.lists(
        st.text(max_size=20) | st.sampled_from(["--temperature", "seed=1", "--", "x=", "stop=[", "n=a: b"]),
        max_size=5,
    )
)
def test_whatever_is_typed_it_is_arguments_or_a_clear_error(words: list[str]) -> None:
    try:
        parse_arguments(words)
    except EngineroomError as error:
        assert str(error)
