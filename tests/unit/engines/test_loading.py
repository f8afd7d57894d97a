"""What is loaded, what is refused, and how the refusal reads."""

import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3ForCausalLM

import tiny_models
from engineroom import ChatModel
from engineroom.chat import SamplingWarning
from engineroom.errors import ArgumentError, EngineStartError, ModelLoadError, ModelNotFoundError


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def rewrite_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 5000)


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lose_a_tensor(folder: Path) -> None:
    rewrite_weights(folder, lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))


def reshape_a_tensor(folder: Path) -> None:
    rewrite_weights(folder, lambda w: w.update({"model.norm.weight": torch.ones(7)}))


def break_the_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def name_an_unknown_architecture(folder: Path) -> None:
    rewrite_json(folder / "config.json", architectures=["Qwen99ForCausalLM"], model_type="qwen99")


def break_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def break_the_generation_config(folder: Path) -> None:
    rewrite_json(folder / "generation_config.json", top_p="much")


@pytest.mark.usefixtures("no_thread_left")
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, "corrupt"),
        (empty, "corrupt"),
        (garbage, "corrupt"),
        (no_weights, "no weights"),
        (lose_a_tensor, r"lacks weights.*\n.*up_proj"),
        (reshape_a_tensor, r"model\.norm\.weight is \[7\], and has to be \[32\]"),
        (break_the_config, r"config\.json"),
        (name_an_unknown_architecture, "qwen99"),
        (break_the_tokenizer, "tokenizer"),
        (break_the_generation_config, "top_p"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_what_to_do(
    folder: Path, damage: Callable[[Path], None], says: str
) -> None:
    damage(folder)
    with pytest.raises(ModelLoadError, match=says) as refusal:
        ChatModel({"model_name_or_path": str(folder)})
    assert refusal.value.fix


def test_a_missing_folder_and_one_without_a_model(tmp_path: Path) -> None:
    for name in ("/nowhere", "./nowhere", "no/such/model"):
        with pytest.raises(ModelNotFoundError, match="not found"):
            ChatModel({"model_name_or_path": name})
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        ChatModel({"model_name_or_path": str(tmp_path)})


def test_the_hub_of_another_project_is_not_pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    with pytest.raises(ModelNotFoundError, match="USE_MODELSCOPE_HUB"):
        ChatModel({"model_name_or_path": "qwen/some-model"})


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(__file__).parent / "exploded",))


def test_pickled_weights_load_without_running_anything(folder: Path) -> None:
    exploded = Path(__file__).parent / "exploded"
    expected = greedy(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert greedy(folder) == expected
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": Bomb()}))
    with pytest.raises(ModelLoadError):
        ChatModel({"model_name_or_path": str(folder)})
    assert not exploded.exists()


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_does_not_run(folder: Path, place: str) -> None:
    ran = folder / "ran"
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n")
    auto_map = {
        "AutoConfig": "evil.Config",
        "AutoModelForCausalLM": "evil.Model",
        "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
    }
    changes = {"model_type": "evil"} if place == "config.json" else {"tokenizer_class": "EvilTokenizer"}
    rewrite_json(folder / place, auto_map=auto_map, **changes)
    try:
        ChatModel({"model_name_or_path": str(folder)}).close()
    except ModelLoadError as error:
        assert "trust_remote_code" in str(error) or place == "tokenizer_config.json"
    assert not ran.exists()


def greedy(folder: Path, prompt: str = "hi", **arguments: Any) -> tuple[int, ...]:
    with ChatModel({"model_name_or_path": str(folder), **arguments}) as model:
        return model.chat(prompt, temperature=0, max_new_tokens=8, ignore_eos=True)[0].token_ids


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"device": "cuda"}, "devices found: cpu"),
        ({"device": "cuda:7"}, "devices found: cpu"),
        ({"flash_attn": "fa2"}, "flash_attn is not installed"),
        ({"quantization_bit": 4}, "needs an NVIDIA GPU"),
        ({"quantization_bit": 8, "device_map": "auto"}, "needs an NVIDIA GPU"),
        ({"hf_kv_cache_memory": "1KiB"}, "hf_kv_cache_memory"),
        ({"hf_kv_cache_memory": "many"}, "hf_kv_cache_memory"),
        ({"model_maxlen": 512}, "rope_scaling"),
        ({"rope_scaling": "yarn"}, "model_maxlen"),
        ({"rope_scaling": "yarn", "model_maxlen": 100}, "model_maxlen"),
        ({"device": "cpu", "device_map": "auto"}, "device would be ignored"),
        ({"quantization_device_map": "auto"}, "quantization_bit=4"),
        ({"low_cpu_mem_usage": False}, "low_cpu_mem_usage"),
        ({"num_beams": 4, "temperature": 0.5}, "num_beams"),
        ({"length_penalty": 2.0}, "num_beams"),
        ({"adapter_merge": False}, "adapter_name_or_path"),
        ({"use_unsloth": True}, "training argument"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing where there is no GPU")
def test_what_can_not_be_honoured_is_refused(tiny_folder: Path, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        ChatModel({"model_name_or_path": str(tiny_folder), **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {"infer_dtype": "float32"},
        {"flash_attn": "disabled"},
        {"flash_attn": "sdpa"},
        {"device_map": "auto"},
        {"device": "cpu"},
        {"use_kv_cache": False},
        {"model_maxlen": 64},
    ],
)
def test_ways_of_loading_that_change_no_answer(tiny_folder: Path, arguments: dict[str, Any]) -> None:
    assert greedy(tiny_folder, **arguments) == greedy(tiny_folder)


def test_infer_dtype_is_the_weights_type(tiny_folder: Path) -> None:
    with ChatModel({"model_name_or_path": str(tiny_folder), "infer_dtype": "bfloat16"}) as model:
        assert model.engine.model.dtype == torch.bfloat16
        assert model.chat("hi", max_new_tokens=2)[0].response_length <= 2


def test_model_maxlen_is_the_context(tiny_folder: Path) -> None:
    with ChatModel({"model_name_or_path": str(tiny_folder), "model_maxlen": 64}) as model:
        answer = model.chat("hi", temperature=0, ignore_eos=True)[0]
        assert (answer.usage.total_tokens, answer.finish_reason) == (64, "length")


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3"])
def test_rope_scaling_is_transformers(tiny_folder: Path, kind: str) -> None:
    parameters = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0}
    if kind in ("yarn", "llama3"):
        parameters["original_max_position_embeddings"] = 256
    if kind == "llama3":
        parameters.update(low_freq_factor=1.0, high_freq_factor=4.0)
    config = tiny_models.config(rope_parameters=parameters)
    reference = Qwen3ForCausalLM.from_pretrained(tiny_folder, config=config).eval()
    text = "a long text, " * 40
    with ChatModel(
        {"model_name_or_path": str(tiny_folder), "rope_scaling": kind, "model_maxlen": 512}
    ) as model:
        ids = list(model.render(text).token_ids)
        assert 256 < len(ids) < 500
        assert model.context_length == 512
        answer = model.chat(text, temperature=0, max_new_tokens=6, ignore_eos=True)[0].token_ids
        short = model.chat("hi", temperature=0, max_new_tokens=6, ignore_eos=True)[0].token_ids
        again = model.chat(text, temperature=0, max_new_tokens=6, ignore_eos=True)[0].token_ids
    assert again == answer
    expected = reference.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=6, eos_token_id=None, use_cache=True
    )[0, len(ids) :]
    assert list(answer) == expected.tolist()
    if kind == "dynamic":  # a short text does not feel the scaling, whatever came before
        assert short == greedy(tiny_folder)[:6]


def test_a_scaled_or_a_rotary_free_model_is_not_scaled_again(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 128}
    scaled = tiny_models.causal(tmp_path / "scaled", rope_parameters=yarn)
    with pytest.raises(ArgumentError, match="scaled already"):
        ChatModel({"model_name_or_path": str(scaled), "rope_scaling": "linear", "model_maxlen": 512})
    learned = GPT2LMHeadModel(
        GPT2Config(vocab_size=1024, n_positions=64, n_embd=32, n_layer=1, n_head=2, eos_token_id=1017)
    )
    gpt2 = tiny_models.save(learned.eval(), tmp_path / "gpt2")
    with pytest.raises(ArgumentError, match="rotary"):
        ChatModel({"model_name_or_path": str(gpt2), "rope_scaling": "linear", "model_maxlen": 128})
    with ChatModel({"model_name_or_path": str(gpt2)}) as model:  # another architecture, end to end
        assert model.context_length == 64
        ids = torch.tensor([model.render("hi").token_ids])
        expected = learned.generate(ids, do_sample=False, max_new_tokens=8, pad_token_id=1015)[
            0, ids.shape[1] :
        ]
        assert list(model.chat("hi", temperature=0, max_new_tokens=8)[0].token_ids) == expected.tolist()


def test_tied_embeddings_and_a_missing_head(tmp_path: Path) -> None:
    tied = tiny_models.causal(tmp_path / "tied", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    assert greedy(tied)
    rewrite_json(tied / "config.json", tie_word_embeddings=False)
    with pytest.raises(ModelLoadError, match=r"lm_head\.weight"):
        ChatModel({"model_name_or_path": str(tied)})


def test_a_generation_config_that_asks_for_more_is_told_of(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    rewrite_json(folder / "generation_config.json", no_repeat_ngram_size=3, typical_p=1.0)
    with pytest.warns(SamplingWarning, match="no_repeat_ngram_size"):
        model = ChatModel({"model_name_or_path": str(folder)})
    with model:
        assert len(model.warnings) == 1
        assert "typical_p" not in model.warnings[0]


def test_progress_is_told_in_stages(tiny_folder: Path) -> None:
    stages: list[tuple[str, float | None]] = []
    ChatModel({"model_name_or_path": str(tiny_folder)}, progress=lambda *stage: stages.append(stage)).close()
    assert stages[0] == ("reading the tokenizer", None)
    assert stages[-1] == ("ready", 1.0)


@pytest.mark.usefixtures("no_thread_left")
def test_a_failing_progress_callback_is_not_swallowed(tiny_folder: Path) -> None:
    def fail(stage: str, share: float | None) -> None:
        if stage == "reading the weights":
            raise KeyboardInterrupt

    with pytest.raises(EngineStartError, match="KeyboardInterrupt"):
        ChatModel({"model_name_or_path": str(tiny_folder)}, progress=fail)


def test_loading_says_nothing_by_itself(tiny_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        greedy(tiny_folder)
    assert capfd.readouterr() == ("", "")
