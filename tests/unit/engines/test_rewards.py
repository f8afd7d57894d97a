"""Scores: those of the reference forward pass, for both kinds of checkpoint."""

import json
import pickle
import shutil
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import tiny_models
from engineroom import ChatModel
from engineroom.engines.scripted import ByteTokenizer
from engineroom.errors import (
    GenerationError,
    MessageError,
    ModelLoadError,
    ParameterError,
    PromptTooLongError,
    RequestError,
)
from engineroom.render import ChatTemplate, Renderer

TEXTS = ["ok", "a much longer text than the other ones, with 12 words or more in it", "Grüße! 👋🏽", "no"]
TALK = [{"role": "user", "content": "What is 1 plus 1?"}, {"role": "assistant", "content": "2."}]
HEAD = "value_head.safetensors"


def value_head(folder: Path, name: str = HEAD, seed: int = 5, size: int = 32) -> Path:
    torch.manual_seed(seed)
    tensors = {"v_head.summary.weight": torch.randn(1, size), "v_head.summary.bias": torch.randn(1)}
    if (
        name == "pytorch_model.bin" and (folder / "config.json").is_file()
    ):  # TRL, where it does not save safetensors
        torch.save({**load_file(folder / "model.safetensors"), **tensors}, folder / name)
        (folder / "model.safetensors").unlink()
    elif name.endswith(".bin"):
        torch.save(tensors, folder / name)
    elif name == "model.safetensors":
        save_file({**load_file(folder / name), **tensors}, folder / name, metadata={"format": "pt"})
    else:
        save_file(tensors, folder / name)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.classifier(tmp_path_factory.mktemp("rm") / "classifier")


@pytest.fixture(
    scope="module", params=["classifier", "beside", "among", "pickled", "pickled among", "sharded name"]
)
def reward(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    classifier: Path,
    tiny_folder: Path,
) -> Generator[tuple[ChatModel, Any], None, None]:
    """A reward model and the reference: padded batches through Transformers, pooled as TRL and LLaMA-Factory do."""
    folder, head = classifier, None
    if request.param != "classifier":
        folder = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("rm") / "v"))
        names = {
            "among": "model.safetensors",
            "pickled": "value_head.bin",
            "pickled among": "pytorch_model.bin",
        }
        if request.param == "sharded name":
            (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
            index = dict.fromkeys(
                load_file(tiny_folder / "model.safetensors"), "model-00001-of-00001.safetensors"
            )
            (folder / "model.safetensors.index.json").write_text(
                json.dumps({"metadata": {}, "weight_map": index})
            )
        value_head(folder, names.get(request.param, HEAD))
        torch.manual_seed(5)
        head = torch.randn(1, 32), torch.randn(1)
    family: Any = AutoModelForCausalLM if head else AutoModelForSequenceClassification
    model = family.from_pretrained(tiny_folder if head else folder, dtype=torch.float32).eval()

    def score(prompts: list[list[int]]) -> list[float]:
        width = max(map(len, prompts))
        ids = torch.tensor([p + [tiny_models.PAD] * (width - len(p)) for p in prompts])
        mask = torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in prompts])
        with torch.inference_mode():
            if head is None:
                return model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()
            hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
            values = hidden @ head[0][0] + head[1]
            return values.gather(1, mask.sum(1, keepdim=True) - 1)[:, 0].tolist()

    with ChatModel({"model_name_or_path": str(folder)}) as chat:
        yield chat, score


def test_scores_are_the_reference_whatever_the_batch(reward: tuple[ChatModel, Any]) -> None:
    model, score = reward
    prompts = [model.tokenizer.encode_plain(text) for text in TEXTS]
    expected = score(prompts)
    assert max(expected) - min(expected) > 0.01
    assert model.get_scores(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert model.get_scores(TEXTS[::-1]) == pytest.approx(expected[::-1], abs=1e-5)
    assert [model.get_scores([text])[0] for text in TEXTS] == pytest.approx(expected, abs=1e-5)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(model.get_scores, [TEXTS] * 8))
    assert together == [model.get_scores(TEXTS)] * 8


def test_conversations_are_rendered_whole(reward: tuple[ChatModel, Any]) -> None:
    model, score = reward
    text = model.tokenizer.inner.apply_chat_template(TALK, tokenize=False)  # type: ignore[attr-defined]
    expected = score([model.tokenizer.encode(text)])
    assert model.get_scores([TALK]) == pytest.approx(expected, abs=1e-5)
    assert model.get_scores([TALK, "ok"])[0] == pytest.approx(expected[0], abs=1e-5)


@pytest.mark.parametrize(
    ("batch", "options", "error", "says"),
    [
        ("a text", {}, MessageError, "wrap it"),
        (None, {}, MessageError, "list"),
        ([""], {}, MessageError, r"batch_input\[0\]"),
        (["ok", 5], {}, MessageError, r"batch_input\[1\]"),
        (["ok", []], {}, MessageError, r"batch_input\[1\].*empty"),
        (["\ud800"], {}, MessageError, "half a character"),
        (["long " * 500], {}, PromptTooLongError, "256"),
        (["ok"], {"max_length": 5}, ParameterError, "max_length"),
        (["ok"], {"temperature": 1}, ParameterError, "temperature"),
    ],
)
def test_bad_batches_are_refused_and_the_next_one_is_scored(
    demo_reward: ChatModel,
    batch: Any,
    options: dict[str, Any],
    error: type[Exception],
    says: str,
    classifier: Path,
) -> None:
    with ChatModel({"model_name_or_path": str(classifier)}) as model:
        with pytest.raises(error, match=says):
            model.get_scores(batch, **options)
        assert len(model.get_scores(["ok"])) == 1
        assert model.get_scores([]) == []


def test_a_text_that_brings_its_bos_is_not_given_another() -> None:
    class Beginning(ByteTokenizer):
        bos_token = "<|im_start|>"

        def encode_plain(self, text: str) -> list[int]:
            return self.encode(self.bos_token + text)

    renderer = Renderer(Beginning(), ChatTemplate("", "file"))
    assert renderer.render_raw("<|im_start|>a").token_ids == renderer.render_raw("a").token_ids


def test_a_score_that_is_no_number_is_an_error(classifier: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(classifier, tmp_path / "nan"))
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"].fill_(torch.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with ChatModel({"model_name_or_path": str(folder)}) as model, pytest.raises(GenerationError, match="NaN"):
        model.get_scores(["ok"])


@pytest.mark.parametrize("name", [HEAD, "pytorch_model.bin"])  # LLaMA-Factory's, TRL's
def test_a_head_lies_with_the_adapter_that_it_was_trained_with(
    name: str, tiny_folder: Path, tmp_path: Path
) -> None:
    adapter = value_head(tiny_models.lora(tiny_folder, tmp_path / "adapter", seed=3), name)
    merged = {"model_name_or_path": str(tiny_folder), "adapter_name_or_path": str(adapter)}
    with ChatModel(merged) as model, ChatModel({**merged, "adapter_merge": False}) as apart:
        assert not model.engine.can_generate
        assert apart.get_scores(TEXTS) == pytest.approx(model.get_scores(TEXTS), abs=1e-4)
        hidden = model.engine.model(
            input_ids=torch.tensor([model.tokenizer.encode_plain("ok")]), output_hidden_states=True
        ).hidden_states[-1][0, -1]
        torch.manual_seed(5)
        expected = float(hidden @ torch.randn(1, 32)[0] + torch.randn(1))
        assert model.get_scores(["ok"]) == pytest.approx([expected], abs=1e-5)


def test_a_classifiers_head_may_come_with_its_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=1)
    adapted = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"]))
    torch.manual_seed(8)
    for weight in adapted.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    adapted.eval()
    arguments = {"model_name_or_path": str(tiny_folder), "adapter_name_or_path": str(tmp_path / "adapter")}
    with ChatModel(arguments) as model:
        ids = torch.tensor([model.tokenizer.encode_plain("ok")])
        with torch.inference_mode():
            expected = float(adapted(input_ids=ids).logits[0, 0])
        assert model.get_scores(["ok"]) == pytest.approx([expected], abs=1e-5)


@pytest.mark.usefixtures("no_thread_left")
def test_heads_and_stages_that_do_not_fit_are_refused(
    tiny_folder: Path, classifier: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match="no reward head"):
        ChatModel({"model_name_or_path": str(tiny_folder), "stage": "rm"})
    with pytest.raises(ModelLoadError, match="classifier"):
        ChatModel({"model_name_or_path": str(classifier), "stage": "sft"})
    two = Path(shutil.copytree(classifier, tmp_path / "two"))
    weights = load_file(two / "model.safetensors")
    save_file({**weights, "score.weight": torch.randn(2, 32)}, two / "model.safetensors", {"format": "pt"})
    config = (two / "config.json").read_text()
    (two / "config.json").write_text(config.replace('"0": "LABEL_0"', '"0": "LABEL_0", "1": "LABEL_1"'))
    with pytest.raises(ModelLoadError, match="2 labels"):
        ChatModel({"model_name_or_path": str(two)})
    wide = value_head(Path(shutil.copytree(tiny_folder, tmp_path / "wide")), size=64)
    with pytest.raises(ModelLoadError, match="does not fit"):
        ChatModel({"model_name_or_path": str(wide)})
    hidden = Path(shutil.copytree(tiny_folder, tmp_path / "hidden"))
    tensors = {**load_file(hidden / "model.safetensors"), "v_head.summary.weight": torch.randn(1, 32)}
    (hidden / "model.safetensors").unlink()
    old_format: Any = {"_use_new_zipfile_serialization": False}
    torch.save(tensors, hidden / "pytorch_model.bin", **old_format)
    with pytest.raises(ModelLoadError, match="value head"):
        ChatModel({"model_name_or_path": str(hidden)})
    wide_again = {"model_name_or_path": str(wide), "stage": "sft"}
    with ChatModel(wide_again) as model, pytest.raises(RequestError, match="not a reward model"):
        model.get_scores(["ok"])


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(__file__).parent / "exploded",))


def test_a_pickled_head_runs_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "bomb"))
    (folder / "value_head.bin").write_bytes(pickle.dumps({"v_head.summary.weight": Bomb()}))
    with pytest.raises(ModelLoadError):
        ChatModel({"model_name_or_path": str(folder)})
    assert not (Path(__file__).parent / "exploded").exists()
