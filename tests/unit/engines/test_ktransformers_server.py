"""sglang-kt's server arguments, and when it is refused. The server itself needs CUDA, and was not run."""

from pathlib import Path
from typing import Any

import pytest

from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments
from engineroom.engines import registry
from engineroom.engines.ktransformers import server
from engineroom.engines.ktransformers.server import KTServerEngine, check, kt_options
from engineroom.errors import ArgumentError

FOLDER = Path("/models/sparse")


def settings(**given: Any) -> Arguments:
    return Arguments(
        **{
            "model_name_or_path": "demo-moe",
            "infer_backend": "ktransformers",
            "kt_num_gpu_experts": 2,
            **given,
        }
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"kt_method": "BF16", "kt_weight_path": "/models/sparse", "kt_num_gpu_experts": 2}),
        ({}, {"kt_cpuinfer": 31, "kt_threadpool_count": 2}),
        ({"kt_num_gpu_experts": 0}, {"kt_num_gpu_experts": 0}),
        ({"kt_method": "AMXINT4", "kt_weight_path": "/q"}, {"kt_method": "AMXINT4", "kt_weight_path": "/q"}),
        ({"kt_cpuinfer": 8, "kt_threadpool_count": 1}, {"kt_cpuinfer": 8, "kt_threadpool_count": 1}),
        ({"kt_chunked_prefill_size": 4096}, {"chunked_prefill_size": 4096}),
        ({"kt_numa_nodes": (1,)}, {"kt_numa_nodes": [1], "kt_threadpool_count": 1}),
        ({"kt_max_deferred_experts_per_token": 3}, {"kt_max_deferred_experts_per_token": 3}),
    ],
)
def test_arguments_become_server_arguments(given: dict[str, Any], expected: dict[str, Any]) -> None:
    told = kt_options(settings(**given), FOLDER, cores=32, nodes=(0, 1))
    assert {name: told[name] for name in expected} == expected


def test_what_was_not_asked_is_not_told() -> None:
    told = kt_options(settings(), FOLDER, cores=2, nodes=(0,))
    assert not {"chunked_prefill_size", "kt_max_deferred_experts_per_token"} & set(told)


@pytest.mark.parametrize(
    ("given", "gpus", "says"),
    [
        ({"sglang_python": "python"}, 0, "does not start without CUDA; no GPU was found"),
        ({"sglang_python": "python", "device": "cpu"}, 1, "device=cpu was asked for"),
        ({}, 1, "sglang_python is missing"),
    ],
)
def test_what_can_not_be_is_refused(given: dict[str, Any], gpus: int, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        check(settings(**given), gpus=gpus)


@pytest.mark.parametrize(
    "given",
    [
        {"kt_method": "AMXINT4"},
        {"kt_weight_path": "/q"},
        {"kt_cpuinfer": 8},
        {"kt_threadpool_count": 1},
        {"kt_numa_nodes": (0,)},
        {"kt_max_deferred_experts_per_token": 1},
        {"kt_chunked_prefill_size": 512},
    ],
)
def test_nothing_of_a_server_that_runs_already_can_be_set(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "check", lambda arguments, gpus: None)
    (name,) = given
    with pytest.raises(ArgumentError, match=f"{name} can't be combined with sglang_url") as refused:
        registry.make(settings(sglang_url="http://127.0.0.1:1", **given))
    assert refused.value.argument == name
    assert "leave" in refused.value.fix


def test_the_argument_chooses_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="kt_num_gpu_experts=2 needs an NVIDIA GPU"):
        registry.make(settings(sglang_python="python"))
    monkeypatch.setattr(server, "check", lambda arguments, gpus: None)
    engine = registry.make(settings(sglang_url="http://127.0.0.1:1"))
    assert isinstance(engine, KTServerEngine)
    assert engine.name == "ktransformers"


def test_what_only_the_server_has_is_refused_without_it() -> None:
    with pytest.raises(ArgumentError, match="needs kt_num_gpu_experts"):
        registry.make(settings(kt_num_gpu_experts=None, kt_max_deferred_experts_per_token=1))
    assert Checkpoint.open(settings()).path.name == "moe"
