"""Another engine with weights behind a running ``engineroom api``, under conversations that go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_drills import Process, started

from serving import CHAT, read_events
from serving import text_of as streamed_text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = {"x-api-key": "root"}
SUM = [{"role": "user", "content": "What is 7 plus 5?"}]
VLLM = {"max_num_seqs": 8, "kv_cache_memory_bytes": 64 << 20}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Process, None, None]:
    """The shipped model on the Transformers engine, beside a folder with a copy whose weights are cut short."""
    folder = tmp_path_factory.mktemp("switch")
    spoilt = folder / "models" / "spoilt"
    shutil.copytree(str(files("engineroom") / "demo" / "chat"), spoilt)
    weights = spoilt / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    words = (
        *("infer_backend=huggingface", "vllm_maxlen=512", f"vllm_config={json.dumps(VLLM)}"),
        *("--admin-key", "root", "--model-folder", str(folder / "models"), "--served-model-name", "demo"),
    )
    with started(folder, *words, patience=120) as running:
        yield running


def said(server: Process, messages: list[dict[str, str]], **fields: Any) -> str:
    body = {"model": "demo", "messages": messages, "temperature": 0, "max_tokens": 16, **fields}
    answer = httpx.post(server.url + CHAT, json=body, headers=ROOT, timeout=60)
    assert answer.status_code == 200, answer.text
    if fields.get("stream"):
        return streamed_text(read_events(answer.text))
    return answer.json()["choices"][0]["message"]["content"]


def gone_on(answer: str) -> list[dict[str, str]]:
    return [*SUM, {"role": "assistant", "content": answer}, {"role": "user", "content": "What is 2 plus 2?"}]


def switch(server: Process, arguments: dict[str, Any], **options: Any) -> httpx.Response:
    body = {"arguments": arguments, **options}
    return httpx.post(server.url + "/switch", json=body, headers=ROOT, timeout=300)


def state(server: Process) -> dict[str, Any]:
    return httpx.get(server.url + "/switch", headers=ROOT, timeout=30).json()


def test_a_conversation_goes_on_from_engine_to_engine_and_back(server: Process) -> None:
    first = said(server, SUM)
    assert "12" in first
    then = said(server, gone_on(first))
    for backend in ("vllm", "huggingface"):
        before, meanwhile = state(server)["engine"], []
        with ThreadPoolExecutor(1) as pool:
            switching = pool.submit(switch, server, {"infer_backend": backend})
            while not switching.done():
                meanwhile.append(said(server, SUM))
        assert switching.result().status_code == 200, switching.result().text
        assert (before, state(server)["engine"]) in [("huggingface", "vllm"), ("vllm", "huggingface")]
        assert state(server)["engine"] == backend
        assert set(meanwhile) == {first}  # and so there were some
        assert said(server, SUM) == said(server, SUM, stream=True) == first
        assert said(server, gone_on(first)) == then


@pytest.mark.parametrize("close_first", [False, True])
@pytest.mark.parametrize("backend", ["huggingface", "vllm"])
def test_a_model_that_cant_be_loaded_leaves_the_old_one_serving(
    server: Process, close_first: bool, backend: str
) -> None:
    first, before = said(server, SUM), state(server)
    spoilt = str(Path(server.log).parent / "models" / "spoilt")
    wanted = {"infer_backend": backend, "model_name_or_path": spoilt}
    meanwhile: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        switching = pool.submit(switch, server, wanted, close_first=close_first)
        while not switching.done() and not close_first:
            meanwhile.append(said(server, SUM))
    failed = switching.result()
    assert failed.status_code in (400, 500), failed.text
    assert spoilt not in failed.text
    assert set(meanwhile) <= {first}
    after = state(server)
    assert (after["stage"], after["engine"], after["model"]) == ("idle", before["engine"], before["model"])
    assert httpx.get(server.url + "/ready").status_code == 200
    assert said(server, gone_on(first)) == said(server, gone_on(first), stream=True)
    assert said(server, SUM) == first
