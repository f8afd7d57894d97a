"""What is vLLM's own: its process, its log, its arguments. What all engines do is in tests/conformance."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import tiny_models
from engineroom import ChatModel, demo
from engineroom.checkpoint import Checkpoint
from engineroom.config import parse_arguments
from engineroom.engines.vllm import VllmEngine
from engineroom.errors import (
    ArgumentError,
    EngineStartError,
    GenerationError,
    ModelLoadError,
    ParameterError,
    RequestError,
    UnsupportedError,
)
from engineroom.testing import models
from process_engines import PENALTIES, QUESTION, QUESTIONS, assert_answers_as, kill_in_mid_answer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SMALL = {"infer_backend": "vllm", "vllm_config": {"kv_cache_memory_bytes": 64 << 20, "max_num_seqs": 32}}


@pytest.fixture(scope="module")
def vllm() -> Generator[ChatModel, None, None]:
    with ChatModel(SMALL) as model:
        yield model


def family() -> list[psutil.Process]:
    """This process's descendants, less the helper that Python starts once and keeps to its exit."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(child.cmdline())
    ]


def engine_pid(model: ChatModel) -> int:
    engine: Any = model.engine
    (pid,) = engine._launch.pids
    return pid


# --- one engine, the shipped model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("question", QUESTIONS)
def test_greedy_answers_are_the_huggingface_engines(vllm: ChatModel, demo: ChatModel, question: str) -> None:
    assert_answers_as(vllm, demo, question)


@pytest.mark.parametrize("options", PENALTIES, ids=str)
def test_penalties_mean_the_same(vllm: ChatModel, demo: ChatModel, options: dict[str, Any]) -> None:
    ask: dict[str, Any] = {"temperature": 0, "max_new_tokens": 48, "ignore_eos": True}
    plain, ours, theirs = (
        m.chat(QUESTION, **ask, **more)[0].token_ids
        for m, more in ((demo, {}), (vllm, options), (demo, options))
    )
    assert ours == theirs
    assert ours != plain


def test_a_seed_repeats_the_draw_among_others_too(vllm: ChatModel) -> None:
    def draw(seed: int) -> tuple[int, ...]:
        options: dict[str, Any] = {"temperature": 2.0, "seed": seed, "max_new_tokens": 16, "ignore_eos": True}
        return vllm.chat(QUESTION, **options)[0].token_ids

    alone = [draw(seed) for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(draw, [*range(4), *range(4)]))
    assert together == alone * 2
    assert len(set(alone)) > 1
    three = vllm.chat(QUESTION, temperature=2.0, seed=1, n=3, max_new_tokens=16, ignore_eos=True)
    assert [answer.token_ids for answer in three] == alone[1:4]


def test_beams_are_refused_and_the_error_names_who_can(vllm: ChatModel) -> None:
    with pytest.raises(Exception, match=r"num_beams.*\n.*huggingface"):
        vllm.chat(QUESTION, num_beams=2, temperature=0)


@pytest.mark.parametrize("temperature", [0.001, 5])
def test_a_temperature_that_vllm_can_not_draw_at_is_refused(vllm: ChatModel, temperature: float) -> None:
    with pytest.raises(ParameterError, match=r"0\.01 to 2"):
        vllm.chat(QUESTION, temperature=temperature)
    assert vllm.health().running == 0


def test_leaving_a_stream_frees_its_place(vllm: ChatModel) -> None:
    stream = vllm.stream_deltas(QUESTION, temperature=0, ignore_eos=True, max_new_tokens=1500)
    next(stream)
    assert vllm.health().running == 1
    stream.close()
    engine: Any = vllm.engine
    assert vllm.health().running == 0
    assert engine._engine.output_processor.get_num_unfinished_requests() == 0


def test_the_context_is_the_models(vllm: ChatModel) -> None:
    assert vllm.context_length == 2048


def test_vllm_is_quiet_and_its_log_is_kept_while_it_runs(vllm: ChatModel) -> None:
    engine: Any = vllm.engine
    assert "EngineCore" in engine.log.path.read_text()


# --- the engine's life ----------------------------------------------------------------------------------------------


def test_killed_in_mid_answer_everybody_is_told_within_two_seconds() -> None:
    model = ChatModel(SMALL)
    told = kill_in_mid_answer(model, lambda model: os.kill(engine_pid(model), signal.SIGKILL))
    assert all("SIGKILL" in words for words in told)
    model.close()
    assert model.health().state == "closed"
    assert family_of(model) == []


def family_of(model: ChatModel) -> list[psutil.Process]:
    return [child for child in family() if child.pid == engine_pid(model)]


@pytest.mark.parametrize("further", [{}, {"data_parallel_size": 2}], ids=["alone", "data parallel"])
def test_a_script_without_a_main_guard_prints_its_answer_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, further: dict[str, Any]
) -> None:
    # vLLM has its sockets in there, whose paths bear 107 characters, so the folder's name is short.
    folder = tmp_path_factory.mktemp("a")
    script = folder / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            from engineroom import ChatModel, demo
            model = ChatModel({ {**SMALL, "vllm_config": further}!r})
            print(model.chat({QUESTION!r}, temperature=0)[0].response_text)
        """)
    )
    environment = {**os.environ, "TMPDIR": str(folder)}
    ran = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=600, env=environment, check=False
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == ("7 plus 5 is 12.\n", "", 0)
    assert list(folder.glob("*.log")) == []


def test_a_quantised_checkpoint_answers(tmp_path: Path) -> None:
    """Its linear layers multiply in int8; Transformers widens them first, so log-probabilities are near, not equal."""
    folder = tiny_models.quantised(Path(demo.__file__).parent / "chat", tmp_path / "int8")
    told: list[Any] = []
    for arguments in (SMALL, {}):
        with ChatModel({**arguments, "model_name_or_path": str(folder)}) as model:
            told += model.chat(QUESTION, temperature=0, logprobs=0)
    ours, theirs = told
    assert ours.response_text == theirs.response_text == "7 plus 5 is 12."
    for one, other in zip(ours.logprobs, theirs.logprobs, strict=True):
        assert abs(one.logprob - other.logprob) <= 0.25


def test_two_processes_share_a_models_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else there has to be a NUMA node for each
    folder = models.causal(tmp_path / "tiny")
    ask: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
    arguments = {**SMALL, "model_name_or_path": str(folder), "vllm_config": {"tensor_parallel_size": 2}}
    with ChatModel({"model_name_or_path": str(folder)}) as one, ChatModel(arguments) as two:
        assert two.chat(models.STORY, **ask)[0].token_ids == one.chat(models.STORY, **ask)[0].token_ids


def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    before = {child.pid for child in family()}
    arguments = parse_arguments(SMALL)
    engine = VllmEngine(arguments, Checkpoint.open(arguments), start_limit=0.5)
    with pytest.raises(EngineStartError, match=r"not ready within 0\.5 seconds(.|\n)*its log is"):
        ChatModel(SMALL, engine=engine)
    assert {child.pid for child in family()} <= before


@pytest.mark.parametrize(
    ("further", "error", "says"),
    [
        ({"max_num_seq": 1}, ArgumentError, "did you mean max_num_seqs"),
        ({"quantization": "nonsense"}, EngineStartError, "nonsense(.|\n)*its log is"),
    ],
)
def test_arguments_that_vllm_refuses(further: dict[str, Any], error: type[Exception], says: str) -> None:
    before = {child.pid for child in family()}
    with pytest.raises(error, match=says):
        ChatModel({**SMALL, "vllm_config": further})
    assert {child.pid for child in family()} <= before


def test_a_head_size_that_its_kernels_lack_is_refused_before_the_first_request(tiny_folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="heads of size 16"):
        ChatModel({**SMALL, "model_name_or_path": str(tiny_folder)})


# --- adapters and rewards -------------------------------------------------------------------------------------------


def test_one_adapter_stands_in_for_merged_weights(tmp_path: Path) -> None:
    base = tiny_models.causal(tmp_path / "base", head_dim=32)
    adapter = tiny_models.lora(base, tmp_path / "adapter", seed=1)
    arguments = {"model_name_or_path": str(base), "adapter_name_or_path": str(adapter)}
    ask: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
    answers = []
    for more in (SMALL, {}):
        with ChatModel({**arguments, **more}) as model:
            answers.append(model.chat("hello", **ask)[0].token_ids)
            with pytest.raises(ParameterError, match="there is no adapter"):
                model.chat("hello", adapter="adapter")
    assert answers[0] == answers[1]
    with ChatModel({"model_name_or_path": str(base)}) as model:
        assert model.chat("hello", **ask)[0].token_ids != answers[0]


def test_an_adapter_for_another_model_is_refused(tmp_path: Path) -> None:
    base = tiny_models.causal(tmp_path / "base", head_dim=32)
    other = tiny_models.causal(tmp_path / "other", head_dim=32, hidden_size=64)
    adapter = tiny_models.lora(other, tmp_path / "adapter", seed=1)
    arguments = {**SMALL, "model_name_or_path": str(base), "adapter_name_or_path": str(adapter)}
    with pytest.raises(ModelLoadError, match="does not fit"):
        ChatModel(arguments)


TEXTS = ["ok", "a longer text with more words in it", "The moon is made of cheese. " * 20]


@pytest.mark.parametrize("kind", ["demo-reward", "value head"])
def test_scores_are_the_huggingface_engines(tmp_path: Path, kind: str) -> None:
    name = kind
    if kind == "value head":
        import torch
        from safetensors.torch import save_file

        folder = tiny_models.causal(tmp_path / "reward", head_dim=32)
        torch.manual_seed(5)
        head = {"v_head.summary.weight": torch.randn(1, 32), "v_head.summary.bias": torch.randn(1)}
        save_file(head, folder / "value_head.safetensors")
        name = str(folder)
    scores = []
    for more in ({}, SMALL):
        with ChatModel({"model_name_or_path": name, **more}) as model:
            assert not model.engine.can_generate
            texts = TEXTS if kind == "demo-reward" else TEXTS[:2]
            scores.append(model.get_scores(texts))
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
    assert max(scores[0]) - min(scores[0]) > 0.01


def test_a_score_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = tiny_models.classifier(tmp_path / "nan", head_dim=32)
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"].fill_(torch.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with (
        ChatModel({**SMALL, "model_name_or_path": str(folder)}) as model,
        pytest.raises(GenerationError, match="NaN"),
    ):
        model.get_scores(["ok"])


def test_several_labels_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_models.classifier(tmp_path / "two", head_dim=32)
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] = weights["score.weight"].repeat(2, 1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "LABEL_0", "1": "LABEL_1"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="2 labels"):
        ChatModel({**SMALL, "model_name_or_path": str(folder)})
    shutil.rmtree(folder)


# --- adapters that come later, embeddings, sleep ---------------------------------------------------------------------


def test_late_adapters_within_the_room_that_was_reserved(tmp_path: Path) -> None:
    """All slots taken, and taken again: answers without an adapter stay those of the bare model."""
    base = tiny_models.causal(tmp_path / "base", head_dim=32)
    adapters = [tiny_models.lora(base, tmp_path / f"a{seed}", seed=seed) for seed in range(3)]
    large = tiny_models.lora(base, tmp_path / "large", seed=9, r=48)
    dora = tiny_models.lora(base, tmp_path / "dora", seed=9, use_dora=True)
    arguments: dict[str, Any] = {"model_name_or_path": str(base), "enable_lora": True}
    room = {**SMALL, "vllm_config": {**SMALL["vllm_config"], "max_loras": 2}}  # type: ignore[dict-item]

    def greedy(model: ChatModel, **options: Any) -> tuple[int, ...]:
        ask: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True, **options}
        return model.chat("hello", **ask)[0].token_ids

    with ChatModel(arguments) as reference:
        bare = greedy(reference)
        right = []
        for place, folder in enumerate(adapters):
            reference.load_adapter(f"a{place}", folder)
            right.append(greedy(reference, adapter=f"a{place}"))
    with ChatModel({**arguments, **room}) as model:
        model.load_adapter("kept", adapters[0])
        for place in (1, 2, 1):  # under one name, as an adapter that was trained further
            model.load_adapter("changing", adapters[place])
            with ThreadPoolExecutor(12) as pool:
                names = [None, "kept", "changing"] * 4
                together = list(pool.map(lambda name: greedy(model, adapter=name), names))
            assert together == [bare, right[0], right[place]] * 4
            with pytest.raises(ArgumentError, match="room for 2 adapters"):
                model.load_adapter("more", adapters[2])
            model.unload_adapter("changing")
            assert greedy(model) == bare
        for folder, error, says in (
            (large, ArgumentError, "vllm_max_lora_rank=48"),
            (dora, ModelLoadError, "DoRA"),
        ):
            with pytest.raises(error, match=says):
                model.load_adapter("bad", folder)
        assert greedy(model, adapter="kept") == right[0]
        with pytest.raises(UnsupportedError, match="no accelerator"):
            model.sleep()


def test_without_room_the_error_says_how_to_reserve_it(vllm: ChatModel, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="enable_lora=true"):
        vllm.load_adapter("late", tmp_path)


@pytest.mark.parametrize("kind", ["last", "mean"])
def test_embeddings_are_the_huggingface_engines(tmp_path: Path, kind: str) -> None:
    """Of a folder as sentence-transformers saves it, whose limit on texts is its own affair."""
    folder = tiny_models.causal(tmp_path / "model", head_dim=32)
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{name}"}
        for place, (path, name) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling")))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    mode = {"last": "lasttoken", "mean": "mean_tokens"}[kind]
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 16, "do_lower_case": False})
    )
    if kind == "mean":  # a head is not needed
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        del weights["lm_head.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    told = []
    for more in ({}, SMALL):
        with ChatModel({"model_name_or_path": str(folder), **more}) as model:
            told.append(model.get_embeddings(TEXTS[:2]))
            with pytest.raises(RequestError, match="get_embeddings"):
                model.chat("hi")
    assert [one.prompt_length for one in told[0]] == [one.prompt_length for one in told[1]]
    for ours, theirs in zip(*told, strict=True):
        assert ours.values == pytest.approx(theirs.values, abs=1e-4)
        assert sum(value * value for value in ours.values) > 2  # as the folder says: not normalised
