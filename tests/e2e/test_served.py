"""``compare`` and ``bench`` against vLLM's own OpenAI server, with the shipped model."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import pytest

import engineroom.demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "ENGINEROOM_API_KEY": "sk-test",
}
MODEL = Path(engineroom.demo.__file__).parent / "chat"
PATIENCE = 400


class Served(NamedTuple):
    url: str
    pid: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served, None, None]:
    """In a folder, a session and a process group of its own, which is ended as a whole."""
    folder = tmp_path_factory.mktemp("vllm-server")
    port = free_port()
    words = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL),
        "--served-model-name", "demo", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
        "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "32",
        "--kv-cache-memory-bytes", str(64 << 20), "--disable-log-stats", "--api-key", "sk-test",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            words, stdout=log, stderr=log, cwd=folder, env=ENVIRONMENT, start_new_session=True
        )
    try:
        end = time.monotonic() + PATIENCE
        while not is_up(port):
            assert server.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < end, (folder / "log").read_text()[-3000:]
            time.sleep(0.5)
        yield Served(f"http://127.0.0.1:{port}/v1", server.pid)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engineroom", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=ENVIRONMENT,
    )


def test_the_shipped_model_agrees_with_itself_behind_vllms_server(vllm: Served) -> None:
    done = run("compare", "--with", vllm.url, "--json")
    shown = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert shown["aspects"] == {
        "prompts": True, "logits": True, "greedy tokens": True, "parameters": None, "sampled answers": True,
    }  # fmt: skip
    assert shown["gap"] < 0.001
    first, second = (shown[side]["conversations"] for side in ("first", "second"))
    assert [(c["prompt"], c["greedy"]) for c in first] == [(c["prompt"], c["greedy"]) for c in second]


def test_what_differs_from_vllms_server_is_found(vllm: Served) -> None:
    words = ("default_system=Be kind.", "infer_dtype=bfloat16", "--with", vllm.url, "--samples", "0")
    done = run("compare", *words)
    assert done.returncode == 1
    assert "likely cause: prompt: the server renders with" in done.stdout
    assert "likely cause: numerics: log-probabilities differ" in done.stdout


def test_vllms_server_is_measured(vllm: Served) -> None:
    lengths = ("--prompt-tokens", "40-60", "--answer-tokens", "24")
    load = ("--concurrency", "1,8", "--requests", "16", "--pid", str(vllm.pid))
    done = run("bench", "--url", vllm.url, *load, *lengths, "--json")
    shown = json.loads(done.stdout)
    assert (done.returncode, done.stderr, shown["notes"]) == (0, "", [])
    alone, together = shown["levels"]
    for level in (alone, together):
        assert (level["answered"], level["failed"]) == (16, 0)
        assert level["answer_tokens"] == level["asked_tokens"] == 16 * 24
        assert 16 * 38 <= level["prompt_tokens"] <= 16 * 60
        assert 0 < level["ttft"]["p50"] < level["end_to_end"]["p50"]
        assert 0 < level["inter_token"]["p50"] < level["end_to_end"]["p50"] / 10
        assert level["answer_tokens_per_cpu_second"] > 0
        assert level["peak_memory"] > 200 << 20
    assert together["answer_tokens_per_cpu_second"] > alone["answer_tokens_per_cpu_second"]


def test_what_vllms_server_refuses_is_told(vllm: Served) -> None:
    done = run("bench", "--url", vllm.url, "--prompt-tokens", "400", "--answer-tokens", "200")
    assert done.returncode == 2
    assert "are 600; the context has 512" in done.stderr
    done = run("bench", "--url", vllm.url, "--api-key", "wrong")
    assert done.returncode == 1
    assert "status 401" in done.stderr
    done = run("compare", "--with", vllm.url, "--with", "model=another")
    assert done.returncode == 1
    assert "`another` does not exist" in done.stderr
