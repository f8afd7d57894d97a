"""Another engine or model behind a running server: what goes on, what is refused, and what comes back after a failure."""

import asyncio
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from engineroom import ChatModel, Reply, ScriptedEngine
from engineroom.bridge import Bridge
from engineroom.config import Arguments
from engineroom.errors import EngineNotInstalledError, EngineStartError
from engineroom.server.remote_arguments import HERE_ONLY
from serving import CHAT, HI, Served, asking, error_of, events_of, read_events, text_of

ROOT = {"x-api-key": "root"}


class MadeEngine(ScriptedEngine):
    """What ``infer_backend=scripted`` makes in these tests; the n-th says "engine n"."""

    made: "list[MadeEngine]" = []  # noqa: RUF012
    reply: Reply | None = None
    start_with: "list[Exception | None]" = []  # noqa: RUF012
    held: threading.Event | None = None
    keeps_adapters = True

    def __init__(self, **options: Any) -> None:
        super().__init__(lambda prompt, params: type(self).reply or self.word, **options)
        if self.keeps_adapters:
            self.capabilities = {**self.capabilities, "adapter": "native", "load_adapter": "native"}
        self.word = ""

    async def start(self, progress: Any) -> None:
        progress("reading the script", 0.5)
        while self.held is not None and not self.held.is_set():
            await asyncio.sleep(0.001)
        failure = self.start_with.pop(0) if self.start_with else None
        if failure is not None:
            raise failure
        await super().start(progress)
        type(self).made.append(self)
        self.word = f"engine {len(self.made)}"

    async def load_adapter(self, name: str, path: Path) -> None:
        self.adapters = {**self.adapters, name: path}


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> type[MadeEngine]:
    for name, value in {"made": [], "start_with": [], "reply": None, "held": None}.items():
        monkeypatch.setattr(MadeEngine, name, value)
    monkeypatch.setattr(MadeEngine, "keeps_adapters", True)
    monkeypatch.setattr("engineroom.engines.scripted.ScriptedEngine", MadeEngine)
    return MadeEngine


@contextmanager
def serving(arguments: dict[str, Any] | None = None, **settings: Any) -> Generator[Served, None, None]:
    """A server as ``engineroom api`` runs it, with a model that its arguments can make again."""
    bridge = Bridge()
    try:
        with ChatModel({"infer_backend": "scripted", **(arguments or {})}, bridge=bridge) as model:
            server = Served(model, bridge, {"admin_key": ("root",), **settings})
            try:
                yield server
            finally:
                server.close()
                server.service.model.close()
    finally:
        bridge.close()


@pytest.fixture
def server(engines: type[MadeEngine]) -> Generator[Served, None, None]:
    with serving() as server:
        yield server


def post(server: Served, path: str, body: dict[str, Any]) -> httpx.Response:
    return server.post(path, json=body, headers=ROOT, timeout=30)


def get(server: Served, path: str) -> httpx.Response:
    return server.get(path, headers=ROOT, timeout=30)


def switch(server: Served, arguments: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
    return post(server, "/switch", {"arguments": arguments or {}, **options})


def test_an_engine_that_is_not_installed_is_refused_by_name(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(arguments: object) -> None:
        raise EngineNotInstalledError("the sglang engine can't run here", fix="engineroom env install sglang")

    monkeypatch.setattr("engineroom.engines.registry.make", make)
    response = switch(server, {"infer_backend": "sglang"})
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, "infer_backend")
    assert error["message"].endswith("Fix: engineroom env install sglang")
    assert said(server)


def said(server: Served, **fields: Any) -> str:
    response = post(server, CHAT, {"messages": HI, **fields})
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


@contextmanager
def meanwhile(call: Any, *args: Any, **kwargs: Any) -> Generator[Future[httpx.Response], None, None]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call, *args, **kwargs)


def until(server: Served, stage: str, loading: str = "") -> dict[str, Any]:
    for _ in range(2000):
        state = get(server, "/switch").json()
        if state["stage"] == stage and loading in state["loading"]:
            return state
        time.sleep(0.005)
    raise AssertionError(f"the switch never came to {stage}")


@pytest.mark.parametrize("close_first", [False, True])
def test_a_new_engine_answers_and_the_old_one_is_closed(
    server: Served, engines: type[MadeEngine], close_first: bool
) -> None:
    assert said(server) == "engine 1"
    answer = switch(server, {"model_maxlen": 512}, close_first=close_first)
    assert answer.status_code == 200, answer.text
    assert said(server) == "engine 2"
    assert [engine.health().state for engine in engines.made] == ["closed", "ready"]
    assert get(server, "/v1/models").json()["data"][0]["max_model_len"] == 512
    assert answer.json() == get(server, "/switch").json()
    assert answer.json()["last"] == "switched to demo on scripted"
    metrics = get(server, "/metrics").text
    assert 'engineroom_switches_total{outcome="switched"} 1.0' in metrics
    assert 'engineroom_engine{engine="scripted"} 1.0' in metrics


def test_what_an_argument_was_stays_and_null_takes_it_back(engines: type[MadeEngine]) -> None:
    with serving({"model_maxlen": 300, "max_new_tokens": 3}) as server:
        assert switch(server, {"model_maxlen": None}).status_code == 200
        assert said(server) == "eng"
        assert get(server, "/v1/models").json()["data"][0]["max_model_len"] == 4096


def test_the_old_model_serves_until_the_new_one_does(server: Served, engines: type[MadeEngine]) -> None:
    engines.held = threading.Event()
    with meanwhile(switch, server) as switching:
        try:
            state = until(server, "loading", "reading the script")
            assert (state["loading"], state["share"]) == ("reading the script", 0.5)
            assert said(server) == "engine 1"
            assert get(server, "/ready").status_code == 200
            another = switch(server)
            assert (another.status_code, error_of(another)["code"]) == (409, "switch_in_progress")
        finally:
            engines.held.set()
        assert switching.result().status_code == 200
    assert said(server) == "engine 2"


def test_while_the_only_model_is_away_requests_are_told_to_come_again(
    server: Served, engines: type[MadeEngine]
) -> None:
    engines.held = threading.Event()
    with meanwhile(switch, server, close_first=True) as switching:
        try:
            assert until(server, "loading")["model"] is None
            refused = post(server, CHAT, {"messages": HI})
            assert (refused.status_code, error_of(refused)["code"]) == (503, "engine_not_ready")
            assert int(refused.headers["Retry-After"]) > 0
            ready = get(server, "/ready")
            assert (ready.status_code, ready.json()) == (503, {"status": "switching"})
            assert get(server, "/health").status_code == 200
        finally:
            engines.held.set()
        assert switching.result().status_code == 200
    assert get(server, "/ready").status_code == 200
    assert said(server) == "engine 2"


@pytest.mark.parametrize("close_first", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_has_begun_comes_whole_from_the_old_engine(
    server: Served, engines: type[MadeEngine], close_first: bool, stream: bool
) -> None:
    slow = engines.reply = Reply("from the first", pause_at=4)
    with meanwhile(post, server, CHAT, {"messages": HI, "stream": stream}) as asking:
        assert slow.paused.wait(10)
        engines.reply = None
        with meanwhile(switch, server, close_first=close_first) as switching:
            until(server, "draining")
            assert engines.made[0].health().state == "ready"
            slow.resume.set()
            assert switching.result().status_code == 200
        answer = asking.result()
    text = text_of(events_of(answer)) if stream else answer.json()["choices"][0]["message"]["content"]
    assert text == "from the first"
    assert said(server) == "engine 2"


def test_an_answer_that_does_not_end_is_ended_with_an_error(
    server: Served, engines: type[MadeEngine]
) -> None:
    stuck = engines.reply = Reply("from the first", pause_at=4)
    with meanwhile(post, server, CHAT, {"messages": HI, "stream": True}) as asking:
        assert stuck.paused.wait(10)
        engines.reply = None
        assert switch(server, drain_timeout=0.1).status_code == 200
        *_, last = read_events(asking.result().text)
    assert last["error"]["message"] == "the model was switched"
    assert engines.made[0].cancelled == 1
    assert said(server) == "engine 2"


@pytest.mark.parametrize("close_first", [False, True])
def test_after_a_failed_start_the_old_model_serves_as_before(
    server: Served, engines: type[MadeEngine], tmp_path: Path, close_first: bool
) -> None:
    server.model.load_adapter("poet", tmp_path)
    engines.start_with = [EngineStartError("no memory left", why="it needs 80 GiB")]
    failed = switch(server, {"model_maxlen": 512}, close_first=close_first)
    error = error_of(failed)
    assert (failed.status_code, error["code"]) == (500, "switch_failed")
    assert error["message"] == "the new model did not start: no memory left (it needs 80 GiB); " + (
        "demo on scripted was started again and serves" if close_first else "demo on scripted goes on serving"
    )
    assert get(server, "/ready").status_code == 200
    assert said(server) == ("engine 2" if close_first else "engine 1")
    assert [card["id"] for card in get(server, "/v1/models").json()["data"]] == ["demo", "poet"]
    assert get(server, "/v1/models").json()["data"][0]["max_model_len"] == 4096
    assert 'engineroom_switches_total{outcome="failed"} 1.0' in get(server, "/metrics").text


def test_a_defect_of_an_engine_is_told_without_its_text(server: Served, engines: type[MadeEngine]) -> None:
    engines.start_with = [KeyError("/root/secret")]
    failed = switch(server)
    assert error_of(failed)["message"].startswith("the new model did not start (KeyError); ")
    assert said(server) == "engine 1"


def test_when_neither_starts_the_server_says_so_and_can_be_switched_again(
    server: Served, engines: type[MadeEngine]
) -> None:
    engines.start_with = [EngineStartError("no memory left"), EngineStartError("the driver is gone")]
    failed = error_of(switch(server, close_first=True))
    assert failed["message"].endswith("demo on scripted could not be brought back whole: the driver is gone")
    assert get(server, "/ready").status_code == 503
    assert post(server, CHAT, {"messages": HI}).status_code == 503
    assert switch(server).status_code == 200
    assert said(server) == "engine 2"


def test_adapters_go_along(server: Served, engines: type[MadeEngine], tmp_path: Path) -> None:
    server.model.load_adapter("poet", tmp_path)
    assert switch(server).status_code == 200
    assert dict(engines.made[1].adapters) == {"poet": tmp_path}
    assert said(server, model="poet") == "engine 2"


def test_an_engine_without_adapters_is_refused_while_there_are_any(
    server: Served, engines: type[MadeEngine], tmp_path: Path
) -> None:
    server.model.load_adapter("poet", tmp_path)
    engines.keeps_adapters = False
    refused = switch(server)
    assert (refused.status_code, error_of(refused)["code"]) == (409, "in_use")
    assert "the adapter poet" in error_of(refused)["message"]
    assert len(engines.made) == 1
    assert said(server, model="poet") == "engine 1"
    assert switch(server, drop=["poet"]).status_code == 200
    assert [card["id"] for card in get(server, "/v1/models").json()["data"]] == ["demo"]


def test_a_name_that_clients_use_is_not_lost_by_accident(server: Served, engines: type[MadeEngine]) -> None:
    assert switch(server, {"model_name_or_path": "demo-moe"}).status_code == 200  # nobody has named demo yet
    assert said(server, model="demo-moe") == "engine 2"
    refused = switch(server, {"model_name_or_path": "demo"})
    assert (refused.status_code, error_of(refused)["code"]) == (409, "in_use")
    assert "the model name demo-moe" in error_of(refused)["message"]
    names = ["demo-moe", "new"]
    assert switch(server, {"model_name_or_path": "demo"}, served_model_name=names).status_code == 200
    assert [said(server, model=name) for name in names] == ["engine 3"] * 2
    assert switch(server, served_model_name=["new"], drop=["demo-moe"]).status_code == 200
    assert [card["id"] for card in get(server, "/v1/models").json()["data"]] == ["new"]


def test_a_model_that_can_less_is_refused(server: Served, engines: type[MadeEngine]) -> None:
    arguments = {"model_name_or_path": "demo-reward", "infer_backend": "huggingface"}
    refused = switch(server, arguments)
    assert (refused.status_code, error_of(refused)["code"]) == (409, "in_use")
    assert "the ability to chat" in error_of(refused)["message"]
    assert said(server) == "engine 1"


def test_a_default_that_the_new_engine_lacks_is_refused(engines: type[MadeEngine]) -> None:
    with asking(
        ["x"], arguments={"repetition_penalty": 1.2, "infer_backend": "scripted"}, admin_key=("root",)
    ) as ask:
        refused = ask("/switch", {"arguments": {}}, headers=ROOT)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "repetition_penalty")


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"infer_backnd": "vllm"}, "infer_backnd"),
        ({"infer_backnd": None}, "infer_backnd"),
        ({"infer_backend": "nothing"}, "infer_backend"),
        ({"model_maxlen": "long"}, "model_maxlen"),
        ({"learning_rate": 1}, "learning_rate"),
        *(({name: None}, name) for name in sorted(HERE_ONLY)),
    ],
)
def test_arguments_are_refused_by_name(engines: type[MadeEngine], arguments: Any, param: str) -> None:
    with asking(["x"], admin_key=("root",)) as ask:
        refused = ask("/switch", {"arguments": arguments}, headers=ROOT)
        assert (refused.status_code, error_of(refused)["param"]) == (400, param)
        assert ask(CHAT, {"messages": HI}, headers=ROOT).status_code == 200


def test_every_argument_of_text_was_judged_for_http() -> None:
    """An argument that is new, and could name code or a place, is to be judged before it can come over HTTP."""
    harmless = {
        *("model_name_or_path", "adapter_name_or_path", "template"),  # their places are checked
        *("infer_backend", "model_revision", "device", "device_map", "kt_method", "sglang_lora_backend"),
        *("default_system", "stop", "adapter", "response_format", "logit_bias"),
    }
    free = {
        name
        for name, info in Arguments.model_fields.items()
        if any(word in str(info.annotation) for word in ("str", "dict"))
    }
    assert free | {"trust_remote_code"} == harmless | HERE_ONLY


def test_folders_are_loaded_from_those_of_the_server_alone(
    engines: type[MadeEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("models/mine", "elsewhere", "loras/poet"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models" / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = {"model_folder": tmp_path / "models", "lora_folder": tmp_path / "loras"}
    outside = ("../elsewhere", "elsewhere", "link", str(tmp_path / "elsewhere"), "/etc", "~/x", "a\0b", "./a")
    with serving(**settings) as server:
        for argument in ("model_name_or_path", "template", "adapter_name_or_path"):
            for place in outside:
                refused = switch(server, {argument: place})
                error = error_of(refused)
                assert (refused.status_code, error["param"]) == (400, argument), (place, error)
                assert str(tmp_path) not in error["message"]
        assert switch(server, {"model_name_or_path": "mine"}).status_code == 200
        assert [card["id"] for card in get(server, "/v1/models").json()["data"]] == ["mine"]


def test_an_engine_that_was_given_as_an_object_is_not_closed_first(engines: type[MadeEngine]) -> None:
    with asking(["given"], arguments={"infer_backend": "scripted"}, admin_key=("root",)) as ask:
        refused = ask("/switch", {"arguments": {}, "close_first": True}, headers=ROOT)
        assert "could not be brought back" in error_of(refused)["message"]
        assert ask(CHAT, {"messages": HI}, headers=ROOT).json()["choices"][0]["message"]["content"] == "given"
        assert ask("/switch", {"arguments": {}}, headers=ROOT).status_code == 200
        assert (
            ask(CHAT, {"messages": HI}, headers=ROOT).json()["choices"][0]["message"]["content"] == "engine 1"
        )


def test_a_server_that_stops_does_not_wait_for_a_model_that_loads(engines: type[MadeEngine]) -> None:
    with serving(shutdown_timeout=0.1) as server:
        engines.held = threading.Event()
        with meanwhile(switch, server) as switching:
            until(server, "loading")
            server.stop()
            engines.held.set()
            assert switching.result().status_code in (200, 503)
        server.serving.result(timeout=20)


def test_from_weights_to_a_script_and_back(no_thread_left: None) -> None:
    with serving({"infer_backend": "huggingface", "temperature": 0}) as server:
        before = said(server)
        assert switch(server, {"infer_backend": "scripted"}).status_code == 200
        assert said(server) == "hi"
        assert get(server, "/version").json()["engine"] == "scripted"
        back = switch(server, {"infer_backend": "huggingface"}, close_first=True)
        assert back.status_code == 200, back.text
        assert get(server, "/version").json()["engine"] == "huggingface"
        assert said(server) == before != "hi"
