"""Our arguments as SGLang's server arguments. No server."""

import json
from pathlib import Path
from typing import Any

import pytest

from engineroom.checkpoint import Checkpoint
from engineroom.config import parse_arguments
from engineroom.engines.adapter_folder import AdapterFolder
from engineroom.engines.process.lora import check_merge, check_plain_lora
from engineroom.engines.sglang import options
from engineroom.errors import ArgumentError, ModelLoadError


def adapter(folder: Path, **config: Any) -> AdapterFolder:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, **config}))
    return AdapterFolder.open(folder)


def made(gpus: int = 0, adapters: tuple[AdapterFolder, ...] = (), **given: Any) -> dict[str, Any]:
    arguments = parse_arguments({"infer_backend": "sglang", **given})
    options.check_arguments(arguments)
    checkpoint = Checkpoint.open(arguments)
    return options.server_options(arguments, checkpoint, "causal", adapters, gpus=gpus)


@pytest.mark.parametrize(
    ("given", "gpus", "expected"),
    [
        ({}, 0, {"dtype": "float32", "device": "cpu", "tp_size": 1, "max_running_requests": 64}),
        ({}, 0, {"attention_backend": "torch_native", "mem_fraction_static": 0.2, "context_length": 2064}),
        ({"infer_dtype": "bfloat16"}, 0, {"dtype": "bfloat16"}),
        ({"sglang_maxlen": 100}, 0, {"context_length": 116, "max_total_tokens": 116 * 64}),
        ({"model_maxlen": 100}, 0, {"context_length": 116}),
        ({"sglang_mem_fraction": 0.5}, 0, {"mem_fraction_static": 0.5}),
        ({"sglang_tp_size": 8}, 0, {"tp_size": 1}),
        ({}, 2, {"device": "cuda", "tp_size": 2, "mem_fraction_static": 0.7, "max_running_requests": 256}),
        ({"device": "cuda:1"}, 2, {"device": "cuda", "tp_size": 1, "base_gpu_id": 1}),
        ({"device": "cpu"}, 2, {"device": "cpu", "tp_size": 1}),
        ({"sglang_config": {"max_running_requests": 3}}, 2, {"max_running_requests": 3}),
        ({"sglang_config": {"attention_backend": "intel_amx"}}, 0, {"attention_backend": "intel_amx"}),
    ],
)
def test_arguments_become_server_arguments(
    given: dict[str, Any], gpus: int, expected: dict[str, Any]
) -> None:
    told = made(gpus, **given)
    assert {name: told[name] for name in expected} == expected


def test_a_gpu_gets_nothing_that_is_meant_for_the_cpu() -> None:
    assert not {"attention_backend", "sampling_backend", "max_total_tokens", "enable_lora"} & set(made(1))


def test_adapters_get_room(tmp_path: Path) -> None:
    adapters = (adapter(tmp_path / "a", target_modules=["x.odd_proj"]), adapter(tmp_path / "b", r=128))
    names = {"adapter_name_or_path": f"{tmp_path / 'a'},{tmp_path / 'b'}"}
    told = made(0, adapters, **names)
    assert (told["max_lora_rank"], told["max_loras_per_batch"], told["lora_backend"]) == (
        128,
        8,
        "torch_native",
    )
    assert {"q_proj", "odd_proj"} <= set(told["lora_target_modules"])
    assert made(0, adapters, **names, sglang_lora_backend="triton")["lora_backend"] == "triton"
    assert made(1, adapters, **names)["lora_backend"] == "triton"
    assert made(0, enable_lora=True)["enable_lora"] is True
    assert "enable_lora" not in made(0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sglang_config": {"dtype": "half"}}, "infer_dtype"),
        ({"sglang_config": {"port": 1}}, "leave port out"),
        ({"sglang_maxlen": 4096}, "2048"),
        ({"device": "mps"}, "mps"),
        ({"device_map": "auto"}, "sglang_tp_size"),
        ({"quantization_bit": 4}, "quantization"),
        ({"rope_scaling": "yarn"}, "json_model_override_args"),
        ({"flash_attn": "fa2"}, "attention_backend"),
        ({"use_kv_cache": False}, "always"),
        ({"sglang_url": "localhost:1"}, "http://"),
        ({"sglang_url": "http://localhost:1", "sglang_python": "python"}, "sglang_python can't be combined"),
        ({"sglang_url": "http://localhost:1", "model_maxlen": 100}, "model_maxlen can't be combined"),
        ({"sglang_url": "http://localhost:1", "infer_dtype": "float16"}, "infer_dtype can't be combined"),
        ({"sglang_url": "http://localhost:1", "enable_lora": True}, "enable_lora can't be combined"),
    ],
)
def test_what_sglang_can_not_honour_is_refused_by_name(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        made(**given)


def test_adapters_that_sglang_does_not_run(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(parse_arguments({}))
    plain = adapter(tmp_path / "plain")
    check_plain_lora(plain, checkpoint, "SGLang")
    kinds: tuple[dict[str, Any], ...] = (
        {"use_dora": True},
        {"modules_to_save": ["score"]},
        {"peft_type": "OFT"},
    )
    for number, config in enumerate(kinds):
        with pytest.raises(ModelLoadError, match="plain LoRA"):
            check_plain_lora(adapter(tmp_path / str(number), **config), checkpoint, "SGLang")


def test_several_adapters_are_not_merged_by_sglang(tmp_path: Path) -> None:
    plain = adapter(tmp_path / "plain")
    check_merge([plain], "sglang", "SGLang", merge=True)
    check_merge([plain, plain], "sglang", "SGLang", merge=False)
    with pytest.raises(ArgumentError, match="adapter_merge=false"):
        check_merge([plain, plain], "sglang", "SGLang", merge=True)
