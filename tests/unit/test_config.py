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


LLAMA_FACTORY = {
    "model_name_or_path", "adapter_name_or_path", "adapter_folder", "cache_dir", "use_fast_tokenizer", "model_revision",
    "low_cpu_mem_usage", "rope_scaling", "flash_attn", "infer_backend", "offload_folder", "use_kv_cache", "infer_dtype",
    "hf_hub_token", "trust_remote_code", "quantization_method", "quantization_bit", "quantization_type",
    "double_quantization", "quantization_device_map", "vllm_maxlen", "vllm_gpu_util", "vllm_enforce_eager",
    "vllm_max_lora_rank", "vllm_config", "sglang_maxlen", "sglang_mem_fraction", "sglang_tp_size", "sglang_config",
    "sglang_lora_backend", "template", "default_system", "enable_thinking", "do_sample", "temperature", "top_p", "top_k",
    "num_beams", "max_length", "max_new_tokens", "repetition_penalty", "length_penalty", "skip_special_tokens", "stage",
    "finetuning_type",
}  # fmt: skip
NOT_HERE = {
    "resize_vocab", "split_special_tokens", "add_tokens", "add_special_tokens", "new_special_tokens_config",
    "ms_hub_token", "om_hub_token", "image_max_pixels", "image_min_pixels", "image_do_pan_and_scan", "crop_to_patches",
    "video_max_pixels", "video_min_pixels", "video_fps", "video_maxlen", "use_audio_in_video", "audio_sampling_rate",
    "use_kt", "kt_optimize_rule", "cpu_infer", "chunk_size", "mode", "kt_maxlen", "kt_use_cuda_graph", "kt_mode",
    "kt_force_think", "media_dir", "tool_format", "preserve_thinking",
}  # fmt: skip
FOR_TRAINING = {
    "use_unsloth", "use_unsloth_gc", "enable_liger_kernel", "shift_attn", "mixture_of_depths", "upcast_layernorm",
    "train_from_scratch", "cutoff_len", "dataset", "lora_rank", "lora_target", "output_dir", "learning_rate",
    "export_dir", "reward_model", "ref_model", "deepspeed", "bf16", "report_to", "pref_beta", "use_swanlab",
}  # fmt: skip


def test_every_name_of_llama_factory_is_known_or_refused_by_name() -> None:
    assert set(argument_names()) >= LLAMA_FACTORY
    for name in NOT_HERE:
        with pytest.raises(ArgumentError, match=f"{name} is not supported") as refusal:
            parse_arguments({name: 1})
        assert refusal.value.why
    assert training_argument_names() >= FOR_TRAINING


@pytest.mark.parametrize(
    "config",
    [
        {"model_name_or_path": "meta-llama/Meta-Llama-3-8B-Instruct", "template": "llama3", "infer_backend": "huggingface",
         "trust_remote_code": True},
        {"model_name_or_path": "Qwen/Qwen3-4B-Instruct-2507", "adapter_name_or_path": "saves/qwen3-4b/lora/sft",
         "template": "qwen3_nothink", "infer_backend": "vllm", "vllm_enforce_eager": True, "trust_remote_code": True},
        {"model_name_or_path": "saves/qwen3-4b/full/sft", "template": "qwen3_nothink", "infer_backend": "sglang",
         "finetuning_type": "full"},
        {"model_name_or_path": "m", "finetuning_type": "lora", "quantization_bit": 4, "quantization_method": "bnb",
         "double_quantization": False, "do_sample": True, "temperature": 0.95, "top_p": 0.7, "top_k": 50, "num_beams": 1,
         "max_length": 1024, "max_new_tokens": 1024, "repetition_penalty": 1.0, "length_penalty": 1.0,
         "skip_special_tokens": True, "default_system": None, "enable_thinking": True, "stage": "sft"},
    ],
)  # fmt: skip
def test_configurations_of_llama_factory_are_taken_unchanged(config: dict[str, object]) -> None:
    arguments = parse_arguments(config)
    assert arguments.model_name_or_path == config["model_name_or_path"]


def test_arguments_are_given_as_they_were_made() -> None:
    arguments = parse_arguments({"temperature": 0.5})
    again = parse_arguments(arguments, top_p=0.5)
    assert again.sampling() == {"temperature": 0.5, "top_p": 0.5}
    with pytest.raises(ArgumentError, match="can't be a int"):
        parse_arguments(5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="command-line word"):
        parse_arguments([b"a=b"])  # type: ignore[list-item]
