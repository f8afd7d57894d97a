"""What is SGLang's own: its process, its log, its arguments. What all engines do is in tests/conformance."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from engineroom import ChatModel
from engineroom.checkpoint import Checkpoint
from engineroom.config import parse_arguments
from engineroom.engines.ktransformers import server as ktransformers_server
from engineroom.engines.sglang import SglangEngine, server
from engineroom.errors import (
    ArgumentError,
    EngineStartError,
    MessageError,
    UnsupportedError,
)
from engineroom.types import Prompt, SamplingParams
from process_engines import (
    PENALTIES,
    QUESTION,
    QUESTIONS,
    assert_answers_as,
    assert_logprobs_as,
    kill_in_mid_answer,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def sglang(settings: dict[str, Any]) -> Generator[ChatModel, None, None]:
    """The first port that is chosen has been taken when the server comes to it."""
    free_port = server._free_port
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.MonkeyPatch.context() as patch:
        ports = iter([taken.getsockname()[1]])
        patch.setattr(server, "_free_port", lambda: next(ports, None) or free_port())
        model = ChatModel(settings)
    with model:
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


@pytest.mark.parametrize("question", QUESTIONS)
def test_greedy_answers_are_the_huggingface_engines(
    sglang: ChatModel, demo: ChatModel, question: str
) -> None:
    assert_answers_as(sglang, demo, question)


@pytest.mark.parametrize("options", PENALTIES, ids=str)
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
        assert_logprobs_as(ours, same)


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


def test_a_port_that_was_taken_meanwhile_is_given_up_for_another(
    sglang: ChatModel, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = sglang.engine
    assert engine.log.path.read_text().count("Address already in use") == 1
    assert engine.log.last_words() != "OSError: [Errno 98] Address already in use"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        asked: list[int] = []
        monkeypatch.setattr(server, "_free_port", lambda: asked.append(taken.getsockname()[1]) or asked[-1])
        with pytest.raises(EngineStartError, match="Address already in use"):
            ChatModel(settings)
        assert len(asked) == 3


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


def test_ktransformers_server_is_spoken_to_as_sglang_is(
    sglang: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sglang-kt starts with CUDA alone; here SGLang's own server answers what its engine asks."""
    http = cast("Any", sglang.engine)._client._http
    monkeypatch.setenv("SGLANG_API_KEY", http.headers["Authorization"].removeprefix("Bearer "))
    monkeypatch.setattr(ktransformers_server, "check", lambda arguments, gpus: None)
    attached = {"infer_backend": "ktransformers", "kt_num_gpu_experts": 2, "sglang_url": str(http.base_url)}
    with ChatModel(attached) as model:
        assert model.engine.name == "ktransformers"
        assert model.chat(QUESTION, temperature=0) == sglang.chat(QUESTION, temperature=0)
        pieces = list(model.stream_deltas(QUESTION, temperature=0, logprobs=2))
        assert (
            "".join(piece.text for piece in pieces) == sglang.chat(QUESTION, temperature=0)[0].response_text
        )
        assert pieces[-1].finish_reason == "stop"


# --- the server's life ----------------------------------------------------------------------------------------------


def kill_server(model: ChatModel) -> None:
    os.kill(server_pid(model), signal.SIGKILL)


def kill_scheduler(model: ChatModel) -> None:
    (scheduler,) = [p for p in group(server_pid(model)) if "scheduler" in " ".join(p.cmdline())]
    scheduler.kill()


def test_when_one_of_its_processes_dies_all_end_and_one_call_starts_them_again(
    settings: dict[str, Any],
) -> None:
    """The scheduler takes its server along; and what was started afresh serves, until the server dies."""
    with ChatModel(settings) as model:
        before = model.chat(QUESTION, temperature=0)
        for kill in (kill_scheduler, kill_server):
            leader = server_pid(model)
            kill_in_mid_answer(model, kill)
            until(lambda leader=leader: not group(leader), within=5)
            if kill is kill_scheduler:
                model.restart()
                assert model.chat(QUESTION, temperature=0) == before


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
