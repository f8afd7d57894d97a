"""The telling drills again, on engines with weights."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from test_drills import Process, started

from engineroom import ChatModel
from engineroom.server.app import create_app
from serving import CHAT, error_of, read_events

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SUM = [{"role": "user", "content": "What is 7 plus 5?"}]
GOOD = {"messages": SUM, "temperature": 0, "max_tokens": 16}


def ask_together(model: ChatModel, *bodies: dict[str, Any]) -> list[httpx.Response]:
    async def go() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(model))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:
            return list(await asyncio.gather(*(client.post(CHAT, json=body) for body in bodies)))

    return asyncio.run(go())


def text_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {
            "oneOf": [schema, {"type": "integer"}, {"type": "object", "properties": {"a": {"$ref": "#"}}}]
        }
    return schema


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_regex": "("},
        {"guided_regex": "[z-a]"},
        {"guided_regex": "(?=a)b\\1"},
        {"guided_grammar": "root ::= nothing_of_that_name"},
        {"guided_grammar": "root ::= root root"},
        {"guided_json": ""},
        {"guided_json": "{"},
        {"structured_outputs": {"json": ""}},
        {"structured_outputs": {"json": {"type": "nonsense"}}},
        {"guided_json": {"$ref": "#/nowhere"}},
        {"guided_json": {"$ref": "http://127.0.0.1:1/schema.json"}},
        {"guided_choice": []},
        {"response_format": {"type": "json_schema"}},
    ],
)
def test_a_bad_format_is_refused_and_neighbours_do_not_notice(
    demo: ChatModel, fields: dict[str, Any]
) -> None:
    alone = text_of(ask_together(demo, GOOD)[0])
    began = time.monotonic()
    bad, beside = ask_together(demo, {**GOOD, **fields}, GOOD)
    assert time.monotonic() - began < 30
    assert bad.status_code == 400, bad.text
    assert error_of(bad)["param"] is not None
    assert "Traceback" not in bad.text
    assert text_of(beside) == alone
    assert text_of(ask_together(demo, {**GOOD, "guided_choice": ["cat"]})[0]) == "cat"


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_json": nested(30)},
        {"guided_regex": "((a{1,1000}){1,1000}){1,1000}"},
        {"guided_regex": "(a|a?)+" * 50},
    ],
)
def test_a_costly_format_is_refused_or_kept_to_in_time(demo: ChatModel, fields: dict[str, Any]) -> None:
    began = time.monotonic()
    answer, beside = ask_together(demo, {**GOOD, **fields}, GOOD)
    assert time.monotonic() - began < 30
    assert answer.status_code in (200, 400), answer.text
    assert text_of(beside)


def test_a_format_that_never_ends_ends_by_its_limits(demo: ChatModel) -> None:
    endless = {"messages": SUM, "guided_grammar": 'root ::= "a" root'}
    capped = ask_together(demo, {**endless, "max_tokens": 8})[0].json()
    assert capped["choices"][0]["finish_reason"] == "length"
    assert capped["usage"]["completion_tokens"] == 8
    began = time.monotonic()
    late = ask_together(demo, {**endless, "timeout": 0.5})[0]
    assert (late.status_code, error_of(late)["code"]) == (504, "timeout")
    assert time.monotonic() - began < 1.5


# --- a step that fails --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoilt() -> Generator[ChatModel, None, None]:
    """A model of its own, to be broken."""
    with ChatModel() as model:
        yield model


@contextmanager
def hooked(model: ChatModel, hook: Callable[[torch.Tensor], torch.Tensor]) -> Generator[None, None, None]:
    """Changes what the last norm gives."""
    norm = model.engine.model.model.norm
    handle = norm.register_forward_hook(lambda module, given, output: hook(output))
    try:
        yield
    finally:
        handle.remove()


def out_of_memory(hidden: torch.Tensor) -> torch.Tensor:
    raise torch.OutOfMemoryError("no memory for a tensor at 0x7f001234")


def defect(hidden: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("/root/secret")


def not_a_number(hidden: torch.Tensor) -> torch.Tensor:
    return hidden * float("nan")


@pytest.mark.parametrize("hook", [out_of_memory, defect, not_a_number])
@pytest.mark.parametrize("more", [{}, {"stream": True}, {"logprobs": True, "top_logprobs": 3}, {"n": 2}])
def test_a_step_that_fails_fails_its_requests_alone(
    spoilt: ChatModel, hook: Callable[[torch.Tensor], torch.Tensor], more: dict[str, Any]
) -> None:
    before = text_of(ask_together(spoilt, GOOD)[0])
    began = time.monotonic()
    with hooked(spoilt, hook):
        answer = ask_together(spoilt, {**GOOD, **more})[0]
    assert time.monotonic() - began < 2
    if answer.status_code == 200:
        assert more == {"stream": True}
        error = read_events(answer.text)[-1]["error"]
    else:
        assert answer.status_code == 500
        error = error_of(answer)
    assert error["code"] == "generation_failed"
    for told in ("NaN,", ":NaN", "secret", "0x7f", "Traceback"):
        assert told not in answer.text
    assert text_of(ask_together(spoilt, GOOD)[0]) == before


# --- an engine in a process of its own ----------------------------------------------------------------------------


def engine_processes(server: Process) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def vllm_server(folder: Path) -> Any:
    options = {"max_num_seqs": 8, "kv_cache_memory_bytes": 64 << 20}
    return started(
        folder, "infer_backend=vllm", "vllm_maxlen=512", f"vllm_config={json.dumps(options)}", patience=200
    )


def test_vllms_process_dies_under_a_stream(tmp_path: Path) -> None:
    with vllm_server(tmp_path) as server:
        got: list[str] = []
        begun = threading.Event()

        def read() -> None:
            body = {"messages": SUM, "stream": True, "ignore_eos": True, "max_tokens": 400}
            with httpx.stream("POST", server.url + CHAT, json=body, timeout=60) as answer:
                for text in answer.iter_text():
                    got.append(text)
                    begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(60)
        began = time.monotonic()
        for child in engine_processes(server):
            child.kill()
        reader.join(20)
        assert time.monotonic() - began < 2
        *pieces, last = read_events("".join(got))
        assert last["error"]["code"] == "engine_dead"
        assert {choice["finish_reason"] for piece in pieces for choice in piece["choices"]} == {None}
        assert httpx.get(server.url + "/health").status_code == 200
        assert httpx.get(server.url + "/ready").json() == {"status": "dead"}
        after = httpx.post(server.url + CHAT, json={"messages": SUM})
        assert (after.status_code, error_of(after)["code"]) == (503, "engine_dead")
        server.signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_child_of_a_server_outlives_it(tmp_path: Path, number: signal.Signals) -> None:
    with vllm_server(tmp_path) as server:
        children = engine_processes(server)
        assert children
        began = server.signal(number)
        server.process.wait(40)
        psutil.wait_procs(children, timeout=30)
        assert not [child for child in children if child.is_running() and child.status() != "zombie"]
        assert time.monotonic() - began < 30
