"""The doctor's findings, each on a folder that has just that wrong with it, and its arithmetic against real caches."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engineroom import ChatModel, demo, machine
from engineroom.config import parse_arguments
from engineroom.doctor import Diagnosis, diagnose
from engineroom.doctor.shape import Shape
from engineroom.engines import registry
from engineroom.errors import ArgumentError, EngineroomError, ModelError, ModelLoadError

GIB = 1 << 30


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 8 GiB without a GPU, wherever the tests run."""
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(16 * GIB, 8 * GIB))
    monkeypatch.setattr(machine, "gpus", lambda: ())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model, to be spoilt."""
    source = demo.resolve("demo")
    assert source is not None
    return Path(shutil.copytree(source, tmp_path / "model"))


def look(path: object, **arguments: Any) -> Diagnosis:
    return diagnose(parse_arguments({"model_name_or_path": str(path), **arguments}))


def edit(file: Path, **changes: Any) -> None:
    """Changes keys of a JSON file; None removes one."""
    value = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def test_a_healthy_model() -> None:
    found = look("demo")
    assert (found.would_load, found.problems, found.warnings) == (True, (), ())
    assert found.kind == "causal"
    assert found.weights.format == "safetensors"
    assert found.fit.fits is True
    assert found.fit.context_length == 2048
    assert found.template is not None
    assert found.template.origin == "model"
    assert found.template.has_thinking_switch
    assert found.template.tool_format is not None
    assert found.template.tool_format.name == "hermes"
    assert found.sampling is not None
    ready = [spec.name for spec in registry.built_in() if spec.packages and not spec.missing()]
    assert [v.name for v in found.engines if v.can] == [name for name in ready if name != "ktransformers"]
    assert ("ktransformers", False, "the model has no experts", "") in [astuple(v) for v in found.engines]


def test_a_sparse_model_is_for_ktransformers_too_and_weighed_as_its_experts_are_kept() -> None:
    found = look("demo-moe", infer_backend="ktransformers", kt_method="AMXINT4")
    assert found.would_load
    experts, others = 3 * 4 * 4 * 256 * 256, 793_088
    assert found.fit.weights == experts // 2 + 4 * others


def test_a_reward_model() -> None:
    assert look("demo-reward").kind == "sequence_classification"
    assert look("demo-reward").would_load


def test_a_value_head_beside_the_model_makes_it_a_reward_model(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"v_head.summary.weight": torch.zeros(1, 192)}, folder / "value_head.safetensors")
    found = look(folder, stage="rm")
    assert (found.kind, found.would_load) == ("value_head", True)


# --- files ------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])


def pointer(path: Path) -> None:
    (path / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )


def gguf(path: Path) -> None:
    (path / "model.safetensors").rename(path / "model-q4.gguf")


def a_shard_is_missing(path: Path) -> None:
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def no_index(path: Path) -> None:
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")


def another_name(path: Path) -> None:
    (path / "model.safetensors").rename(path / "weights.safetensors")


def broken_pickle(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(b"PK\x03\x04 only the beginning")


FATAL: list[tuple[Callable[[Path], Any], str, str]] = [
        (cut, "is corrupt", "again"),
        (pointer, "Git LFS pointer", "lfs pull"),
        (gguf, "GGUF", "converted from"),
        (lambda path: (path / "model.safetensors").unlink(), "has no weights", "again"),
        (a_shard_is_missing, "model-00002-of-00002.safetensors", "copy the missing"),
        (no_index, "can't be found", "copy the missing"),
        (another_name, "can't be found", "mv "),
        (broken_pickle, "pytorch_model.bin is corrupt", "again"),
        (lambda path: (path / "tokenizer.json").unlink(), "no tokenizer", "tokenizer files"),
        (lambda path: (path / "tokenizer.json").write_text("{"), "tokenizer.json can't be read", "again"),
        (lambda path: (path / "tokenizer_config.json").write_text("[]"), "tokenizer_config.json", "again"),
        (lambda path: (path / "chat_template.jinja").write_text("{% for"), "chat template", "FILE.jinja"),
        (lambda path: (path / "generation_config.json").write_text('{"top_p": 7}'), "generation_config", "that file"),
        (lambda path: edit(path / "config.json", model_type="none9"), "does not know", "upgrade transformers"),
        (
            lambda path: edit(path / "config.json", model_type="none9", auto_map={"AutoModelForCausalLM": "m.M"}),
            "code that comes with the model",
            "trust_remote_code=true",
        ),
        (lambda path: edit(path / "config.json", vocab_size=2000), "vocab_size 2000", "saved together"),
        (lambda path: edit(path / "config.json", num_hidden_layers=40, layer_types=None), "says 40 layers", "saved together"),
        (lambda path: edit(path / "config.json", layer_types=["full_attention"]), "contradicts itself", "correct it"),
        (lambda path: edit(path / "config.json", architectures=["QForSequenceClassification"], id2label={"0": "a", "1": "b"}), "2 labels", "reward model"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "what", "fix"), FATAL)
def test_what_keeps_a_model_from_loading(
    folder: Path, spoil: Callable[[Path], Any], what: str, fix: str
) -> None:
    spoil(folder)
    found = look(folder)
    assert not found.would_load
    (problem,) = found.problems
    assert what in problem.what
    assert fix in problem.fix
    assert not any(verdict.can for verdict in found.engines)


def no_template(path: Path) -> None:
    (path / "chat_template.jinja").unlink()


def more_ids(path: Path) -> None:
    added = json.loads((path / "tokenizer.json").read_text())["added_tokens"]
    edit(path / "tokenizer.json", added_tokens=[*added, {**added[0], "id": 5000, "content": "<new>"}])


def whole_pickle(path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


HARMLESS: list[tuple[Callable[[Path], Any], str]] = [
    (no_template, "no chat template"),
    (whole_pickle, "pickles"),
    (more_ids, "the tokenizer has ids up to"),
    (lambda path: edit(path / "config.json", max_position_embeddings=None), "how long the context"),
    (lambda path: edit(path / "config.json", auto_map={"AutoModel": "m.M"}), "Python code"),
    (lambda path: edit(path / "config.json", vision_config={}), "text only"),
]


@pytest.mark.parametrize(("spoil", "what"), HARMLESS)
def test_what_one_should_know(folder: Path, spoil: Callable[[Path], Any], what: str) -> None:
    spoil(folder)
    found = look(folder)
    assert found.would_load
    assert any(what in warning.what for warning in found.warnings)


@pytest.mark.filterwarnings("ignore::engineroom.TemplateWarning")
@pytest.mark.parametrize(
    ("spoil", "loads"), [*((row[0], False) for row in FATAL), *((row[0], True) for row in HARMLESS)]
)
def test_the_verdict_is_what_loading_does(folder: Path, spoil: Callable[[Path], Any], loads: bool) -> None:
    from engineroom import ChatModel

    spoil(folder)
    try:
        with ChatModel({"model_name_or_path": str(folder)}) as model:
            model.chat("hi", max_new_tokens=1)
    except EngineroomError:
        assert not loads
    else:
        assert loads


def test_without_a_template_it_is_chatml(folder: Path) -> None:
    no_template(folder)
    found = look(folder)
    assert found.template is not None
    assert (found.template.origin, found.template.tool_format) == ("chatml", None)
    assert look(folder, template="chatml").warnings == ()


def test_a_template_inside_the_tokenizers_config(folder: Path) -> None:
    text = (folder / "chat_template.jinja").read_text()
    no_template(folder)
    edit(folder / "tokenizer_config.json", chat_template=[{"name": "default", "template": text}])
    found = look(folder)
    assert found.template is not None
    assert found.template.origin == "model"
    assert found.template.tool_format is not None


@pytest.mark.parametrize(
    "config", ["{", "[]", '{"architectures": 5, "num_hidden_layers": "x", "text_config": 3}']
)
def test_a_config_of_nonsense_is_an_error_or_a_problem(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    try:
        assert not look(folder).would_load
    except ModelError as error:
        assert "config.json" in error.what


def test_an_adapter_given_as_a_model_names_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    with pytest.raises(ModelError, match="some/base adapter_name_or_path="):
        look(tmp_path)


def test_an_adapter_on_top(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    assert "not a LoRA adapter" in look(folder, adapter_name_or_path=str(adapter)).problems[0].what
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "some/other"}')
    assert "has no weights" in look(folder, adapter_name_or_path=str(adapter)).problems[0].what
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    found = look(folder, adapter_name_or_path=str(adapter))
    assert found.would_load
    assert "some/other" in found.warnings[0].what


def test_a_hub_repository_whose_weights_are_not_here(tmp_path: Path, folder: Path) -> None:
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 3 * GIB}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copytree(folder, repository / "snapshots" / commit)
    found = look("some/model", cache_dir=str(tmp_path / "hub"))
    assert found.would_load
    assert "not downloaded yet" in found.warnings[0].what
    assert found.weights.bytes == 3 * GIB


# --- arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"model_maxlen": 4096}, "more than the model's 2048"),
        ({"stage": "rm"}, "no reward head"),
        ({"quantization_bit": 4}, "needs an NVIDIA GPU"),
        ({"device": "cuda"}, "is not here"),
        ({"infer_backend": "ktransformers"}, "the ktransformers engine can't take it"),
        ({"template": "nowhere.jinja"}, "was not found"),
    ],
)
def test_what_the_arguments_ask_in_vain(arguments: dict[str, Any], what: str) -> None:
    found = look("demo", **arguments)
    assert not found.would_load
    assert what in found.problems[0].what


def test_a_stretched_context_is_accepted() -> None:
    found = look("demo", model_maxlen=4096, rope_scaling="yarn")
    assert found.would_load
    assert found.fit.context_length == 4096


def test_an_engine_that_does_not_exist_is_an_argument_error() -> None:
    with pytest.raises(ArgumentError, match="did you mean infer_backend=vllm"):
        look("demo", infer_backend="vlm")


# --- memory -----------------------------------------------------------------------------------------------------


def test_the_dtype_decides_the_weights() -> None:
    parameters = look("demo").weights.parameters
    assert parameters is not None
    assert look("demo", infer_dtype="float32").fit.weights == 4 * parameters
    assert look("demo", infer_dtype="bfloat16").fit.weights == 2 * parameters


def test_weights_that_do_not_fit_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(GIB, 400 << 20, limited=True))
    found = look("demo", infer_dtype="float32")
    assert not found.would_load
    assert found.fit.fits is False
    assert "main memory (limited by a control group)" in found.problems[0].what


def test_a_context_that_does_not_fit_is_a_warning_that_says_what_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(folder / "config.json", max_position_embeddings=10_000_000)
    found = look(folder, infer_dtype="float32")
    assert found.would_load
    assert found.fit.tokens is not None
    assert 0 < found.fit.tokens < 10_000_000
    assert f"model_maxlen={found.fit.tokens}" in found.warnings[0].fix
    assert look(folder, infer_dtype="float32", model_maxlen=found.fit.tokens).warnings == ()


def test_on_a_gpu_its_free_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = (machine.Gpu(0, "A", 80 * GIB, 1 * GIB, "1"), machine.Gpu(1, "B", 80 * GIB, 70 * GIB, "1"))
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    assert look("demo").fit.where == "GPU 0, A"
    assert look("demo", device="cuda:1").fit.free == 70 * GIB
    assert look("demo", device="cpu").fit.where == "main memory"
    assert look("demo", device_map="auto").fit.free == 79 * GIB


def test_where_memory_is_unknown_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: None)
    found = look("demo")
    assert found.would_load
    assert found.fit.fits is None


def _cache_bytes(model: Any, tokens: int) -> int:
    import torch

    with torch.no_grad():
        cache = model(input_ids=torch.ones((1, tokens), dtype=torch.long), use_cache=True).past_key_values
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def test_the_cache_is_as_big_as_said() -> None:
    """Grouped heads, one head for all, windows on some layers and on all, DeepSeek's latent attention."""
    import transformers

    sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4}
    grouped = transformers.Qwen3Config(**sizes, num_hidden_layers=2, num_key_value_heads=2, head_dim=16)
    windowed = transformers.Gemma3TextConfig(
        **sizes, num_hidden_layers=4, num_key_value_heads=1, head_dim=16, sliding_window=8,
        layer_types=["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
    )  # fmt: skip
    latent = transformers.DeepseekV3Config(
        **sizes, num_hidden_layers=2, num_key_value_heads=4, kv_lora_rank=8, q_lora_rank=8, qk_nope_head_dim=8,
        qk_rope_head_dim=4, v_head_dim=6, first_k_dense_replace=2,
    )  # fmt: skip
    all_windowed = transformers.MistralConfig(
        **sizes, num_hidden_layers=2, num_key_value_heads=2, sliding_window=8
    )
    one_head = transformers.FalconConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4
    )
    for config in (grouped, windowed, all_windowed, one_head, latent):
        shape = Shape.of(config.to_dict())
        assert shape is not None
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
        assert shape.kv_cache_bytes(20, 4) == pytest.approx(_cache_bytes(model, 20), rel=0.15), (
            config.model_type
        )


# --- whatever the files hold ------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = {
    "config.json": (
        "architectures", "model_type", "text_config", "num_hidden_layers", "hidden_size", "num_attention_heads",
        "num_key_value_heads", "head_dim", "layer_types", "sliding_window", "vocab_size", "max_position_embeddings",
        "dtype", "torch_dtype", "auto_map", "quantization_config", "id2label", "num_labels", "eos_token_id",
        "kv_lora_rank", "vision_config",
    ),
    "generation_config.json": ("do_sample", "temperature", "top_p", "top_k", "max_length", "eos_token_id"),
    "tokenizer_config.json": ("chat_template", "bos_token", "eos_token"),
    "tokenizer.json": ("model", "added_tokens"),
    "model.safetensors.index.json": ("metadata", "weight_map"),
    "chat_template.json": ("chat_template",),
    "adapter_config.json": ("base_model_name_or_path",),
}  # fmt: skip


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(sorted(KEYS)))
    return name, draw(st.dictionaries(st.sampled_from(KEYS[name]), JSON, max_size=4))


@pytest.mark.slow
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(spoilt(), min_size=1, max_size=3), st.booleans())
def test_whatever_the_files_hold_it_is_a_diagnosis_or_a_model_error(
    folder: Path, changes: list[tuple[str, dict[str, Any]]], sharded: bool
) -> None:
    with tempfile.TemporaryDirectory() as place:
        spoiled = Path(place) / "model"
        spoiled.mkdir()
        for file in folder.iterdir():
            (spoiled / file.name).symlink_to(file)
        for name, values in changes:
            file = spoiled / name
            old = json.loads(file.read_text()) if file.exists() else {}
            file.unlink(missing_ok=True)
            file.write_text(json.dumps({**old, **values}))
        if sharded:
            (spoiled / "model.safetensors").rename(spoiled / "model-00001-of-00002.safetensors")
        try:
            found = look(spoiled)
        except ModelError as error:
            assert error.what
            return
        assert found.would_load == (not found.problems)
        assert found.fit.weights >= 0


def test_an_embedding_model_is_judged_as_it_is_loaded(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Transformer"}]')
    found = diagnose(parse_arguments({"model_name_or_path": str(folder)}))
    assert (found.kind, found.problems) == ("embedding", ())
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]')
    for arguments, says in (
        ({"model_name_or_path": str(folder)}, "a module Dense"),
        ({"model_name_or_path": "demo-reward", "stage": "embed"}, "reward model"),
    ):
        (problem,) = diagnose(parse_arguments(arguments)).problems
        assert says in problem.what
        with pytest.raises(ModelLoadError, match=says):
            ChatModel(arguments)
