"""``engineroom doctor``: verdict first, then each problem with what, why and fix."""

import json
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]


def test_a_model_that_would_load(program: Run) -> None:
    code, out, err = program("doctor")
    assert (code, err) == (0, "")
    assert out.startswith("yes: demo would load on the huggingface engine\n")
    for word in ("folder", "weights", "context", "memory", "template", "tools", "sampling", "engines"):
        assert f"\n{word}" in out
    assert "hermes" in out


def test_one_that_would_not(program: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}')
    code, out, _ = program("doctor", str(tmp_path))
    assert code == 1
    assert out.splitlines()[0].startswith("no: ")
    assert "2 problems" in out.splitlines()[0]
    assert out.count("problem: ") == out.count("  fix: ") - out.count("warning: ") == 2


def test_json_has_every_documented_key(program: Run) -> None:
    code, out, _ = program("doctor", "demo", "infer_dtype=bfloat16", "--json")
    shown = json.loads(out)
    assert code == 0
    assert list(shown) == [
        "model", "path", "would_load", "engine", "architecture", "kind", "parameters", "dtype", "context_length",
        "weights", "memory", "template", "sampling", "engines", "problems", "warnings",
    ]  # fmt: skip
    assert (shown["would_load"], shown["dtype"], shown["problems"]) == (True, "bfloat16", [])
    assert shown["memory"]["weights"] == 2 * shown["parameters"]
    assert shown["template"]["tool_format"] == "hermes"


def test_json_of_one_that_would_not(program: Run) -> None:
    code, out, _ = program("doctor", "--json", "infer_backend=ktransformers")
    shown = json.loads(out)
    assert code == 1
    assert shown["would_load"] is False
    assert shown["problems"][0]["fix"] == "use infer_backend=huggingface"


def test_a_model_that_is_not_there(program: Run) -> None:
    code, out, err = program("doctor", "./nowhere")
    assert (code, out) == (1, "")
    assert "check the path" in err
