"""Keys. Every route but health asks for one, if the server has any."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from engineroom.server.errors import Refusal, RefusedError
from engineroom.server.http import header, path_of, send_refusal

OPEN_PATHS = frozenset({"/health", "/ready"})


def _unauthenticated(message: str, code: str) -> Refusal:
    headers = {"WWW-Authenticate": "Bearer"}
    return Refusal(401, message, type="authentication_error", code=code, headers=headers)


_MISSING = _unauthenticated("an API key is needed: Authorization: Bearer KEY", "missing_api_key")
_WRONG = _unauthenticated("this API key opens nothing here", "invalid_api_key")
_WRONG_HOST = Refusal(
    403,
    "a server without a key serves this machine alone, under localhost or a loopback address",
    type="permission_error",
    code="wrong_host",
)


class KeyMiddleware:
    """Takes ``Authorization: Bearer`` (OpenAI) or ``x-api-key`` (Anthropic).

    Args:
        any_host: without keys, too, requests may be for any host. Otherwise a web page could reach the server by a name
            of its own that it lets point to this machine (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], any_host: bool = False) -> None:
        self._app = app
        self._any_host = any_host or bool(keys)
        self._keys = tuple(key.encode() for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or path_of(scope) in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        if not self._any_host and not _is_here(header(scope, b"host") or b""):
            await send_refusal(_WRONG_HOST, scope, send)
            return
        if not self._keys:
            await self._app(scope, receive, send)
            return
        given = given_key(scope)
        if given is not None and _opens(given, self._keys):
            await self._app(scope, receive, send)
            return
        await send_refusal(_MISSING if given is None else _WRONG, scope, send)


def _is_here(host: bytes) -> bool:
    """Does a ``Host`` header name this machine? ``localhost:8000``, ``127.0.0.1``, ``[::1]:8000``."""
    try:
        name = urlsplit(f"//{host.decode('ascii')}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def given_key(scope: Scope) -> bytes | None:
    bearer = header(scope, b"authorization")
    if bearer is not None:
        scheme, _, key = bearer.partition(b" ")
        return key.strip() if scheme.lower() == b"bearer" else b""
    return header(scope, b"x-api-key")


def require_admin(request: Request) -> None:
    """For what changes the model under everybody else.

    Raises:
        RefusedError: 403, the request came without an admin key.
    """
    given = given_key(request.scope)
    keys = request.app.state.service.settings.admin_key
    if given is None or not _opens(given, tuple(key.encode() for key in keys)):
        raise RefusedError(
            Refusal(
                403,
                "this takes an admin key; the server is started with --admin-key",
                type="permission_error",
                code="admin_key_needed",
            )
        )


def _opens(given: bytes, keys: Sequence[bytes]) -> bool:
    """All keys are compared, each in a time that tells nothing of where they differ."""
    matches = [hmac.compare_digest(given, key) for key in keys]
    return any(matches)
