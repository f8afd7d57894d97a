"""Small things of ASGI that several middlewares need."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from engineroom.server.encoding import compact
from engineroom.server.errors import Refusal, anthropic_error


class PathMiddleware:
    """A path with a slash at its end is the path without: where a redirect would lead, only the proxy in front knows."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/") and len(scope["path"]) > 1:
            scope = {**scope, "path": scope["path"][:-1]}
        await self._app(scope, receive, send)


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of this name, in lower case."""
    return next((value for key, value in scope["headers"] if key == name), None)


def path_of(scope: Scope) -> str:
    """The path below ``root_path``."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path


def speaks_anthropic(scope: Scope) -> bool:
    """Is the client one of Anthropic's API? Where both APIs have a route of one name, its header tells."""
    return path_of(scope).startswith("/v1/messages") or header(scope, b"anthropic-version") is not None


def encoded(refusal: Refusal, scope: Scope) -> bytes:
    """A refusal's body as the client's API has it."""
    if not speaks_anthropic(scope):
        return refusal.encoded()
    ticket = scope.get("state", {}).get("ticket")
    return compact(anthropic_error(refusal, ticket.id if ticket else None))


async def send_refusal(refusal: Refusal, scope: Scope, send: Send) -> None:
    if ticket := scope.get("state", {}).get("ticket"):
        ticket.error = refusal.code or ""
    body = encoded(refusal, scope)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in refusal.headers.items()),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
