"""``engineroom api``: what is printed, what is refused before a model is loaded, and how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

Run = Callable[..., tuple[int, str, str]]


def test_print_config_shows_each_value_and_where_it_came_from(
    program: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: 7000\nmax_body: 4\ntemperature: 0.5\nmodel_name_or_path: demo-reward\n")
    monkeypatch.setenv("API_MODEL_NAME", "theirs")
    monkeypatch.setenv("ENGINEROOM_API_KEY", "sk-secret")
    words = ("api", "--config", str(file), "--port", "7001", "temperature=0", "--print-config")
    code, out, err = program(*words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "port = 7001  (--port)" in lines
    assert "max_body = 4.0  (configuration file)" in lines
    assert "served_model_name = ('theirs',)  (API_MODEL_NAME)" in lines
    assert "api_key = 1 key  (ENGINEROOM_API_KEY)" in lines
    assert "host = 127.0.0.1  (default)" in lines
    assert "temperature = 0.0  (command line)" in lines
    assert "model_name_or_path = demo-reward  (configuration file)" in lines
    assert "infer_backend = huggingface  (default)" in lines
    assert "sk-secret" not in out


def test_advice_leads_to_where_the_setting_is(program: Run) -> None:
    assert "`engineroom api --help` lists it" in program("api", "--port", "99999")[2]
    advice = re.search(r"`engineroom (settings .*)` explains it", program("api", "temperature=-1")[2])
    assert advice
    assert program(*advice[1].split())[0] == 0


def test_variables_name_the_files_and_the_limit(
    program: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = tmp_path / "model.yaml", tmp_path / "server.yaml"
    files[0].write_text("infer_backend: scripted\nport: 7000\n")
    files[1].write_text("port: 7001\n")
    monkeypatch.setenv("ENGINEROOM_CONFIG", f"{files[0]}, {files[1]}")
    monkeypatch.setenv("MAX_CONCURRENT", "3")
    code, out, err = program("api", "--print-config", "--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["config"] == {"value": [str(file) for file in files], "source": "ENGINEROOM_CONFIG"}
    assert told["port"] == {"value": 7001, "source": "configuration file"}
    assert told["infer_backend"] == {"value": "scripted", "source": "configuration file"}
    assert told["max_concurrent"] == {"value": 3, "source": "MAX_CONCURRENT"}
    monkeypatch.setenv("MAX_CONCURRENT", "0")
    code, _, err = program("api", "--print-config")
    assert (code, "MAX_CONCURRENT='0' is not allowed" in err) == (2, True)


def test_a_flag_s_files_win_over_the_variable_s(
    program: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: 7000\n")
    monkeypatch.setenv("ENGINEROOM_CONFIG", str(tmp_path / "missing.yaml"))
    code, out, _ = program("api", "--config", str(file), "--print-config")
    assert (code, "port = 7000  (configuration file)" in out) == (0, True)
    code, _, err = program("api", "--print-config")
    assert (code, "missing.yaml" in err) == (2, True)


def test_a_misspelt_variable_is_told(program: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEROOM_PROT", "9000")
    monkeypatch.setenv("ENGINEROOM_VLLM_LOG", "/tmp/log")
    code, _, err = program("api", "--print-config")
    assert code == 0
    assert "ENGINEROOM_PROT is set, but no setting of that name exists; ENGINEROOM_PORT does" in err
    assert "LOG" not in err


def test_the_configuration_as_json(program: Run) -> None:
    code, out, _ = program("api", "--json", "--port", "7001", "--api-key", "sk-secret", "--print-config")
    told = json.loads(out)
    assert code == 0
    assert told["port"] == {"value": 7001, "source": "--port"}
    assert told["model_name_or_path"] == {"value": "demo", "source": "default"}
    assert told["api_key"]["value"] == "1 key"
    assert "sk-secret" not in out


def test_other_machines_need_a_key(program: Run) -> None:
    code, _, err = program("api", "--host", "0.0.0.0", "infer_backend=scripted")
    assert code == 2
    assert "--allow-anonymous" in err


def test_a_taken_port_is_told_before_the_model_is_loaded(program: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, _, err = program("api", "model_name_or_path=no/such/model", "--port", port)
    assert code == 2
    assert f"can't listen on 127.0.0.1:{port}" in err


def test_a_model_that_cant_be_loaded_ends_it(program: Run) -> None:
    code, _, err = program("api", "model_name_or_path=/no/such/model", "--port", "0")
    assert code == 1
    assert "/no/such/model" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_greets_answers_and_ends_in_order(number: signal.Signals, tmp_path: Path) -> None:
    words = ["api", "infer_backend=scripted", "--port", "0", "--api-key", "sk-one", "--log-format", "json"]
    environ = {**os.environ, "ENGINEROOM_HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "engineroom", *words], stderr=subprocess.PIPE, text=True, env=environ
    )
    assert process.stderr is not None
    greeting = process.stderr.readline()
    found = re.fullmatch(r"demo answers at (http://127\.0\.0\.1:\d+)/v1\n", greeting)
    assert found, greeting + process.stderr.read()
    body = {"messages": [{"role": "user", "content": "say this"}]}
    key = {"Authorization": "Bearer sk-one"}
    answer = httpx.post(found[1] + "/v1/chat/completions", json=body, headers=key)
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(timeout=20) == 0
    process.stderr.close()
    assert answer.json()["choices"][0]["message"]["content"] == "say this"
    assert "curl " in rest
    assert "from openai import OpenAI" in rest
    assert "sk-one" not in rest
    assert "say this" not in rest
    assert '"path": "/v1/chat/completions"' in rest
