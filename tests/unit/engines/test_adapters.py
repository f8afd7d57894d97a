"""LoRA adapters: merged in order, or kept apart and chosen per request."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

import tiny_models
from engineroom import ChatModel
from engineroom.errors import ModelLoadError, ModelNotFoundError, ParameterError


@pytest.fixture(scope="module")
def adapters(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folder names that trip peft: a part of its prefix ``lora_``, and one with a dot."""
    home = tmp_path_factory.mktemp("adapters")
    return [
        tiny_models.lora(tiny_folder, home / "lora", seed=1),
        tiny_models.lora(tiny_folder, home / "checkpoint-1.5", seed=2, r=2, target_modules=["o_proj"]),
    ]


def model(base: Path, *adapters: Path, **arguments: Any) -> ChatModel:
    names = ",".join(map(str, adapters))
    return ChatModel(
        {"model_name_or_path": str(base), **({"adapter_name_or_path": names} if names else {}), **arguments}
    )


def greedy(chat: ChatModel, **options: Any) -> list[int]:
    return list(chat.chat("hello", temperature=0, max_new_tokens=12, ignore_eos=True, **options)[0].token_ids)


def expected(reference: Any, chat: ChatModel) -> list[int]:
    ids = torch.tensor([chat.render("hello").token_ids])
    output = reference.generate(
        input_ids=ids, do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0
    )
    return output[0, ids.shape[1] :].tolist()


def test_adapters_are_merged_in_order(tiny_folder: Path, adapters: list[Path]) -> None:
    weights = tiny_models.reference(tiny_folder)
    answers = []
    for count in (1, 2):
        with model(tiny_folder, *adapters[:count]) as chat:
            weights = PeftModel.from_pretrained(weights, str(adapters[count - 1])).merge_and_unload()
            answers.append(greedy(chat))
            assert answers[-1] == expected(weights, chat)
    with model(tiny_folder) as chat:
        assert greedy(chat) not in answers
    assert answers[0] != answers[1]


def test_adapters_kept_apart_are_chosen_by_name(tiny_folder: Path, adapters: list[Path]) -> None:
    with model(tiny_folder, *adapters, adapter_merge=False) as chat:
        bare = greedy(chat)
        answers = {name: greedy(chat, adapter=name) for name in ("lora", "checkpoint-1.5")}
        for name, folder in zip(answers, adapters, strict=True):
            reference = PeftModel.from_pretrained(tiny_models.reference(tiny_folder), str(folder))
            assert answers[name] == expected(reference, chat)
        assert bare == expected(tiny_models.reference(tiny_folder), chat)
        with ThreadPoolExecutor(6) as pool:  # side by side, step by step
            names = [None, "lora", "checkpoint-1.5"] * 4
            together = list(pool.map(lambda name: greedy(chat, adapter=name), names))
        assert together == [bare if name is None else answers[name] for name in names]
        with pytest.raises(ParameterError, match=r"lora, checkpoint-1\.5"):
            greedy(chat, adapter="other")


def test_an_adapter_nobody_kept_is_refused(tiny: ChatModel) -> None:
    with pytest.raises(ParameterError, match="adapters kept apart: none"):
        tiny.chat("hi", adapter="lora")


def test_two_folders_of_one_name_are_told_apart(
    tiny_folder: Path, adapters: list[Path], tmp_path: Path
) -> None:
    for place, folder in enumerate(adapters):
        shutil.copytree(folder, tmp_path / str(place) / "adapter")
    with model(tiny_folder, tmp_path / "0/adapter", tmp_path / "1/adapter", adapter_merge=False) as chat:
        assert greedy(chat, adapter="adapter") != greedy(chat, adapter="adapter-2")


def test_adapter_folder_is_where_the_adapters_lie(tiny_folder: Path, adapters: list[Path]) -> None:
    with (
        model(tiny_folder, adapters[0]) as chat,
        model(tiny_folder, adapters[0].parent, adapter_folder=adapters[0].name) as other,
    ):
        assert greedy(chat) == greedy(other)


@pytest.mark.usefixtures("no_thread_left")
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("damage", ["base", "missing", "corrupt", "config", "absent"])
def test_an_adapter_that_does_not_fit_is_refused(
    tiny_folder: Path, adapters: list[Path], tmp_path: Path, damage: str, merge: bool
) -> None:
    folder = Path(shutil.copytree(adapters[0], tmp_path / "adapter"))
    base, weights, error = tiny_folder, folder / "adapter_model.safetensors", ModelLoadError
    if damage == "base":
        base = tiny_models.causal(tmp_path / "other", hidden_size=64)
    elif damage == "missing":
        tensors = load_file(weights)
        save_file(dict(list(tensors.items())[2:]), weights)
    elif damage == "corrupt":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "config":
        config = json.loads((folder / "adapter_config.json").read_text())
        config["target_modules"] = ["no_such_module"]
        (folder / "adapter_config.json").write_text(json.dumps(config))
    else:
        (folder / "adapter_config.json").unlink()
        error = ModelNotFoundError
    with pytest.raises(error):
        model(base, folder, adapter_merge=merge)


def test_an_adapter_named_as_the_model_is_told_how_to_load(adapters: list[Path]) -> None:
    with pytest.raises(ModelNotFoundError, match="adapter_name_or_path="):
        ChatModel({"model_name_or_path": str(adapters[0])})
