"""vLLM in another Python environment, against vLLM in this one. What the host process does is in test_hosted.py."""

import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import tiny_models
from engineroom import ChatModel
from engineroom.engines.hosted import HostedEngine
from engineroom.errors import ArgumentError, EngineDeadError, EngineStartError, ModelLoadError, ParameterError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

QUESTION = "What is 7 plus 5?"
SMALL = {"infer_backend": "vllm", "vllm_config": {"kv_cache_memory_bytes": 64 << 20, "max_num_seqs": 32}}
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments for vLLM in an environment of its own, which borrows this one's libraries."""
    folder = tmp_path_factory.mktemp("other")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "other.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return {**SMALL, "vllm_python": str(folder / "bin" / "python")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.causal(tmp_path_factory.mktemp("models") / "base", head_dim=32)


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    names = ("first", "second")
    return {n: tiny_models.lora(base, base.parent / n, seed=place) for place, n in enumerate(names)}


@pytest.fixture(scope="module")
def both(
    there: dict[str, Any], base: Path, adapters: dict[str, Path]
) -> Generator[tuple[ChatModel, ChatModel], None, None]:
    """(in the other environment, in this process), with two adapters kept apart."""
    arguments = {
        "model_name_or_path": str(base),
        "adapter_name_or_path": ",".join(map(str, adapters.values())),
        "adapter_merge": False,
    }
    with ChatModel({**there, **arguments}) as hosted, ChatModel({**SMALL, **arguments}) as here:
        assert isinstance(hosted.engine, HostedEngine)
        yield hosted, here


def settled(model: ChatModel, **options: Any) -> tuple[Any, ...]:
    answer = model.chat(QUESTION, **options)[0]
    logprobs = [(e.token_id, round(e.logprob, 3), len(e.top)) for e in answer.logprobs or ()]
    prompt = [e and (e.token_id, round(e.logprob, 3)) for e in answer.prompt_logprobs or ()]
    return answer.response_text, answer.token_ids, answer.finish_reason, answer.usage, logprobs, prompt


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        {**GREEDY, "logprobs": 3, "prompt_logprobs": 2},
        {"temperature": 1.5, "seed": 7, "max_new_tokens": 24, "ignore_eos": True},
        {**GREEDY, "repetition_penalty": 1.5, "logit_bias": {22: -100.0}},
        {**GREEDY, "adapter": "first"},
        {**GREEDY, "adapter": "second"},
        {"temperature": 0, "response_format": {"type": "regex", "pattern": "[0-9]{3}"}},
    ],
    ids=str,
)
def test_answers_are_those_of_vllm_in_this_process(
    both: tuple[ChatModel, ChatModel], options: dict[str, Any]
) -> None:
    hosted, here = both
    assert settled(hosted, **options) == settled(here, **options)


def test_the_adapters_differ(both: tuple[ChatModel, ChatModel]) -> None:
    hosted, _ = both
    with ThreadPoolExecutor(6) as pool:
        names = [None, "first", "second"] * 2
        answers = list(pool.map(lambda name: settled(hosted, **GREEDY, adapter=name), names))
    assert answers[:3] == answers[3:]
    assert len({answer[1] for answer in answers}) == 3
    with pytest.raises(ParameterError, match="adapters kept apart: first, second"):
        hosted.chat(QUESTION, adapter="third")


def test_facts_and_refusals_are_the_same(both: tuple[ChatModel, ChatModel]) -> None:
    hosted, here = both
    for fact in ("name", "context_length", "max_concurrency", "can_generate"):
        assert getattr(hosted.engine, fact) == getattr(here.engine, fact)
    assert dict(hosted.engine.capabilities) == dict(here.engine.capabilities)
    for refused in ({"temperature": 0.001}, {"logprobs": 1, "response_format": {"type": "json_object"}}):
        told = []
        for model in both:
            with pytest.raises(ParameterError) as error:
                model.chat(QUESTION, **refused)
            told.append((str(error.value), error.value.parameter))
        assert told[0] == told[1]


def test_leaving_a_stream_frees_its_place(both: tuple[ChatModel, ChatModel]) -> None:
    hosted, _ = both
    stream = hosted.stream_deltas(QUESTION, temperature=0, ignore_eos=True)
    next(stream)
    assert hosted.health().running == 1
    stream.close()
    assert hosted.health().running == 0


def test_scores_are_those_of_vllm_in_this_process(there: dict[str, Any]) -> None:
    texts = ["ok", "a longer text with more words in it", "The moon is made of cheese. " * 20]
    scores = []
    for arguments in (there, SMALL):
        with ChatModel({**arguments, "model_name_or_path": "demo-reward"}) as model:
            assert not model.engine.can_generate
            scores.append(model.get_scores(texts))
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


@pytest.mark.parametrize("victim", ["host", "engine", "parent"])
def test_killed_in_mid_answer(there: dict[str, Any], victim: str) -> None:
    """Whoever of the three processes is killed, the others are told, and none is left."""
    if victim == "parent":
        script = (
            "from engineroom import ChatModel\n"
            f"model = ChatModel({there!r})\n"
            f"next(model.stream_deltas({QUESTION!r}, temperature=0, ignore_eos=True))\n"
            "print(model.engine._process.pid, flush=True)\n"
            "import threading; threading.Event().wait()\n"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            host = psutil.Process(int(parent.stdout.readline()))
            family = [host, *host.children(recursive=True)]
            parent.send_signal(signal.SIGKILL)
            _, left = psutil.wait_procs(family, timeout=20)
            assert left == []
        return
    model = ChatModel(there)
    engine: Any = model.engine
    host = psutil.Process(engine._process.pid)
    core = next(child for child in host.children() if "resource_tracker" not in " ".join(child.cmdline()))
    family = [host, *host.children(recursive=True)]
    streams = [model.stream_deltas(QUESTION, temperature=0, ignore_eos=True) for _ in range(4)]
    for stream in streams:
        next(stream)
    killed = time.monotonic()
    os.kill(host.pid if victim == "host" else core.pid, signal.SIGKILL)
    for stream in streams:
        with pytest.raises(EngineDeadError, match="SIGKILL"):
            list(stream)
    assert time.monotonic() - killed < 2
    assert model.health().state == "dead"
    with pytest.raises(EngineDeadError):
        model.chat(QUESTION)
    model.close()
    assert not [process for process in family if alive(process)]


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("further", "error", "says"),
    [
        ({"vllm_config": {"max_num_seq": 1}}, ArgumentError, "did you mean max_num_seqs"),
        ({"vllm_config": {"quantization": "nonsense"}}, EngineStartError, "nonsense(.|\n)*its log is"),
        ({"device": "cpu"}, ArgumentError, "device is not supported by the vllm engine"),
    ],
)
def test_what_vllm_refuses_is_told_as_here(
    there: dict[str, Any], further: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        ChatModel({**there, **further})


def test_a_head_size_that_its_kernels_lack(there: dict[str, Any], tiny_folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="heads of size 16"):
        ChatModel({**there, "model_name_or_path": str(tiny_folder)})
