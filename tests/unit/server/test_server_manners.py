"""Keys, limits, errors and names: what holds on every route."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from engineroom import ChatModel, ScriptedEngine
from engineroom.engines.scripted import Reply
from engineroom.errors import ArgumentError
from engineroom.server.app import create_app
from engineroom.server.errors import redacted
from engineroom.server.limits import unfit
from engineroom.server.logs import JsonLines, TextLines
from engineroom.server.settings import resolve
from serving import CHAT, HI, asking, error_of, events_of

OPEN = {"/health", "/ready"}


def every_route() -> list[tuple[str, str]]:
    routes = [route for route in create_app().routes if isinstance(route, Route)]
    return sorted((method, route.path) for route in routes for method in route.methods or ())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer sk-on"},
        {"Authorization": "Bearer sk-one "[:-2]},
        {"Authorization": "sk-one"},
        {"Authorization": "Basic sk-one"},
        {"Authorization": "Bearer ké".encode("latin-1")},
        {"x-api-key": "sk-onee"},
    ],
)
def test_every_route_but_health_asks_for_a_key(headers: dict[str, Any]) -> None:
    with asking(["x"], api_key=("sk-one", "sk-two")) as ask:
        for method, path in every_route():
            response = ask(path.replace("{model:path}", "demo"), method=method, headers=headers)
            assert (response.status_code == 401) == (path not in OPEN), (method, path)
            assert "sk-one" not in response.text
        methods = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE")
        paths = [path for _, path in every_route() if path not in OPEN]
        for path in (
            *paths,
            "/",
            "/no/such/path",
            "/v1/models/",
            "/health//",
            "//health",
            "/HEALTH",
            "/health/../v1/models",
            "*",
        ):
            for method in methods:
                assert ask(path, method=method, headers=headers).status_code == 401, (method, path)


@pytest.mark.parametrize("key", ["", " ", " sk", "sk\n", "s\u00e9"])
def test_a_key_that_anybody_or_nobody_could_send_is_refused(key: str) -> None:
    with pytest.raises(ArgumentError, match="key"):
        resolve({"api_key": ["sk-good", key]}, {}, {})


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer sk-one"}, {"Authorization": "bearer sk-two"}, {"x-api-key": "sk-two"}],
)
def test_each_key_opens(headers: dict[str, str]) -> None:
    with asking(["x"], api_key=("sk-one", "sk-two")) as ask:
        assert ask(CHAT, {"messages": HI}, headers=headers).status_code == 200


def test_admin_routes_take_an_admin_key() -> None:
    bodies = {
        "/v1/load_lora_adapter": {"lora_name": "a", "lora_path": "a"},
        "/v1/unload_lora_adapter": {"lora_name": "a"},
        "/switch": {"arguments": {}},
    }
    with asking(["x"]) as ask:
        for path in (*bodies, "/sleep", "/wake_up"):
            response = ask(path, bodies.get(path), method="POST")
            assert (response.status_code, error_of(response)["code"]) == (403, "admin_key_needed")
    with asking(["x"], api_key=("user",), admin_key=("root",)) as ask:
        user, root = ({"Authorization": f"Bearer {key}"} for key in ("user", "root"))
        assert ask("/sleep", method="POST", headers=user).status_code == 403
        assert ask("/switch", headers=user).status_code == 403
        refused = error_of(ask("/sleep", method="POST", headers=root))
        assert ask(CHAT, {"messages": HI}, headers=root).status_code == 200
        assert ask("/is_sleeping", headers=user).json() == {"is_sleeping": False}
    assert refused["param"] == "sleep"


def test_adapters_come_from_one_folder_alone(tmp_path: Path) -> None:
    for name in ("allowed/real", "allowed_evil/other", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "adapter_config.json").write_text("{}")
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "elsewhere")
    headers = {"x-api-key": "root"}
    with asking(["x"], admin_key=("root",), lora_folder=tmp_path / "allowed") as ask:

        def load(path: str) -> str:
            body = {"lora_name": "poet", "lora_path": path}
            return error_of(ask("/v1/load_lora_adapter", body, headers=headers))["message"]

        outside = (
            "../elsewhere",
            "../allowed_evil/other",
            "link",
            str(tmp_path / "elsewhere"),
            "/etc",
            "nothing",
            "a\0b",
        )
        told = {load(path) for path in outside}
        inside = load("real")
    assert len(told) == 1
    assert str(tmp_path) not in told.pop()
    assert inside.startswith("load_adapter is not supported by the scripted engine")


def test_the_names_of_the_model() -> None:
    with asking(["x"], served_model_name=("mine", "alias")) as ask:
        cards = ask("/v1/models").json()["data"]
        assert [card["id"] for card in cards] == ["mine", "alias"]
        assert ask("/v1/models/alias").json()["id"] == "alias"
        assert ask(CHAT, {"messages": HI, "model": "alias"}).json()["model"] == "alias"
        assert ask(CHAT, {"messages": HI}).json()["model"] == "mine"
        error = error_of(ask(CHAT, {"messages": HI, "model": "demo"}))
    assert error["code"] == "model_not_found"


def test_a_folder_is_served_under_its_own_name_and_not_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "secret" / "my-model"
    folder.mkdir(parents=True)
    with asking(["x"], arguments={"model_name_or_path": str(folder)}) as ask:
        assert ask("/v1/models").json()["data"][0]["id"] == "my-model"


def test_bodies_have_limits() -> None:
    long = json.dumps({"messages": [{"role": "user", "content": "x" * 2**20}]})
    kind = {"Content-Type": "application/json"}
    with asking(["x"], max_body=0.5, max_depth=20) as ask:
        large = ask(CHAT, method="POST", content=long, headers=kind)
        deep = ask(CHAT, method="POST", content='{"messages":' + "[" * 50 + "]" * 50 + "}", headers=kind)
        zipped = ask(CHAT, method="POST", content=b"x", headers={**kind, "Content-Encoding": "gzip"})
        plain = ask(CHAT, method="POST", content="{}", headers={"Content-Type": "text/plain"})
        broken = ask(CHAT, method="POST", content='{"messages": [', headers=kind)
        array = ask(CHAT, [])
    answers = (large, deep, zipped, plain, broken, array)
    assert [answer.status_code for answer in answers] == [413, 400, 415, 400, 400, 400]
    assert [error_of(answer)["code"] for answer in answers] == [
        "body_too_large",
        "too_deeply_nested",
        "unsupported_encoding",
        "invalid_body",
        "invalid_json",
        "invalid_body",
    ]


@pytest.mark.parametrize(
    ("body", "deep"),
    [
        (b"[" * 9 + b"]" * 9, True),
        (b"[" * 8 + b"]" * 8, False),
        (b'["' + b"[" * 100 + b'"]', False),
        (b'["\\"' + b"[" * 100 + b'"]', False),
        (b"[]" * 100, False),
        (b'{"a":' * 9 + b"1" + b"}" * 9, True),
        (b"[" * 20 + b'"' + b'\\"' * 500_000, True),
        (b'["' + b'\\"[' * 500_000, False),
    ],
)
def test_depth_is_told_without_parsing(body: bytes, deep: bool) -> None:
    assert (unfit(body, 8) is not None) == deep


def test_unknown_paths_and_methods_have_errors_of_the_same_shape() -> None:
    with asking(["x"]) as ask:
        assert error_of(ask("/v1/nothing"))["code"] == "not_found"
        wrong = ask(CHAT)
        heads = [ask(path, method="HEAD") for path in sorted(OPEN)]
    assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")
    assert [(head.status_code, head.text) for head in heads] == [(200, ""), (200, "")]


def test_a_request_has_the_id_that_its_client_gave() -> None:
    with asking(["x"]) as ask:
        assert ask("/health", headers={"x-request-id": "abc"}).headers["x-request-id"] == "abc"
        bad = ask("/health", headers={"x-request-id": "a" * 200})
        assert (bad.status_code, error_of(bad)["code"]) == (400, "invalid_request_id")
        assert ask("/health").headers["x-request-id"] != ask("/health").headers["x-request-id"]


def test_no_exception_becomes_a_bare_500(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: ChatModel, *args: object, **kwargs: object) -> None:
        raise KeyError("/root/secret")

    monkeypatch.setattr(ChatModel, "achat", broken)
    with asking(["x"]) as ask:
        response = ask(CHAT, {"messages": HI})
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert "KeyError" in caplog.text


def test_a_full_queue_is_429_with_the_time_to_come_again() -> None:
    slow = Reply("x", pause_at=0)
    with ChatModel({"max_concurrent": 1, "max_queue": 0}, engine=ScriptedEngine([slow])) as model:

        async def go() -> tuple[httpx.Response, httpx.Response]:
            transport = httpx.ASGITransport(create_app(model))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                first = asyncio.create_task(client.post(CHAT, json={"messages": HI}))
                await asyncio.to_thread(slow.paused.wait)
                second = await client.post(CHAT, json={"messages": HI, "stream": True})
                slow.resume.set()
                return await first, second

        first, second = asyncio.run(go())
    assert (first.status_code, second.status_code, second.headers["retry-after"]) == (200, 429, "1")
    error = {"message": "too many requests", "type": "rate_limit_error", "param": None, "code": "engine_busy"}
    assert error_of(second) == error


def test_without_a_model_the_server_says_that_it_loads() -> None:
    async def go() -> list[httpx.Response]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app()), base_url="http://localhost"
        ) as client:
            return [
                await client.get(path) for path in ("/health", "/ready", "/version", "/metrics", "/v1/models")
            ]

    health, ready, version, metrics, models = asyncio.run(go())
    assert [r.status_code for r in (health, ready, version, metrics, models)] == [200, 503, 200, 200, 503]
    assert ready.json() == {"status": "loading"}
    assert error_of(models)["code"] == "engine_not_ready"


def test_metrics_count_what_happened() -> None:
    with asking([Reply("Hello", chunk_size=1), Reply("x", error=RuntimeError())]) as ask:
        events_of(ask(CHAT, {"messages": HI, "stream": True}))
        ask(CHAT, {"messages": HI, "stream": True})
        ask(CHAT, {"messages": HI, "model": "none"})
        figures = dict(
            line.rsplit(" ", 1) for line in ask("/metrics").text.splitlines() if not line.startswith("#")
        )
    assert figures['engineroom_requests_total{route="/v1/chat/completions",status="200"}'] == "2.0"
    assert figures['engineroom_requests_total{route="/v1/chat/completions",status="404"}'] == "1.0"
    assert figures['engineroom_errors_total{code="generation_failed"}'] == "1.0"
    assert figures['engineroom_errors_total{code="model_not_found"}'] == "1.0"
    assert figures["engineroom_generated_tokens_total"] == "7.0"  # that of the broken one, too
    assert figures["engineroom_first_token_seconds_count"] == "2.0"
    assert float(figures["engineroom_inter_token_seconds_count"]) >= 5
    assert (
        figures['engineroom_inter_token_seconds_bucket{le="+Inf"}']
        == figures["engineroom_inter_token_seconds_count"]
    )
    assert (figures["engineroom_answers_running"], figures["engineroom_ready"]) == ("0.0", "1.0")


def test_logs_have_ids_and_counts_and_no_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="engineroom.server")
    with asking(["my secret answer"], api_key=("sk-secret",)) as ask:
        body = {"messages": [{"role": "user", "content": "my secret question"}]}
        response = ask(CHAT, body, headers={"x-api-key": "sk-secret"})
    (record,) = [r for r in caplog.records if r.getMessage() == "request"]
    line = json.loads(JsonLines().format(record))
    assert line["request"] == response.headers["x-request-id"]
    assert (line["path"], line["status"], line["completion_tokens"]) == (CHAT, 200, 17)
    assert "completion_tokens=17" in TextLines().format(record)
    assert "secret" not in str(line) + TextLines().format(record)


def test_a_path_can_not_write_lines_of_its_own_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="engineroom.server")
    with asking(["x"]) as ask:
        ask("/é%0A2026-11-24 info request status=200")
    (record,) = [r for r in caplog.records if r.getMessage() == "request"]
    line = TextLines().format(record)
    assert "path=/é\\n2026-11-24 info" in line
    assert "\n" not in line


def test_refusals_before_the_routes_are_counted_as_errors() -> None:
    with asking(["x"], api_key=("sk-one",)) as ask:
        ask("/v1/models")
        key = {"x-api-key": "sk-one"}
        ask(CHAT, {"messages": HI}, headers={**key, "Content-Encoding": "gzip"})
        figures = ask("/metrics", headers=key).text
    assert 'engineroom_errors_total{code="missing_api_key"} 1.0' in figures
    assert 'engineroom_errors_total{code="unsupported_encoding"} 1.0' in figures


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"user": "\xff"}', "can't decode byte 0xff"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "4300 digits"),
    ],
)
def test_a_body_that_is_no_text_or_no_number_is_invalid_json(body: bytes, says: str) -> None:
    with asking(["x"]) as ask:
        response = ask(CHAT, method="POST", content=body, headers={"Content-Type": "application/json"})
    error = error_of(response)
    assert (response.status_code, error["code"]) == (400, "invalid_json")
    assert says in error["message"]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("at 0x7f3a1b2c in /usr/lib/python3/x.py", "at … in …"),
        ("<Foo object at 0xdeadbeef>", "<Foo object at …>"),
        ("a/b is not c/d, 3/4", "a/b is not c/d, 3/4"),
        ("see https://example.com/a/b", "see https://example.com/a/b"),
        ("see https://hf.co//root/secret/model. Please", "see … Please"),
    ],
)
def test_addresses_and_paths_are_left_out(text: str, clean: str) -> None:
    assert redacted(text) == clean


def test_the_openapi_document_is_there_and_complete() -> None:
    with asking(["x"]) as ask:
        spec = ask("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/models", "/v1/rerank", "/metrics"} <= set(spec["paths"])
    fields = spec["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "temperature", "stop_token_ids", "structured_outputs"} <= set(fields)
    for path in (CHAT, "/v1/completions", "/v1/responses", "/v1/messages"):
        answer = spec["paths"][path]["post"]["responses"]["200"]["content"]
        assert set(answer) == {"application/json", "text/event-stream"}
    assert set(spec["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == {"text/plain"}
    assert "security" not in spec


def test_the_openapi_document_tells_of_the_key() -> None:
    with asking(["x"], api_key=("sk",)) as ask:
        spec = ask("/openapi.json", headers={"x-api-key": "sk"}).json()
    (scheme,) = spec["security"][0]
    assert spec["components"]["securitySchemes"][scheme] == {"type": "http", "scheme": "bearer"}
    assert [path for path, item in spec["paths"].items() if item.get("get", {}).get("security") == []] == [
        "/health",
        "/ready",
    ]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("192.168.1.1", 403),
        ("[", 403),
        ("", 403),
    ],
)
def test_without_a_key_no_page_reaches_it_by_a_name_of_its_own(host: str, status: int) -> None:
    headers = {"Host": host}
    with asking(["x"]) as ask:
        assert ask("/v1/models", headers=headers).status_code == status
        assert ask("/health", headers=headers).status_code == 200
    for open_in_words in ({"allow_anonymous": True}, {"api_key": ("sk",)}):
        with asking(["x"], **open_in_words) as ask:
            assert ask("/v1/models", headers={**headers, "x-api-key": "sk"}).status_code == 200
