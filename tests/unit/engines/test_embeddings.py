"""Embeddings: the numbers of plain forward passes, pooled and normalised as the checkpoint says, or refused."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

import tiny_models
from engineroom import ChatModel
from engineroom.engines.pooling import Pooling
from engineroom.errors import ArgumentError, GenerationError, ModelLoadError, PromptTooLongError, RequestError

TEXTS = ["ok", "a longer text than the other ones, with 12 words or more in it", "Grüße! 👋🏽"]
TALK = [{"role": "user", "content": "What is 1 plus 1?"}, {"role": "assistant", "content": "2."}]


def sentence_model(
    base: Path,
    folder: Path,
    *names: str,
    pooling: dict[str, Any] | None = None,
    prompt: str | None = None,
) -> Path:
    """A folder as sentence-transformers saves it."""
    shutil.copytree(base, folder)
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{name}" if i else "",
            "type": f"sentence_transformers.models.{name}",
        }
        for i, name in enumerate(("Transformer", *names))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, **(pooling or {})})
    )
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "Query: "}, "default_prompt_name": prompt})
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64}))
    return folder


def states(folder: Path, model: ChatModel, item: Any, adapter: Path | None = None) -> torch.Tensor:
    """The hidden states behind the final norm, [positions, width]."""
    reference = tiny_models.reference(folder)
    if adapter is not None:
        reference = PeftModel.from_pretrained(reference, str(adapter)).eval()
    if isinstance(item, str):
        ids = model.tokenizer.encode_plain(item)
    else:
        from engineroom.render import parse_messages

        ids = list(model.renderer.render_scored(parse_messages(item)).token_ids)
    with torch.inference_mode():
        return reference(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]


def near(vector: torch.Tensor) -> Any:
    return pytest.approx(vector.tolist(), abs=1e-5)


POOLED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "last": lambda rows: rows[-1],
    "mean": lambda rows: rows.mean(0),
    "cls": lambda rows: rows[0],
}


@pytest.mark.parametrize("item", [*TEXTS, TALK], ids=["short", "long", "unicode", "a conversation"])
def test_the_last_tokens_state_at_length_one(tiny_folder: Path, item: Any) -> None:
    with ChatModel({"model_name_or_path": str(tiny_folder), "stage": "embed"}) as model:
        (told,) = model.get_embeddings([item])
        rows = states(tiny_folder, model, item)
        assert told.values == near(torch.nn.functional.normalize(rows[-1], dim=0))
        assert told.prompt_length == len(rows)


def test_many_at_once_are_what_they_are_alone(tiny_folder: Path) -> None:
    with ChatModel({"model_name_or_path": str(tiny_folder), "stage": "embed"}) as model:
        alone = model.get_embeddings(TEXTS)
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(model.get_embeddings, [TEXTS] * 6)) == [alone] * 6
        assert model.get_embeddings(TEXTS[::-1]) == alone[::-1]


@pytest.mark.parametrize(
    ("pooling", "kind"),
    [
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
        ({"pooling_mode_mean_tokens": True, "include_prompt": True}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
@pytest.mark.parametrize("normalize", [True, False])
def test_what_modules_json_says_is_done(
    tiny_folder: Path, tmp_path: Path, pooling: dict[str, Any], kind: str, normalize: bool
) -> None:
    names = ("Pooling", "Normalize") if normalize else ("Pooling",)
    folder = sentence_model(tiny_folder, tmp_path / "model", *names, pooling=pooling)
    with ChatModel({"model_name_or_path": str(folder)}) as model:  # such a folder needs no stage
        assert model.engine.pooling == Pooling(kind, normalize, 64)  # type: ignore[arg-type]
        vector = POOLED[kind](states(folder, model, TEXTS[1]))
        unit = torch.nn.functional.normalize(vector, dim=0)
        assert model.get_embeddings(TEXTS[1:2])[0].values == near(unit if normalize else vector)


@pytest.mark.parametrize(
    ("names", "options", "says"),
    [
        (("Pooling", "Dense"), {"pooling": {"pooling_mode_mean_tokens": True}}, "a module Dense"),
        (("Pooling",), {"pooling": {"pooling_mode_max_tokens": True}}, "pooling by max"),
        (("Pooling",), {"pooling": {"pooling_mode_mean_sqrt_len_tokens": True}}, "pooling by mean_sqrt_len"),
        (("Pooling",), {"pooling": {"pooling_mode": "weightedmean"}}, "pooling by weightedmean"),
        (("Pooling",), {"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}}, "mean and cls"),
        (("Pooling",), {"pooling": {}}, "pooling by nothing"),
        (("Pooling",), {"pooling": {"pooling_mode": "mean"}, "prompt": "query"}, "default prompt"),
    ],
)  # fmt: skip
def test_what_would_be_left_out_is_refused(
    tiny_folder: Path, tmp_path: Path, names: tuple[str, ...], options: dict[str, Any], says: str
) -> None:
    folder = sentence_model(tiny_folder, tmp_path / "model", *names, **options)
    with pytest.raises(ModelLoadError, match=says):
        ChatModel({"model_name_or_path": str(folder)})
    with ChatModel({"model_name_or_path": str(folder), "stage": "sft"}) as model:
        assert model.chat("hi", max_new_tokens=1)[0].response_length == 1


def test_sentence_transformers_limit_and_ways_with_texts_are_kept_or_refused(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = sentence_model(
        tiny_folder, tmp_path / "model", "Pooling", pooling={"pooling_mode_lasttoken": True}
    )
    with ChatModel({"model_name_or_path": str(folder)}) as model:
        with pytest.raises(PromptTooLongError, match="64"):
            model.get_embeddings(["word " * 65])
        assert len(model.get_embeddings(["ok"])) == 1
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    with pytest.raises(ModelLoadError, match="lower case"):
        ChatModel({"model_name_or_path": str(folder)})


def test_attention_in_both_directions_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "is_causal": False}))
    with pytest.raises(ModelLoadError, match="is_causal"):
        ChatModel({"model_name_or_path": str(folder), "stage": "embed"})


def test_a_checkpoint_without_a_head_is_enough(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    vectors = []
    for name in (folder, tiny_folder):
        with ChatModel({"model_name_or_path": str(name), "stage": "embed"}) as model:
            vectors.append(model.get_embeddings(TEXTS))
    assert vectors[0] == vectors[1]
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"model\.norm\.weight"):
        ChatModel({"model_name_or_path": str(folder), "stage": "embed"})


def test_a_merged_adapter_changes_the_vectors(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = tiny_models.lora(tiny_folder, tmp_path / "adapter", seed=1)
    arguments = {
        "model_name_or_path": str(tiny_folder),
        "stage": "embed",
        "adapter_name_or_path": str(adapter),
    }
    with ChatModel(arguments) as model:
        rows = states(tiny_folder, model, TEXTS[1], adapter)
        assert model.get_embeddings(TEXTS[1:2], normalize=False)[0].values == near(rows[-1])
        assert states(tiny_folder, model, TEXTS[1])[-1].tolist() != near(rows[-1])
    with pytest.raises(ArgumentError, match="adapter_merge"):
        ChatModel({**arguments, "adapter_merge": False})


def test_what_is_no_embedding_model_is_refused(tiny_folder: Path, tmp_path: Path, tiny: ChatModel) -> None:
    with pytest.raises(ModelLoadError, match="reward model"):
        ChatModel({"model_name_or_path": "demo-reward", "stage": "embed"})
    with pytest.raises(RequestError, match="stage=embed"):
        tiny.get_embeddings(["hi"])
    with (
        ChatModel({"model_name_or_path": str(tiny_folder), "stage": "embed"}) as model,
        pytest.raises(PromptTooLongError),
    ):
        model.get_embeddings(["word " * 400])


def test_weights_that_are_no_numbers_are_an_error(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(torch.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with (
        ChatModel({"model_name_or_path": str(folder), "stage": "embed"}) as model,
        pytest.raises(GenerationError, match="NaN"),
    ):
        model.get_embeddings(["hi"])
