"""Drill "counts", and more: every field of every route, with what a client should not send. A new route, or a new field, is
attacked without a line here; a new route needs a good body in ``GOOD``.

Whatever comes: no 5xx, an error in the one shape and of a bounded length, at once, and nothing that is no JSON.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel

from engineroom import ChatModel, ScriptedEngine
from engineroom.server.app import ROUTES, create_app
from engineroom.server.settings import ServerSettings
from serving import CHAT, HI

pytestmark = pytest.mark.timed

AT_ONCE = 1.0
LONGEST_ERROR = 10_000
KEY = {"x-api-key": "root", "content-type": "application/json"}

GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HI},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/responses/input_tokens": {"input": "hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 4},
    "/v1/messages/count_tokens": {"messages": HI},
    "/v1/embeddings": {"input": "hi"},
    "/v1/score/evaluation": {"messages": ["hi"]},
    "/score": {"input": ["hi"]},
    "/v1/score": {"text_1": "hi", "text_2": ["hi"]},
    "/classify": {"input": ["hi"]},
    "/rerank": {"query": "a", "documents": ["b"]},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/v2/rerank": {"query": "a", "documents": ["b"]},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1]},
    "/render": {"messages": HI},
    "/v1/load_lora_adapter": {"lora_name": "a", "lora_path": "b"},
    "/v1/unload_lora_adapter": {"lora_name": "a"},
    "/switch": {"arguments": {"nonsense": 1}},
}

HOSTILE = (
    *("null", "true", "-1", "0", "1.5", "1000000", "1000000000", "9223372036854775808", "9" * 4000),
    *("NaN", "Infinity", "-Infinity", "1e400", "5e-324"),
    *('""', '"5"', '"\\ud800"', '"\\u0000"', '"\\r\\nX: y"', '"../../etc/passwd"', json.dumps("(" * 20_000)),
    *("[]", "[null]", "[-1]", "[[]]", "[{}]", "[1e400]", '["\\ud800"]', '["a", 1]', "[[1], [-1]]"),
    *("[" + ",".join(["1"] * 5000) + "]", "[" + ",".join(["{}"] * 5000) + "]"),
    *("{}", '{"": 1}', '{"\\ud800": "\\ud800"}', '{"1": NaN}', '{"type": {}}', '{"type": "\\ud800"}'),
    *('{"type": "json_schema"}', '{"enable_thinking": "x"}', '{"tokenize": true}', '{"json": ""}'),
    *(
        '[{"role": "user"}]',
        '[{"role": "\\ud800", "content": "a"}]',
        '[{"role": "user", "content": "\\ud800"}]',
    ),
    *("[" * 90 + "]" * 90, '{"a":' * 90 + "1" + "}" * 90, json.dumps({"x" * 1_000_000: 1})),
)


def bodies() -> Iterator[tuple[str, type[BaseModel]]]:
    """Every route that takes a body."""
    for route in ROUTES:
        if isinstance(route, APIRoute) and (field := route.body_field) is not None:
            yield route.path, field.field_info.annotation  # pyright: ignore[reportReturnType]


def attacks(path: str, wire: type[BaseModel]) -> Iterator[str]:
    refused: Any = getattr(wire, "refused", {})
    names = [field.alias or name for name, field in wire.model_fields.items()]
    for name in (*names, *refused, "nonsense", "\ud800", "x" * 100_000):
        beside = {other: value for other, value in GOOD[path].items() if other != name}
        for value in HOSTILE if name in names else HOSTILE[3:9]:
            yield json.dumps(beside)[:-1] + (", " if beside else "") + f"{json.dumps(name)}: {value}}}"


@asynccontextmanager
async def client_of(model: ChatModel) -> AsyncGenerator[httpx.AsyncClient, None]:
    transport = httpx.ASGITransport(create_app(model, ServerSettings(admin_key=("root",))))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=KEY) as client:
        yield client


async def attack(client: httpx.AsyncClient, engine: ScriptedEngine, path: str, body: str) -> None:
    began, asked = time.monotonic(), len(engine.requests)
    answer = await client.post(path, content=body)
    seconds = time.monotonic() - began
    told = f"{path} {body[:200]}… {answer.status_code} {answer.text[:300]}"
    assert answer.status_code < 500 or (answer.status_code == 504 and '"timeout"' in body), told
    assert seconds < AT_ONCE, told
    if 400 <= answer.status_code < 500:
        assert len(engine.requests) == asked, told
        assert len(answer.content) < LONGEST_ERROR, told
        assert answer.json()["error"]["message"], told
        assert not any(word in answer.text for word in ("Traceback", "site-packages", "object at 0x")), told
    elif answer.headers["content-type"] == "application/json":
        json.loads(answer.content, parse_constant=lambda name: pytest.fail(told))


@pytest.mark.parametrize(
    ("path", "wire"), list(bodies()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_no_field_of_any_route_can_be_given_what_breaks_it(path: str, wire: type[BaseModel]) -> None:
    scores = "score" in path or path.endswith(("classify", "rerank"))
    engine = ScriptedEngine(["next"], scorer=len if scores else None)

    async def run() -> None:
        async with client_of(model) as client:
            for body in attacks(path, wire):
                await attack(client, engine, path, body)
            assert (await client.get("/health")).json() == {"status": "ok"}
            if path not in ("/v1/embeddings", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/switch"):
                assert (await client.post(path, json=GOOD[path])).status_code == 200

    with ChatModel({"infer_backend": "scripted"}, engine=engine) as model:  # so that /switch loads no weights
        asyncio.run(run())
        assert model.load.running == model.load.waiting == 0
