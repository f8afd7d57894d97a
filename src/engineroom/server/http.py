"""Small things of ASGI that several middlewares need."""

from __future__ import annotations

from starlette.types import Scope, Send

from engineroom.server.errors import Refusal


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of this name, in lower case."""
    return next((value for key, value in scope["headers"] if key == name), None)


def path_of(scope: Scope) -> str:
    """The path below ``root_path``."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path


async def send_refusal(refusal: Refusal, send: Send) -> None:
    body = refusal.encoded()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in refusal.headers.items()),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
