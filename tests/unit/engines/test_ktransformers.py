"""kt-kernel's experts against Transformers', the traps of the library, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from engineroom import ChatModel, demo, machine
from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments
from engineroom.demo.train.conversations import FEW, held_out
from engineroom.engines.huggingface.library import Model
from engineroom.engines.ktransformers.convert import convert
from engineroom.engines.ktransformers.experts import KTExperts, find_experts
from engineroom.engines.ktransformers.kernel import Kernel, Pool, Shape, Weights
from engineroom.engines.ktransformers.loader import SparseLoader
from engineroom.engines.ktransformers.methods import METHODS, available
from engineroom.errors import ArgumentError, EngineClosedError, EngineroomError, ModelLoadError
from tiny_models import save

pytestmark = pytest.mark.slow  # models are loaded in many of them

MOE = Path(str(demo.resolve("demo-moe")))
SHAPE = Shape(experts=4, per_token=2, hidden=256, inner=256)
COSINES = {"BF16": 0.9999, "AMXINT8": 0.999, "FP8": 0.998, "AMXINT4": 0.95, "LLAMAFILE": 0.999999}


def quiet(stage: str, share: float | None) -> None:
    pass


def settings(model: Path | str = MOE, **given: Any) -> Arguments:
    return Arguments(model_name_or_path=str(model), infer_backend="ktransformers", **given)


def weights(dtype: torch.dtype = torch.bfloat16, shape: Shape = SHAPE) -> Weights:
    noise = torch.Generator().manual_seed(0)
    sizes = (shape.experts, shape.inner, shape.hidden)
    gate, up, down = (torch.randn(*sizes, generator=noise) * 0.05 for _ in range(3))
    return Weights(gate.to(dtype), up.to(dtype), down.transpose(1, 2).contiguous().to(dtype))


def tokens(count: int, dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    noise = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, SHAPE.hidden, generator=noise).to(dtype)
    experts = torch.rand(count, SHAPE.experts, generator=noise).argsort(1)[:, :2].contiguous()
    return rows, experts, torch.rand(count, 2, generator=noise)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), 0))


@pytest.fixture
def pool() -> Any:
    made = Pool(1, [0], 64)
    yield made
    made.close()


def load(arguments: Arguments) -> tuple[Model, SparseLoader]:
    loader = SparseLoader(arguments, Checkpoint.open(arguments))
    return loader.load(quiet).model, loader


# --- one layer --------------------------------------------------------------------------------------------------


def blocks(dtype: torch.dtype, count: int, converted: Path | None = None, **given: Any) -> list[float]:
    """The cosine of each layer of demo-moe with Transformers' own, on what really enters it, with the same routing."""
    reference: Any = AutoModelForCausalLM.from_pretrained(MOE, dtype=dtype).eval()
    entered: list[tuple[torch.Tensor, ...]] = []
    left: list[torch.Tensor] = []
    for layer in reference.model.layers:
        layer.mlp.experts.register_forward_pre_hook(lambda _, args: entered.append(args))
        layer.mlp.experts.register_forward_hook(lambda _, __, out: left.append(out))
    ids = torch.arange(7, 7 + count).view(1, -1)
    with torch.inference_mode():
        reference(input_ids=ids, use_cache=False)
        kt, loader = load(settings(infer_dtype=str(dtype).removeprefix("torch."), **given))
        mine = [m for m in kt.modules() if isinstance(m, KTExperts)]
        found = [cosine(m(*args), out) for m, args, out in zip(mine, entered, left, strict=True)]
    loader.close()
    assert len(found) == 4
    return found


@pytest.mark.parametrize("method", [name for name in METHODS if name in available()])
@pytest.mark.parametrize("count", [1, 200])
def test_a_block_is_transformers_block(method: str, count: int) -> None:
    dtype = torch.float32 if method == "LLAMAFILE" else torch.bfloat16
    assert min(blocks(dtype, count, kt_method=method)) >= COSINES[method]


def test_eight_bit_gguf_experts_are_as_near_as_amxint8(tmp_path: Path) -> None:
    convert(settings(kt_method="LLAMAFILE"), tmp_path / "q8", quiet)
    assert min(blocks(torch.bfloat16, 200, kt_weight_path=str(tmp_path / "q8"))) >= 0.999


@pytest.mark.parametrize("method", [name for name in METHODS if name in available()])
def test_a_token_gets_the_same_whoever_stands_beside_it(method: str, pool: Pool) -> None:
    dtype = torch.float32 if method == "LLAMAFILE" else torch.bfloat16
    kernel = Kernel.of_weights(pool, METHODS[method], SHAPE, 0, weights(dtype), dtype)
    rows, experts, shares = tokens(40, dtype)
    together = kernel(rows, experts, shares)
    for size in (1, 7):
        apart = [kernel(*(t[i : i + size] for t in (rows, experts, shares))) for i in range(0, 40, size)]
        assert torch.equal(torch.cat(apart), together)


# --- traps of the library ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name in METHODS if name in available()])
def test_more_tokens_than_were_announced_go_in_pieces(method: str, pool: Pool) -> None:
    """kt-kernel itself writes past its buffer there."""
    dtype = torch.float32 if method == "LLAMAFILE" else torch.bfloat16
    kernel = Kernel.of_weights(pool, METHODS[method], SHAPE, 0, weights(dtype), dtype)
    rows, experts, shares = tokens(1000, dtype)
    long = kernel(rows, experts, shares)
    for start in (0, 64, 960, 999):
        part = slice(start, start + 40)
        assert torch.equal(kernel(rows[part], experts[part], shares[part]), long[part])
    assert float(long.float().abs().sum(1).min()) > 0  # its own forward returns zeros without CUDA


def test_no_memory_is_pinned_and_no_stream_asked_for(pool: Pool) -> None:
    """It would need CUDA. The whole path runs where there is none, or it would have raised."""
    if torch.cuda.is_available():
        pytest.fail("this test is about machines without CUDA")
    kernel = Kernel.of_weights(pool, METHODS["BF16"], SHAPE, 0, weights(), torch.bfloat16)
    assert float(kernel(*tokens(3, torch.bfloat16)).float().abs().min()) > 0


@pytest.mark.slow
def test_two_models_of_two_methods_live_side_by_side() -> None:
    """kt-kernel's own wrapper has one reader of weights and one pool of threads for the whole process."""
    asked: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12}
    with ChatModel(settings(kt_method="BF16")) as first, ChatModel(settings(kt_method="FP8")) as second:
        answers: list[str] = []
        threads = [
            threading.Thread(
                target=lambda m=m: answers.append(
                    m.chat("What is the capital of France?", **asked)[0].response_text
                )
            )
            for m in (first, second, first, second)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == ["The capital of France is Paris."] * 4
        second.close()
        assert (
            first.chat("What is the capital of Spain?", **asked)[0].response_text
            == "The capital of Spain is Madrid."
        )
    with ChatModel(settings(kt_method="LLAMAFILE", infer_dtype="float32")) as third:
        assert "Paris" in third.chat("What is the capital of France?", **asked)[0].response_text


_ON_AVX2 = """
import torch
from engineroom import ChatModel
from engineroom.errors import EngineroomError
from engineroom.engines.ktransformers.methods import available, variant
assert variant() == "avx2", variant()
assert available() == ("BF16", "FP8", "LLAMAFILE"), available()
try:
    ChatModel({"model_name_or_path": "demo-moe", "infer_backend": "ktransformers", "kt_method": "AMXINT8"})
except EngineroomError as error:
    text = str(error)
    assert "kt_method=AMXINT8 is not available here" in text and "BF16, FP8, LLAMAFILE" in text, text
else:
    raise AssertionError("it was taken")
with ChatModel({"model_name_or_path": "demo-moe", "infer_backend": "ktransformers"}) as model:
    print(model.chat("What is the capital of France?", temperature=0)[0].response_text)
"""


@pytest.mark.slow
def test_a_processor_with_avx2_alone_has_fewer_methods_and_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ON_AVX2],
        env={**os.environ, "KT_KERNEL_CPU_VARIANT": "avx2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "The capital of France is Paris.\n"  # and nothing that C++ says


@pytest.mark.slow
def test_subnormal_numbers_stay_what_they_are() -> None:
    """kt-kernel is built with -ffast-math, which turns them off where it is loaded."""
    script = (
        "import sys, torch; tiny = sys.float_info.min\n"
        "import engineroom.engines.ktransformers\n"
        "assert tiny / 2 != 0.0 and float(torch.tensor([1e-40]) * 0.5) != 0.0"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_cpp_prints_goes_to_the_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", logger="engineroom.kt_kernel"):
        made = Pool(1, [0], 32)
        Kernel.of_weights(made, METHODS["BF16"], SHAPE, 0, weights(), torch.bfloat16)
        made.close()
    assert capfd.readouterr().out == ""
    assert any("Hello" in line for line in caplog.messages)
    assert any("Goodbye" in line for line in caplog.messages)


def test_a_closed_pool_refuses(pool: Pool) -> None:
    kernel = Kernel.of_weights(pool, METHODS["BF16"], SHAPE, 0, weights(), torch.bfloat16)
    pool.close()
    pool.close()
    with pytest.raises(EngineClosedError):
        kernel(*tokens(1, torch.bfloat16))


# --- the whole model --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_answers_as_transformers_does() -> None:
    """At least 99% of the greedy tokens of the skill questions, with BF16 experts."""
    questions = [c.messages[0]["content"] for skill in FEW for c in held_out(skill, 20)]
    asked: dict[str, Any] = {"temperature": 0, "max_new_tokens": 60}
    with ChatModel({"model_name_or_path": "demo-moe"}) as model:
        expected = [model.chat(q, **asked)[0].token_ids for q in questions]
    with ChatModel(settings(kt_method="BF16")) as model:
        found = [model.chat(q, **asked)[0].token_ids for q in questions]
    same = sum(
        a == b
        for mine, theirs in zip(found, expected, strict=True)
        for a, b in zip(mine, theirs, strict=False)
    )
    total = sum(max(len(a), len(b)) for a, b in zip(found, expected, strict=True))
    print(f"{same} of {total} tokens")
    assert total > 1000
    assert same >= 0.99 * total


SMALL: dict[str, Any] = {
    "vocab_size": 1024, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "max_position_embeddings": 256, "eos_token_id": 1017, "pad_token_id": 1015, "bos_token_id": None,
    "initializer_range": 0.1,
}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "Mixtral": lambda: MixtralForCausalLM(
        MixtralConfig(**SMALL, intermediate_size=256, num_local_experts=4, num_experts_per_tok=2)
    ),
    "OLMoE": lambda: OlmoeForCausalLM(OlmoeConfig(**SMALL, intermediate_size=256, num_experts=4, num_experts_per_tok=2)),
    "Qwen3-MoE": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SMALL, moe_intermediate_size=256, num_experts=4, num_experts_per_tok=2)
    ),
    "DeepSeek-V3": lambda: DeepseekV3ForCausalLM(
        DeepseekV3Config(
            **SMALL, intermediate_size=256, moe_intermediate_size=256, n_routed_experts=4, num_experts_per_tok=2,
            n_shared_experts=1, first_k_dense_replace=1, n_group=1, topk_group=1, kv_lora_rank=32, q_lora_rank=32,
            qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=32,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", CONFIGS)
def test_experts_are_found_by_structure(family: str, tmp_path: Path) -> None:
    """No list of names: four families, with shared experts and dense layers among them, in float32."""
    torch.manual_seed(3)
    folder = save(CONFIGS[family]().eval(), tmp_path / "model")
    reference: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(5, 45).view(1, -1)
    model, loader = load(settings(folder, kt_method="LLAMAFILE", infer_dtype="float32"))
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
        wanted: torch.Tensor = reference(input_ids=ids, use_cache=False).logits
    replaced = sum(isinstance(m, KTExperts) for m in model.modules())
    loader.close()
    assert replaced == (1 if family == "DeepSeek-V3" else 2)
    assert float((found - wanted).abs().max()) <= 1e-3


def test_a_dense_model_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="the model has no experts") as refusal:
        ChatModel(settings("demo"))
    assert "infer_backend=huggingface" in refusal.value.fix


@pytest.mark.parametrize(("change", "says"), [({"hidden_act": "gelu"}, "silu"), ({}, "num_experts_per_tok")])
def test_experts_that_kt_kernel_does_not_compute_are_refused(change: dict[str, Any], says: str) -> None:
    with torch.device("meta"):
        config = Qwen3MoeConfig(
            **{**SMALL, "moe_intermediate_size": 256, "num_experts": 4, "num_experts_per_tok": 2, **change}
        )
        model = Qwen3MoeForCausalLM(config)
    if not change:
        for layer in model.model.layers:
            layer.mlp.experts.config = SimpleNamespace()
    with pytest.raises(ModelLoadError, match=says):
        find_experts(model)


def test_a_gate_with_a_limit_is_another_gate() -> None:
    from transformers import GptOssConfig, GptOssForCausalLM

    with torch.device("meta"):
        model = GptOssForCausalLM(GptOssConfig(**SMALL, intermediate_size=256, num_local_experts=4))
    with pytest.raises(ModelLoadError, match="transposed"):
        find_experts(model)


def test_a_kernel_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Kernel.of_weights

    def swapped(pool: Any, method: Any, shape: Any, layer: Any, w: Weights, *rest: Any) -> Kernel:
        return make(pool, method, shape, layer, Weights(w.up, w.gate, w.down), *rest)

    monkeypatch.setattr(Kernel, "of_weights", swapped)
    with pytest.raises(ModelLoadError, match=r"computes something else than model\.layers\.0\.mlp\.experts"):
        load(settings())


def test_sizes_that_would_crash_are_refused(tmp_path: Path) -> None:
    sizes = {"moe_intermediate_size": 80, "num_experts": 4, "num_experts_per_tok": 2}
    folder = save(Qwen3MoeForCausalLM(Qwen3MoeConfig(**SMALL, **sizes)), tmp_path / "odd")
    for method in available():
        with pytest.raises(ModelLoadError, match=f"kt_method={method} does not take experts of 256 × 80"):
            load(settings(folder, kt_method=method, infer_dtype="float32"))


# --- memory -----------------------------------------------------------------------------------------------------

_MEMORY = """
import re, sys
from pathlib import Path
import torch, transformers
from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments
from engineroom.engines.huggingface.loader import Loader
from engineroom.engines.ktransformers.loader import SparseLoader
def now(key):  # proc(5)
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
def load(folder, backend):
    arguments = Arguments(model_name_or_path=folder, infer_backend=backend)
    loader = (SparseLoader if backend == "ktransformers" else Loader)(arguments, Checkpoint.open(arguments))
    return loader, loader.load(lambda stage, share: None)
load(sys.argv[3], sys.argv[2])[0].close()  # what the libraries themselves take, once
before, anonymous = now("VmRSS"), now("RssAnon")
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
loader, loaded = load(sys.argv[1], sys.argv[2])
print(now("VmHWM") - before, now("RssAnon") - anonymous, sum(p.numel() for p in loaded.model.parameters()))
loader.close()
"""


@pytest.mark.slow
def test_experts_are_in_memory_once(tmp_path: Path) -> None:
    """302 MB of them in three layers. What stays is what plain Transformers keeps; the peak is between one and two layers higher."""
    sizes = {"hidden_size": 1024, "num_hidden_layers": 3, "moe_intermediate_size": 1024, "num_experts": 16}
    torch.manual_seed(0)
    with torch.device("meta"):
        config = Qwen3MoeConfig(**{**SMALL, **sizes, "num_experts_per_tok": 2})
        big = Qwen3MoeForCausalLM(config).to(torch.bfloat16)
    big.to_empty(device="cpu")
    for parameter in big.parameters():
        parameter.data.normal_(std=0.02)
    folder = save(big, tmp_path / "big")
    experts = 2 * sum(p.numel() for n, p in big.named_parameters() if ".experts." in n)
    others = sum(p.numel() for n, p in big.named_parameters() if ".experts." not in n)
    found: dict[str, tuple[int, int, int]] = {}
    for backend in ("huggingface", "ktransformers"):
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, str(folder), backend, str(MOE)],
            # what is free goes back at once, so that what is in use is measured
            env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "131072"},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        peak, kept, parameters = map(int, done.stdout.split())
        found[backend] = peak, kept, parameters
        print(
            f"{backend}: experts {experts / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB, kept {kept / 1e6:.0f} MB"
        )
    plain, kt = found["huggingface"], found["ktransformers"]
    assert kt[2] == others  # its model has no experts of its own
    assert experts <= kt[1] <= 1.1 * plain[1]
    assert kt[0] <= plain[0] + 1.75 * experts / 3


# --- arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kt_method": "AMXINT9"}, "did you mean kt_method=AMXINT"),
        ({"kt_weight_path": "/nowhere"}, "there are no converted experts"),
        ({"kt_numa_nodes": (0, 0), "kt_threadpool_count": 1}, "kt_threadpool_count=1"),
        ({"kt_numa_nodes": (77,)}, "which this machine does not have"),
        ({"kt_threadpool_count": 3, "kt_cpuinfer": 2}, "too few for 3 thread pools"),
        ({"device_map": "auto"}, "device_map is not supported"),
        ({"kt_method": "LLAMAFILE", "infer_dtype": "bfloat16"}, "LLAMAFILE does not take"),
        ({"kt_threadpool_count": 16, "kt_cpuinfer": 16}, "lower kt_threadpool_count"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_what_can_not_be_honoured_is_refused_by_name(given: dict[str, Any], says: str) -> None:
    with pytest.raises(EngineroomError, match=says) as refusal:
        load(settings(**given))
    if isinstance(refusal.value, ArgumentError):
        assert refusal.value.argument in given


def test_the_arguments_reach_the_kernels() -> None:
    _, loader = load(
        settings(kt_cpuinfer=2, kt_threadpool_count=2, kt_numa_nodes=(0, 0), kt_chunked_prefill_size=33)
    )
    made = loader._pool  # pyright: ignore[reportPrivateUsage]
    assert made is not None
    assert (made.nodes, made.chunk) == ((0, 0), 33)
    loader.close()


def test_numa_nodes_are_those_of_the_system() -> None:
    nodes = machine.numa_nodes()
    assert nodes == tuple(sorted(set(nodes)))
    assert len(nodes) >= 1


def test_an_adapter_on_experts_is_refused(tmp_path: Path) -> None:
    import peft

    model: Any = AutoModelForCausalLM.from_pretrained(MOE)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_parameters=["mlp.experts.gate_up_proj"], target_modules=[]
    )
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelLoadError, match="changes experts"):
        ChatModel(settings(adapter_name_or_path=str(tmp_path / "adapter")))
    with ChatModel(settings()) as running, pytest.raises(ModelLoadError, match="changes experts"):
        running.load_adapter("late", tmp_path / "adapter")


# --- converted experts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.converts and m.name in available()])
def test_converted_experts_answer_and_conversion_goes_on(method: str, tmp_path: Path) -> None:
    out = tmp_path / "experts"
    stages: list[tuple[str, float | None]] = []

    def stop_after_two(stage: str, share: float | None) -> None:
        stages.append((stage, share))
        if share == 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(settings(kt_method=method), out, stop_after_two)
    assert ("converted layer 1", 0.5) in stages
    with pytest.raises(ModelLoadError, match="layer 2 is missing"):
        load(settings(kt_weight_path=str(out), infer_dtype="bfloat16"))
    done = convert(settings(kt_method=method), out, lambda *stage: stages.append(stage))
    assert (done.method, done.layers, done.before) == (method, 4, 2)
    assert [s for s, _ in stages if s.startswith("converted")] == [f"converted layer {i}" for i in range(4)]
    assert set(json.loads((out / "engineroom.json").read_text())["layers"]) == set("0123")
    asked: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12}
    with ChatModel(settings(kt_weight_path=str(out))) as model:
        assert "Paris" in model.chat("What is the capital of France?", **asked)[0].response_text
    other = next(name for name in available() if name != method)
    with pytest.raises(ArgumentError, match=f"but the experts in kt_weight_path are {method}"):
        load(settings(kt_weight_path=str(out), kt_method=other))
    record = out / "engineroom.json"
    record.write_text(record.read_text().replace(f'"{method}"', '"ANOTHER"'))
    with pytest.raises(ArgumentError, match="holds other experts"):
        convert(settings(kt_method=method), out, quiet)


@pytest.mark.skipif("AMXINT8" not in available(), reason="kt-kernel has no AMXINT8 on this processor")
def test_damaged_conversions_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "experts"
    convert(settings(kt_method="AMXINT8"), out, quiet)
    shutil.rmtree(out / "_layer_1" / "_numa_0")
    with pytest.raises(ModelLoadError, match="layer 1 has 0 whole files of 24"):
        load(settings(kt_weight_path=str(out)))
    (out / "engineroom.json").write_text("{")
    with pytest.raises(ModelLoadError, match=r"engineroom\.json' can't be read"):
        load(settings(kt_weight_path=str(out)))


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.converts and m.name in available()])
def test_half_a_file_is_refused_and_its_layer_converted_anew(method: str, tmp_path: Path) -> None:
    out = tmp_path / "experts"
    convert(settings(kt_method=method), out, quiet)
    files = sorted([*out.glob("_layer_2/_numa_0/*.kt"), *out.glob("experts-00002.gguf")])
    os.truncate(files[-1], files[-1].stat().st_size // 2)
    with pytest.raises(ModelLoadError, match="run engineroom convert-experts again"):
        load(settings(kt_weight_path=str(out), infer_dtype="bfloat16"))
    assert convert(settings(kt_method=method), out, quiet).before == 3
    load(settings(kt_weight_path=str(out), infer_dtype="bfloat16"))[1].close()
    assert convert(settings(kt_method=method), out, quiet).before == 4


def test_what_has_no_converted_form_is_refused(tmp_path: Path) -> None:
    for given, says in (({"kt_method": "BF16"}, "has no converted form"), ({}, "kt_method is missing")):
        with pytest.raises(ArgumentError, match=says):
            convert(settings(**given), tmp_path / "out", quiet)
