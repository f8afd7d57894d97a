"""What is SGLang's own: its process, its log, its arguments. What all engines do is in tests/conformance."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from engineroom import ChatModel
from engineroom.checkpoint import Checkpoint
from engineroom.config import parse_arguments
from engineroom.engines.sglang import SglangEngine
from engineroom.errors import (
    ArgumentError,
    EngineDeadError,
    EngineStartError,
    MessageError,
    UnsupportedError,
)
from engineroom.types import Prompt, SamplingParams

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

QUESTION = "What is 7 plus 5?"


@pytest.fixture(scope="module")
def settings(sglang_python: str) -> dict[str, Any]:
    return {"infer_backend": "sglang", "sglang_python": sglang_python}


@pytest.fixture(scope="module")
def sglang(settings: dict[str, Any]) -> Generator[ChatModel, None, None]:
    with ChatModel(settings) as model:
        yield model


def server_pid(model: ChatModel) -> int:
    engine: Any = model.engine
    return engine._server.pid


def group(leader: int) -> list[psutil.Process]:
    """The living processes of the leader's process group."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == leader and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def until(condition: Callable[[], bool], within: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, f"not within {within} s"
        threading.Event().wait(0.02)
    return time.monotonic() - began


# --- one server, the shipped model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("question", [QUESTION, "Tell me about the moon.", "¿Qué? 日本語 🙂"])
def test_greedy_answers_are_the_huggingface_engines(
    sglang: ChatModel, demo: ChatModel, question: str
) -> None:
    ours, theirs = (
        m.chat(question, temperature=0, max_new_tokens=40, logprobs=3, prompt_logprobs=2)[0]
        for m in (sglang, demo)
    )
    assert (ours.token_ids, ours.response_text) == (theirs.token_ids, theirs.response_text)
    assert (ours.usage, ours.finish_reason) == (theirs.usage, theirs.finish_reason)
    for mine, other in zip(ours.logprobs or (), theirs.logprobs or (), strict=True):
        assert mine.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [p for _, p in mine.top] == pytest.approx([p for _, p in other.top], abs=1e-4)
    assert len(ours.prompt_logprobs or ()) == ours.prompt_length
    for mine, other in zip(ours.prompt_logprobs or (), theirs.prompt_logprobs or (), strict=True):
        assert (mine is None) == (other is None)
        if mine and other:
            assert (mine.token_id, len(mine.top)) == (other.token_id, 2)
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.5},
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"logit_bias": {22: -100.0}},
        {
            "repetition_penalty": 1.3,
            "presence_penalty": 1.0,
            "frequency_penalty": 0.5,
            "logit_bias": {220: 2},
        },
    ],
    ids=str,
)
def test_penalties_mean_the_same_among_others_too(
    sglang: ChatModel, demo: ChatModel, options: dict[str, Any]
) -> None:
    ask: dict[str, Any] = {"temperature": 0, "max_new_tokens": 48, "ignore_eos": True, "logprobs": 0}
    plain, theirs = (demo.chat(QUESTION, **ask, **more)[0] for more in ({}, options))
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(sglang.chat, QUESTION, **ask, **more) for more in [{}, options] * 3]
        answers = [future.result()[0] for future in asked]
    assert theirs.token_ids != plain.token_ids
    for place, ours in enumerate(answers):
        same = theirs if place % 2 else plain
        assert ours.token_ids == same.token_ids
        assert [e.logprob for e in ours.logprobs or ()] == pytest.approx(
            [e.logprob for e in same.logprobs or ()], abs=1e-4
        )


@pytest.mark.parametrize("options", [{"seed": 1}, {"num_beams": 2, "temperature": 0}], ids=str)
def test_what_sglang_can_not_do_is_refused_and_the_error_names_who_can(
    sglang: ChatModel, options: dict[str, Any]
) -> None:
    with pytest.raises(UnsupportedError, match=rf"{next(iter(options))}.*\n.*huggingface"):
        sglang.chat(QUESTION, **options)


def test_an_id_beyond_the_vocabulary_never_reaches_the_scheduler(sglang: ChatModel) -> None:
    async def ask() -> None:
        async for _ in sglang.engine.generate(Prompt((10**6,)), SamplingParams(max_new_tokens=1)):
            pass

    bridge: Any = sglang._bridge
    with pytest.raises(MessageError, match="1000000"):
        bridge.call(ask())
    assert sglang.health().state == "ready"
    assert sglang.health().running == 0


def test_leaving_a_stream_ends_it_in_the_server(sglang: ChatModel) -> None:
    stream = sglang.stream_deltas(QUESTION, temperature=0, ignore_eos=True, max_new_tokens=1500)
    next(stream)
    assert sglang.health().running == 1
    stream.close()
    assert sglang.health().running == 0
    engine: Any = sglang.engine
    bridge: Any = sglang._bridge

    def running() -> int:
        loads = bridge.call(engine._client.get("/v1/loads"))["loads"]
        return sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)

    assert until(lambda: running() == 0, within=1) < 1


def test_sglang_is_quiet_and_only_its_owner_can_read_its_log(sglang: ChatModel) -> None:
    engine: Any = sglang.engine
    assert "fired up" in engine.log.path.read_text()
    assert engine.log.path.stat().st_mode & 0o077 == 0


def test_a_server_that_runs_already_is_used_and_left_running(
    sglang: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = sglang.engine
    http = engine._client._http
    monkeypatch.setenv("SGLANG_API_KEY", http.headers["Authorization"].removeprefix("Bearer "))
    attached = {"infer_backend": "sglang", "sglang_url": str(http.base_url)}
    with ChatModel(attached) as model:
        assert model.chat(QUESTION, temperature=0) == sglang.chat(QUESTION, temperature=0)
        assert model.context_length == 2048
        with pytest.raises(UnsupportedError, match="sglang_url"):
            model.chat(QUESTION, repetition_penalty=1.2)
    assert sglang.chat(QUESTION, temperature=0)[0].finish_reason == "stop"
    monkeypatch.setenv("SGLANG_API_KEY", "wrong")
    with pytest.raises(EngineStartError, match="SGLANG_API_KEY"):
        ChatModel(attached)
    monkeypatch.setenv("SGLANG_API_KEY", http.headers["Authorization"].removeprefix("Bearer "))
    monkeypatch.setattr(Checkpoint, "architecture", "LlamaForCausalLM")
    with pytest.raises(EngineStartError, match="another model"):
        ChatModel(attached)


# --- the server's life ----------------------------------------------------------------------------------------------


def kill_server(model: ChatModel) -> None:
    os.kill(server_pid(model), signal.SIGKILL)


def kill_scheduler(model: ChatModel) -> None:
    (scheduler,) = [p for p in group(server_pid(model)) if "scheduler" in " ".join(p.cmdline())]
    scheduler.kill()


def kill_in_mid_answer(model: ChatModel, kill: Callable[[ChatModel], None]) -> None:
    """Everybody is told within two seconds, and nothing of the server is left."""
    started = threading.Barrier(5)

    def answer(number: int) -> tuple[float, BaseException | None]:
        stream = model.stream_deltas(f"{number}", temperature=0, ignore_eos=True, max_new_tokens=1900)
        next(stream)
        started.wait()
        try:
            for _ in stream:
                pass
        except EngineDeadError as error:
            return time.monotonic(), error
        return time.monotonic(), None

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(answer, number) for number in range(4)]
        started.wait()
        killed = time.monotonic()
        kill(model)
        for told, error in (future.result() for future in waiting):
            assert error is not None
            assert told - killed < 2
    assert model.health().state == "dead"
    with pytest.raises(EngineDeadError, match=r"model\.restart\(\)"):
        model.chat(QUESTION)
    until(lambda: not group(server_pid(model)), within=5)


def test_a_server_that_was_killed_is_started_again_by_one_call(settings: dict[str, Any]) -> None:
    with ChatModel(settings) as model:
        before = model.chat(QUESTION, temperature=0)
        kill_in_mid_answer(model, kill_server)
        model.restart()
        assert model.chat(QUESTION, temperature=0) == before
        leader = server_pid(model)
    assert group(leader) == []


def test_a_scheduler_that_dies_takes_its_server_along(settings: dict[str, Any]) -> None:
    with ChatModel(settings) as model:
        kill_in_mid_answer(model, kill_scheduler)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_host_that_ends_before_the_server_is_ready_leaves_no_orphan(
    settings: dict[str, Any], end: signal.Signals, tmp_path: Path
) -> None:
    """In the moment in which SGLang's own children are there, and it does not listen yet."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            from engineroom import ChatModel
            ChatModel({settings!r})
        """)
    )
    with subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True) as host:
        watched = psutil.Process(host.pid)
        until(lambda: len(watched.children(recursive=True)) > 2, within=300)
        server = next(child.pid for child in watched.children() if "launch.py" in " ".join(child.cmdline()))
        assert os.getsid(server) == server
        host.send_signal(end)
        host.communicate(timeout=30)
    assert until(lambda: not group(server), within=5) < 5


def test_a_start_that_takes_too_long_is_given_up(settings: dict[str, Any]) -> None:
    before = children()
    arguments = parse_arguments(settings)
    engine = SglangEngine(arguments, Checkpoint.open(arguments), start_limit=0.5)
    with pytest.raises(EngineStartError, match=r"not ready within 0\.5 seconds(.|\n)*its log is"):
        ChatModel(settings, engine=engine)
    assert children() <= before


@pytest.mark.parametrize(
    ("further", "error", "says"),
    [
        ({"max_running_request": 1}, ArgumentError, "did you mean max_running_requests"),
        ({"attention_backend": "nonsense"}, EngineStartError, "(.|\n)*its log is"),
    ],
)
def test_arguments_that_sglang_refuses(
    settings: dict[str, Any], further: dict[str, Any], error: type[Exception], says: str
) -> None:
    before = children()
    with pytest.raises(error, match=says):
        ChatModel({**settings, "sglang_config": further})
    assert children() <= before
