"""The telling drills again, on engines with weights."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
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
from engineroom import demo as demo_models
from engineroom.server.app import create_app
from engineroom.server.settings import ServerSettings
from serving import CHAT, error_of, read_events

pytestmark = [pytest.mark.slow, pytest.mark.timed, pytest.mark.timeout(600)]

SUM = [{"role": "user", "content": "What is 7 plus 5?"}]
KIND = {"content-type": "application/json", "x-api-key": "root"}
GOOD = {"messages": SUM, "temperature": 0, "max_tokens": 16}


def ask_together(
    model: ChatModel, *bodies: dict[str, Any], path: str = CHAT, **settings: Any
) -> list[httpx.Response]:
    async def go() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(model, ServerSettings(**settings)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:
            # httpx's own encoder refuses half a character; clients in other languages send it.
            posted = (client.post(path, content=json.dumps(body), headers=KIND) for body in bodies)
            return list(await asyncio.gather(*posted))

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


FORMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "/v1/completions": lambda schema: {"prompt": "hi", "max_tokens": 8, "guided_json": schema},
    "/v1/responses": lambda schema: {
        "input": "hi",
        "max_output_tokens": 8,
        "text": {"format": {"type": "json_schema", "schema": schema}},
    },
    "/v1/messages": lambda schema: {
        "messages": SUM,
        "max_tokens": 8,
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
    },
}
"""A schema as each of the other routes has it."""


@pytest.mark.parametrize("path", FORMS)
def test_formats_of_every_route_are_judged_alike(demo: ChatModel, path: str) -> None:
    """Bad, then costly, then bad, then valid."""
    costly = {"type": "string", "pattern": "(a{1,9999}){1,9999}"}
    bad = {"type": "nonsense"}
    answers = [
        ask_together(demo, FORMS[path](schema), path=path)[0]
        for schema in (bad, costly, bad, {"type": "integer"})
    ]
    assert [answer.status_code for answer in answers] in ([400, 200, 400, 200], [400, 400, 400, 200])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, lambda text: {"messages": [{"role": "user", "content": text}]}),
        (CHAT, lambda text: {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}),
        (CHAT, lambda text: {"messages": [{"role": "system", "content": text}, *SUM], "stream": True}),
        ("/v1/completions", lambda text: {"prompt": text}),
        ("/v1/completions", lambda text: {"prompt": ["hi", text]}),
        ("/v1/responses", lambda text: {"input": text}),
        ("/v1/responses", lambda text: {"input": "hi", "instructions": text}),
        ("/v1/messages", lambda text: {"messages": SUM, "system": text, "max_tokens": 8}),
    ],
)
def test_a_hopeless_text_is_refused_at_once(
    demo: ChatModel, path: str, body: Callable[[str], dict[str, Any]]
) -> None:
    """To find out how many tokens 16 million characters are takes a real tokenizer half a minute."""
    for piece in ("x", "<|im_end|>", "你好"):
        began = time.monotonic()
        answer = ask_together(demo, body(piece * (16_000_000 // (len(json.dumps(piece)) - 2))), path=path)[0]
        assert time.monotonic() - began < 2
        assert answer.status_code == 400
        assert "the context has 2048" in answer.text
    assert text_of(ask_together(demo, GOOD)[0])


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"repetition_penalty": 5e-324}),
        (CHAT, {"repetition_penalty": 1e-30, "logprobs": True}),
        (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}),
        ("/v1/completions", {"prompt": "\ud800"}),
        ("/tokenize", {"prompt": "\ud800"}),
        ("/tokenize", {"prompt": "\udfff", "add_special_tokens": False}),
        ("/v1/completions", {"prompt": [1024]}),
        (CHAT, {"logit_bias": {"1024": 1}}),
        (CHAT, {"stop_token_ids": [1024]}),
    ],
)
def test_what_would_fail_inside_is_refused_before(demo: ChatModel, path: str, fields: dict[str, Any]) -> None:
    answer = ask_together(demo, fields if path != CHAT else {**GOOD, **fields}, path=path)[0]
    assert answer.status_code == 400, answer.text
    assert error_of(answer)["param"]
    assert text_of(ask_together(demo, GOOD)[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1e-300, "logprobs": True, "top_logprobs": 3},
        {"temperature": 100, "top_p": 5e-324, "min_p": 1},
        {"repetition_penalty": 0.01, "logprobs": True, "top_logprobs": 3},
        {"repetition_penalty": 100, "presence_penalty": 2, "frequency_penalty": -2},
        {"logit_bias": {str(token): -100 for token in range(1024)}, "logprobs": True},
        {"stop": ["x" * 512 for _ in range(64)]},
        {"n": 128},
        {"num_beams": 64},
    ],
)
def test_the_edges_of_every_range_give_answers(demo: ChatModel, fields: dict[str, Any]) -> None:
    body = {"messages": SUM, "max_tokens": 4, **fields}
    answer = ask_together(demo, body)[0]
    assert answer.status_code == 200, answer.text
    json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} in {answer.text}"))
    assert text_of(ask_together(demo, GOOD)[0])


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


# --- checkpoints that bring code ----------------------------------------------------------------------------------


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """Folders that would write ``ran`` if anything in them were run."""
    shipped, ran = Path(str(demo_models.resolve("demo"))), tmp_path / "ran"
    bomb = pickle.dumps({"model.norm.weight": Bomb(ran)})
    for name in ("pickled", "coded"):
        shutil.copytree(shipped, tmp_path / name)
    (tmp_path / "pickled" / "model.safetensors").unlink()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(bomb)
    (tmp_path / "coded" / "evil.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n")
    config = json.loads((shipped / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (tmp_path / "coded" / "config.json").write_text(json.dumps(config))
    (tmp_path / "adapter").mkdir()
    lora = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 2,
        "lora_alpha": 2,
        "target_modules": ["q_proj"],
    }
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(lora))
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(bomb)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/switch", {"arguments": {"model_name_or_path": "pickled"}}),
        ("/switch", {"arguments": {"model_name_or_path": "coded"}}),
        ("/switch", {"arguments": {"model_name_or_path": "coded", "trust_remote_code": True}}),
        ("/switch", {"arguments": {"adapter_name_or_path": "adapter"}}),
        ("/v1/load_lora_adapter", {"lora_name": "evil", "lora_path": "adapter"}),
    ],
)
def test_code_in_a_checkpoint_does_not_run(
    spoilt: ChatModel, traps: Path, path: str, body: dict[str, Any]
) -> None:
    before = text_of(ask_together(spoilt, GOOD)[0])
    allowed = {"admin_key": ("root",), "lora_folder": traps, "model_folder": traps}
    answer = ask_together(spoilt, body, path=path, **allowed)[0]
    assert 400 <= answer.status_code < 500, answer.text
    assert str(traps) not in answer.text
    assert not (traps / "ran").exists()
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
