"""Keys. Every route but health asks for one, if the server has any."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from engineroom.server.errors import Refusal, RefusedError
from engineroom.server.http import header, path_of, send_refusal

OPEN_PATHS = frozenset({"/health", "/ready"})

_MISSING = Refusal(
    401,
    "an API key is needed: Authorization: Bearer KEY",
    type="authentication_error",
    code="missing_api_key",
    headers={"WWW-Authenticate": "Bearer"},
)
_WRONG = Refusal(
    401,
    "this API key opens nothing here",
    type="authentication_error",
    code="invalid_api_key",
    headers={"WWW-Authenticate": "Bearer"},
)


class KeyMiddleware:
    """Takes ``Authorization: Bearer`` (OpenAI) or ``x-api-key`` (Anthropic)."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = tuple(key.encode() for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self._keys or path_of(scope) in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        given = given_key(scope)
        if given is not None and _opens(given, self._keys):
            await self._app(scope, receive, send)
            return
        await send_refusal(_MISSING if given is None else _WRONG, send)


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
