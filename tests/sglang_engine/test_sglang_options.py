"""Our arguments as SGLang's server arguments. No server."""

from pathlib import Path
from typing import Any

import pytest

from engineroom.checkpoint import Checkpoint
from engineroom.config import parse_arguments
from engineroom.engines.sglang import options
from engineroom.errors import ArgumentError, ModelLoadError


def made(gpus: int = 0, adapters: tuple[dict[str, Any], ...] = (), **given: Any) -> dict[str, Any]:
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


def test_adapters_get_room() -> None:
    configs: tuple[dict[str, Any], ...] = ({"r": 4, "target_modules": ["a.q_proj"]}, {"r": 128})
    told = made(0, configs)
    assert (told["max_lora_rank"], told["max_loras_per_batch"]) == (128, 3)
    assert told["lora_backend"] == "torch_native"
    assert "q_proj" in told["lora_target_modules"]
    assert made(0, configs, sglang_lora_backend="triton")["lora_backend"] == "triton"
    assert made(1, configs)["lora_backend"] == "triton"


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
    ],
)
def test_what_sglang_can_not_honour_is_refused_by_name(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        made(**given)


def test_adapters_that_sglang_does_not_run(tmp_path: Path) -> None:
    plain = {"peft_type": "LORA", "r": 4}
    options.check_adapters([tmp_path], [plain], merge=True)
    with pytest.raises(ArgumentError, match="adapter_merge=false"):
        options.check_adapters([tmp_path] * 2, [plain] * 2, merge=True)
    for config in (
        {**plain, "use_dora": True},
        {**plain, "modules_to_save": ["score"]},
        {"peft_type": "OFT"},
    ):
        with pytest.raises(ModelLoadError, match="plain LoRA"):
            options.check_adapters([tmp_path], [config], merge=False)
    with pytest.raises(ModelLoadError, match="can't be read"):
        options.read_adapter_config(tmp_path)
