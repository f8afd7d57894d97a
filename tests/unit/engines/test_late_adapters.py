"""Adapters that come and go while the Transformers engine runs, and what one that fails leaves behind: nothing."""

import json
import shutil
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file

import tiny_models
from engineroom import ChatModel
from engineroom.engines.huggingface import sleeping
from engineroom.errors import ModelLoadError, UnsupportedError

pytestmark = pytest.mark.slow  # models are loaded in many of them

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def adapters(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("late")
    return [
        tiny_models.lora(tiny_folder, home / "lora", seed=1),
        tiny_models.lora(tiny_folder, home / "checkpoint-1.5", seed=2, r=2, target_modules=["o_proj"]),
        tiny_models.lora(tiny_folder, home / "dora", seed=3, use_dora=True, lora_dropout=0.5),
    ]


@pytest.fixture
def model(tiny_folder: Path) -> Generator[ChatModel, None, None]:
    with ChatModel({"model_name_or_path": str(tiny_folder)}) as model:
        yield model


def greedy(model: ChatModel, **options: Any) -> list[int]:
    return list(
        model.chat("hello", temperature=0, max_new_tokens=12, ignore_eos=True, **options)[0].token_ids
    )


def expected(base: Path, adapter: Path, model: ChatModel) -> list[int]:
    reference: Any = PeftModel.from_pretrained(tiny_models.reference(base), str(adapter)).eval()
    ids = torch.tensor([model.render("hello").token_ids])
    output = reference.generate(
        input_ids=ids, do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0
    )
    return output[0, ids.shape[1] :].tolist()


def layers(model: ChatModel) -> int:
    return sum(isinstance(module, BaseTunerLayer) for module in model.engine.model.modules())


def test_they_come_go_and_come_again(model: ChatModel, tiny_folder: Path, adapters: list[Path]) -> None:
    bare = greedy(model)
    right = {folder.name: expected(tiny_folder, folder, model) for folder in adapters}
    assert len({tuple(ids) for ids in (bare, *right.values())}) == 4
    for _ in range(2):
        for folder in adapters:
            model.load_adapter(folder.name, folder)
            assert greedy(model, adapter=folder.name) == right[folder.name]
            assert greedy(model) == bare
        with ThreadPoolExecutor(8) as pool:
            names = [None, *right] * 3
            together = list(pool.map(lambda name: greedy(model, adapter=name), names))
        assert together == [bare if name is None else right[name] for name in names]
        for place, folder in enumerate(adapters):
            model.unload_adapter(folder.name)
            for left in adapters[place + 1 :]:
                assert greedy(model, adapter=left.name) == right[left.name]
            assert greedy(model) == bare
        assert layers(model) == 0
        assert dict(model.adapters) == {}


def test_answers_go_on_while_an_adapter_comes_and_goes(model: ChatModel, adapters: list[Path]) -> None:
    options: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_new_tokens": 150}
    alone = model.chat("hello", **options)[0].token_ids
    begun = threading.Event()

    def stream() -> tuple[int, ...]:
        ids: tuple[int, ...] = ()
        for delta in model.stream_deltas("hello", **options):
            begun.set()
            ids += delta.token_ids
        return ids

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(stream)
        assert begun.wait(30)
        model.load_adapter("late", adapters[0])
        assert greedy(model, adapter="late") != greedy(model)
        model.unload_adapter("late")
        assert answer.result() == alone


def test_an_adapter_lies_upon_merged_ones(tiny_folder: Path, adapters: list[Path]) -> None:
    arguments = {"model_name_or_path": str(tiny_folder), "adapter_name_or_path": str(adapters[0])}
    with ChatModel(arguments) as merged:
        bare = greedy(merged)
        merged.load_adapter("late", adapters[1])
        assert greedy(merged, adapter="late") != bare
        merged.unload_adapter("late")
        assert greedy(merged) == bare


def config(**changes: Any) -> Damage:
    def change(folder: Path) -> None:
        values = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**values, **changes}))

    return change


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)

    return damage


def cut(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no such module": (config(target_modules=["no_such_module"]), "no_such_module"),
    "a kind of layer that has no LoRA, in the middle": (
        config(target_modules=["q_proj", "input_layernorm"]),
        "not supported",
    ),
    "another rank than its weights": (config(r=8), "size mismatch"),
    "a weight is missing": (weights(lambda t: dict(list(t.items())[2:])), "lacks weights"),
    "an unknown weight": (
        weights(lambda t: {**t, "base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)}),
        "unknown weights",
    ),
    "a layer that the model has not": (
        weights(
            lambda t: {**t, "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.ones(4, 32)}
        ),
        r"no model\.layers\.7",
    ),
    "another width": (
        weights(lambda t: {name: torch.cat((x, x), 1) if "lora_A" in name else x for name, x in t.items()}),
        "does not fit",
    ),
    "cut off": (cut, "corrupt"),
    "no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{") and None, "can't be read"),
    "a list": (lambda folder: (folder / "adapter_config.json").write_text("[]") and None, "JSON object"),
    "biases of the model's own": (config(bias="all"), "bias=all"),
    "a start that changes the model": (config(init_lora_weights="pissa"), "pissa"),
    "layers that are doubled": (config(layer_replication=[[0, 2]]), "layer_replication"),
    "a prompt": (config(peft_type="PROMPT_TUNING", num_virtual_tokens=2), "PROMPT_TUNING|can't be loaded"),
    "a head": (config(task_type="SEQ_CLS"), "head"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
def test_one_that_can_not_be_loaded_leaves_all_as_it_was(
    model: ChatModel, adapters: list[Path], tmp_path: Path, damage: str, beside: bool
) -> None:
    act, says = DAMAGES[damage]
    bad = Path(shutil.copytree(adapters[0], tmp_path / "bad"))
    act(bad)
    if beside:
        model.load_adapter("good", adapters[1])
    names = [None, "good"] if beside else [None]
    before, count = [greedy(model, adapter=name) for name in names], layers(model)
    with pytest.raises(ModelLoadError, match=says):
        model.load_adapter("bad", bad)
    assert [greedy(model, adapter=name) for name in names] == before
    assert layers(model) == count
    model.load_adapter("bad", adapters[0])
    assert greedy(model, adapter="bad") not in before
    assert greedy(model) == before[0]


# --- sleep: there is no accelerator here, so the weights move between stand-ins -------------------------------------


class Moved:
    """A model that only notes where it was moved."""

    def __init__(self, **facts: Any) -> None:
        self.devices: list[str] = []
        self.full = False
        for name, value in facts.items():
            setattr(self, name, value)

    def to(self, device: Any) -> None:
        if self.full and str(device) != "cpu":
            raise torch.OutOfMemoryError("full")
        self.devices.append(str(device))


def loaded(device: str, model: Moved, head: Moved | None = None) -> Any:
    return SimpleNamespace(device=torch.device(device), model=model, value_head=head, prefixes=None)


def test_on_a_cpu_sleep_is_refused_and_the_reason_told(model: ChatModel) -> None:
    with pytest.raises(UnsupportedError, match="host's memory already"):
        model.sleep()
    assert model.engine.capabilities["sleep"] == "unsupported"


@pytest.mark.parametrize(
    ("device", "facts", "says"),
    [
        ("cuda:0", {}, ""),
        ("cuda:0", {"hf_device_map": {"": "cuda:0"}}, ""),
        ("cpu", {}, "on the CPU"),
        ("cuda:0", {"hf_device_map": {"a": "cuda:0", "b": "cpu"}}, "device_map"),
        ("cuda:0", {"is_quantized": True}, "quantised"),
    ],
)
def test_who_can_sleep(device: str, facts: dict[str, Any], says: str) -> None:
    assert says in sleeping.why_not(loaded(device, Moved(**facts)))
    assert bool(says) == bool(sleeping.why_not(loaded(device, Moved(**facts))))


@pytest.mark.slow
def test_the_weights_go_to_the_host_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: emptied.append(True))
    model, head = Moved(), Moved()
    everything = loaded("cuda:0", model, head)
    sleeping.sleep(everything)
    assert emptied == [True]
    sleeping.wake(everything)
    assert model.devices == head.devices == ["cpu", "cuda:0"]
    sleeping.sleep(everything)
    model.full = True
    with pytest.raises(torch.OutOfMemoryError):
        sleeping.wake(everything)
    assert model.devices[-1] == "cpu"
