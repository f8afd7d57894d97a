"""Our arguments as vLLM's engine arguments: a table, without vLLM."""

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engineroom.checkpoint import Checkpoint
from engineroom.config import parse_arguments
from engineroom.engines.plain import causal_alone
from engineroom.engines.vllm import VllmEngine, library, options
from engineroom.engines.vllm.adapters import Adapters
from engineroom.engines.vllm.options import Platform
from engineroom.errors import ArgumentError, EngineStartError, ModelLoadError

FIELDS = (
    "max_num_seqs",
    "max_loras",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "enable_chunked_prefill",
    "quantization",
    "max_num_batched_tokens",
    "_hidden",
)
CPU = Platform(True, FIELDS, (32, 64))
CUDA = Platform(False, FIELDS)
DEMO = Checkpoint.open(parse_arguments())


def made(platform: Platform = CPU, kind: Any = "causal", **given: Any) -> dict[str, Any]:
    arguments = parse_arguments({"infer_backend": "vllm", **given})
    options.check_arguments(arguments)
    return options.engine_options(arguments, Checkpoint.open(arguments), kind, platform)


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({}, "dtype", "float32"),  # vLLM's own auto would make 16 bits of it
        ({"infer_dtype": "bfloat16"}, "dtype", "bfloat16"),
        ({}, "max_model_len", 2048),  # the model's, which is less than vllm_maxlen's default
        ({"vllm_maxlen": 512}, "max_model_len", 512),
        ({"model_maxlen": 256}, "max_model_len", 256),
        ({"model_maxlen": 256, "vllm_maxlen": 512}, "max_model_len", 512),
        ({}, "runner", "generate"),
        ({"kind": "value_head"}, "runner", "pooling"),
        ({"kind": "sequence_classification"}, "runner", "pooling"),
        ({}, "logprobs_mode", "raw_logprobs"),
        ({}, "max_logprobs", 50),
        ({}, "generation_config", "vllm"),
        ({}, "enable_prefix_caching", True),
        ({}, "enforce_eager", True),
        ({"platform": CUDA}, "enforce_eager", False),
        ({"platform": CUDA, "vllm_enforce_eager": True}, "enforce_eager", True),
        ({"vllm_enforce_eager": False}, "enforce_eager", False),
        ({}, "max_num_seqs", 64),
        ({"platform": CUDA}, "max_num_seqs", 256),
        ({"vllm_config": {"max_num_seqs": 3}}, "max_num_seqs", 3),
        ({"vllm_config": '{"quantization": "fp8"}'}, "quantization", "fp8"),
        ({"platform": CUDA, "vllm_gpu_util": 0.4}, "gpu_memory_utilization", 0.4),
        ({"vllm_gpu_util": 0.4}, "gpu_memory_utilization", 0.4),
        ({}, "distributed_executor_backend", "uni"),
        ({}, "enable_chunked_prefill", False),
        ({"platform": CUDA, "vllm_config": {"pipeline_parallel_size": 2}}, "pipeline_parallel_size", 2),
        ({"adapter_name_or_path": "a,b"}, "max_loras", 3),  # one stays empty
        ({"adapter_name_or_path": "a,b", "enable_lora": True}, "max_loras", 7),
        ({"enable_lora": True}, "max_loras", 5),
        ({"enable_lora": True, "vllm_config": {"max_loras": 8}}, "max_loras", 9),
        ({"enable_lora": True}, "enable_lora", True),
        ({"adapter_name_or_path": "a"}, "max_lora_rank", 32),
        ({"enable_lora": True, "vllm_max_lora_rank": 40}, "max_lora_rank", 64),
        ({"trust_remote_code": True}, "trust_remote_code", True),
    ],
)
def test_an_argument_reaches_vllm(given: dict[str, Any], name: str, value: Any) -> None:
    assert made(**given)[name] == value


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "enable_lora"),
        ({}, "gpu_memory_utilization"),  # on a CPU the cache is as large as its requests
        ({"vllm_gpu_util": 0.4}, "kv_cache_memory_bytes"),
        ({"platform": CUDA}, "kv_cache_memory_bytes"),
        ({"vllm_config": {"tensor_parallel_size": 2}}, "distributed_executor_backend"),
        ({"kind": "value_head"}, "enable_prefix_caching"),
    ],
)
def test_and_no_more_than_that(given: dict[str, Any], name: str) -> None:
    assert name not in made(**given)


def test_the_cpus_cache_holds_what_its_requests_can_fill() -> None:
    token = 2 * 4 * 3 * 32 * 4  # keys and values, layers, heads, head size, bytes
    assert made()["kv_cache_memory_bytes"] >= 64 * 2048 * token
    few = made(vllm_config={"max_num_seqs": 1}, vllm_maxlen=128)["kv_cache_memory_bytes"]
    assert 128 * token < few < 1024 * token


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"vllm_config": {"enable_chunked_prefill": True}}, "not supported on a CPU"),
        ({"vllm_config": {"pipeline_parallel_size": 2}}, "not supported on a CPU"),
        ({"vllm_config": {"max_num_seq": 1}}, "did you mean max_num_seqs"),
        ({"vllm_config": {"_hidden": 1}}, "unknown"),
        ({"vllm_config": {"dtype": "half"}}, "infer_dtype"),
        ({"vllm_config": {"max_model_len": 5}}, "vllm_maxlen"),
        ({"vllm_config": {"logprobs_mode": "raw_logits"}}, "leave logprobs_mode out"),
        ({"vllm_maxlen": 4096}, "2048"),
        ({"model_maxlen": 4096}, "2048"),
        ({"device": "cpu"}, "device"),
        ({"device_map": "auto"}, "tensor_parallel_size"),
        ({"quantization_bit": 4}, "quantization"),
        ({"rope_scaling": "yarn"}, "hf_overrides"),
        ({"flash_attn": "fa2"}, "attention_backend"),
        ({"use_kv_cache": False}, "always"),
        ({"vllm_config": {"enable_lora": True}}, "use enable_lora instead"),
        ({"vllm_config": {"max_loras": 2}}, "enable_lora=true"),
        ({"adapter_name_or_path": "a,b", "vllm_config": {"max_loras": 1}}, "at least 2"),
    ],
)
def test_what_vllm_can_not_honour_is_refused_by_name(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        made(**given)


def test_the_size_of_a_head_is_found(tmp_path: Path) -> None:
    for config, size in (
        ('{"head_dim": 16, "hidden_size": 64, "num_attention_heads": 2}', 16),
        ('{"hidden_size": 64, "num_attention_heads": 2}', 32),
        ('{"hidden_size": 64}', None),
    ):
        (tmp_path / "config.json").write_text(config)
        assert options.head_size(Checkpoint("it", tmp_path)) == size


# --- versions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "good"),
    [
        ("0.32.0", True),
        ("0.32.5+cpu", True),
        ("0.31.9", False),
        ("0.33.0", False),
        ("1.0", False),
        ("0.33.0rc1", False),
    ],
)
def test_only_tested_versions_start(monkeypatch: pytest.MonkeyPatch, version: str, good: bool) -> None:
    monkeypatch.setattr(library, "installed", lambda: ("vllm", version))
    if good:
        library.check_version()
    else:
        with pytest.raises(EngineStartError, match=rf"{version.split('+')[0]}.*\n.*>=0.32,<0.33"):
            library.check_version()


def test_the_extra_installs_a_version_that_starts() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (requirement,) = project["project"]["optional-dependencies"]["vllm"]
    bounds = [".".join(map(str, bound)) for bound in (library.OLDEST, library.TOO_NEW)]
    assert requirement.startswith(f"vllm>={bounds[0]},<{bounds[1]};")


# --- adapters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ('{"peft_type": "LORA", "r": 64}', ArgumentError, "vllm_max_lora_rank=64"),
        ('{"peft_type": "LORA", "r": 4, "use_dora": true}', ModelLoadError, "DoRA"),
        ('{"peft_type": "LORA", "r": 4, "modules_to_save": ["score"]}', ModelLoadError, "modules_to_save"),
        ('{"peft_type": "OFT"}', ModelLoadError, "OFT"),
        ("{", ModelLoadError, "can't be read"),
    ],
)
def test_an_adapter_that_vllm_can_not_run(
    tmp_path: Path, config: str, error: type[Exception], says: str
) -> None:
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(error, match=says):
        VllmEngine.from_arguments(parse_arguments({"adapter_name_or_path": str(tmp_path)}))


def test_several_adapters_are_not_merged(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    with pytest.raises(ArgumentError, match="adapter_merge=false"):
        VllmEngine.from_arguments(parse_arguments({"adapter_name_or_path": f"{tmp_path},{tmp_path}"}))


def test_an_adapter_is_chosen_by_name() -> None:
    first, second, merged = (SimpleNamespace(lora_path=name) for name in ("first", "second", "merged"))
    adapters = Adapters()
    adapters.put("first", first)  # type: ignore[arg-type]
    adapters.put("second", second)  # type: ignore[arg-type]
    assert (adapters.choose("first"), adapters.choose(None), adapters.last()) == (first, None, second)
    assert adapters.take("second") is second
    assert list(adapters.folders) == ["first"]
    adapters.always = merged  # type: ignore[assignment]
    assert (adapters.choose(None), adapters.last()) == (merged, merged)


@pytest.mark.parametrize(
    ("version", "given", "lacking"),
    [
        ("0.32.0+cpu", {}, {"load_adapter": "enable_lora=true", "sleep": "no accelerator"}),
        ("0.32.0", {}, {"load_adapter": "enable_lora=true", "sleep": "enable_sleep_mode"}),
        ("0.32.0", {"enable_lora": True, "vllm_config": {"enable_sleep_mode": True}}, {}),
    ],
)
def test_what_it_lacks_here_is_declared_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, version: str, given: dict[str, Any], lacking: dict[str, str]
) -> None:
    monkeypatch.setattr(library, "installed", lambda: ("vllm", version))
    engine = VllmEngine(parse_arguments({"infer_backend": "vllm", **given}), DEMO)
    assert set(engine.lacks) == set(lacking)
    for feature in ("load_adapter", "sleep"):
        assert engine.capabilities[feature] == ("unsupported" if feature in lacking else "native")
        assert lacking.get(feature, "") in engine.lacks.get(feature, "")


# --- value heads ----------------------------------------------------------------------------------------------------


def test_a_value_head_is_kept_from_vllm_beside_and_among_the_weights(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    reward, plain = tmp_path / "reward", tmp_path / "plain"
    reward.mkdir()
    plain.mkdir()
    for name in ("config.json", "modules.json", "sentence_bert_config.json"):
        (reward / name).write_text("{}")
    head = {"v_head.summary.weight": torch.ones(1, 4)}
    save_file({"model.norm.weight": torch.ones(4), **head}, reward / "model.safetensors")
    save_file(head, reward / "value_head.safetensors")
    causal_alone(Checkpoint("it", reward), plain)
    assert sorted(file.name for file in plain.iterdir()) == ["config.json", "model.safetensors"]
    assert list(load_file(plain / "model.safetensors")) == ["model.norm.weight"]
    assert len(load_file(reward / "model.safetensors")) == 2
