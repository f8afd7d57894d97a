"""A server over the scripted engine: in this process without a network, and on a port of this machine."""

import asyncio
import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import httpx

from engineroom import ChatModel, ScriptedEngine
from engineroom.bridge import Bridge
from engineroom.engines.base import BaseEngine
from engineroom.server.app import create_app
from engineroom.server.lifecycle import RunningServer
from engineroom.server.service import Service
from engineroom.server.settings import ServerSettings

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
_TRUSTED = httpx.create_ssl_context()  # made once: it takes 25 ms, and httpx makes one for each request


class Served:
    """A server on a port, on the event loop of its model, as ``engineroom api`` runs it."""

    def __init__(self, model: ChatModel, bridge: Bridge, settings: dict[str, Any]) -> None:
        self.bridge = bridge
        self.model = model
        self.settings = ServerSettings(**{"port": 0, **settings})
        app = create_app(model, self.settings, bridge)
        self.service: Service = app.state.service
        self.server = RunningServer(app, self.settings)
        self.url = self.server.url
        self.port = int(self.url.rpartition(":")[2])
        self.serving = bridge.submit(self.server.serve())

    @property
    def engine(self) -> Any:
        return self.model.engine

    def get(self, path: str, **options: Any) -> httpx.Response:
        """On a connection of its own."""
        return httpx.get(self.url + path, verify=_TRUSTED, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """On a connection of its own."""
        return httpx.post(self.url + path, verify=_TRUSTED, **options)

    def stop(self) -> None:
        self.bridge.call_soon(self.server.stop)

    def close(self) -> None:
        self.stop()
        self.stop()
        self.serving.result(timeout=20)


@contextmanager
def served(
    script: Any = None,
    *,
    engine: dict[str, Any] | None = None,
    arguments: dict[str, Any] | None = None,
    **settings: Any,
) -> Generator[Served, None, None]:
    with served_by(ScriptedEngine(script, **(engine or {})), arguments, **settings) as server:
        yield server


@contextmanager
def served_by(
    engine: BaseEngine | None, arguments: dict[str, Any] | None = None, **settings: Any
) -> Generator[Served, None, None]:
    bridge = Bridge()
    with ChatModel(arguments, engine=engine, bridge=bridge) as model:
        server = Served(model, bridge, settings)
        try:
            yield server
        finally:
            server.close()
    bridge.close()


Ask = Callable[..., httpx.Response]


@contextmanager
def asking(
    script: Any = None,
    *,
    engine: dict[str, Any] | None = None,
    arguments: dict[str, Any] | None = None,
    **settings: Any,
) -> Generator[Ask, None, None]:
    """A function that asks an app without a network: ``ask(path, body)`` posts, ``ask(path)`` gets."""
    with ChatModel(arguments, engine=ScriptedEngine(script, **(engine or {}))) as model:
        app = create_app(model, ServerSettings(**settings))

        async def send(method: str, path: str, **options: Any) -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **options)

        def ask(path: str, body: Any = None, *, method: str = "", **options: Any) -> httpx.Response:
            if body is not None:
                # httpx's own encoder refuses half a character; clients in other languages send it.
                options["content"] = json.dumps(body)
                options["headers"] = {"Content-Type": "application/json", **options.get("headers", {})}
            return asyncio.run(send(method or ("POST" if body is not None else "GET"), path, **options))

        yield ask


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The events' objects. The last event must be the end."""
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    return read_events(response.text)


def read_events(text: str) -> list[dict[str, Any]]:
    *events, end, rest = text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events if not event.startswith(":")]


def typed_events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The objects of a stream whose events have types, which must be told twice alike."""
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    *events, rest = response.text.split("\n\n")
    assert rest == ""
    read: list[dict[str, Any]] = []
    for event in events:
        name, _, data = event.partition("\n")
        read.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {read[-1]['type']}"
    return read


def text_of(events: list[dict[str, Any]], index: int = 0, field: str = "content") -> str:
    choices = [choice for event in events for choice in event.get("choices", ()) if choice["index"] == index]
    return "".join(choice["delta"].get(field) or "" for choice in choices)


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]
