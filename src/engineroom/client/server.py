"""One OpenAI-compatible server, and what can be asked of it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx
from pydantic import BaseModel

from engineroom.client.answer import Completion, DecodedText, Models, Piece, Tokens, error_message, read
from engineroom.client.events import EventReader
from engineroom.errors import ArgumentError, ServerError

API_KEY_VARIABLE = "ENGINEROOM_API_KEY"
"""A name of its own: a key that is kept in the environment for one server is not sent to another."""

_CONNECT = 10.0
_SILENCE = 600.0
"""Seconds without a byte after which a server is given up. One with a long queue is silent for long."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server is, and who asks.

    Attributes:
        url: of the API, ``/v1`` included; a bare ``http://host:port`` gets it.
        model: its name there; None if the server has only one.
    """

    url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str, model: str | None = None, api_key: str | None = None) -> ServerAddress:
        """
        Args:
            api_key: None takes the environment's ``ENGINEROOM_API_KEY``; an empty one is none.

        Raises:
            ArgumentError: the address is none.
        """
        try:
            parts = urlsplit(url.strip())
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
            parts = urlsplit("")
        if not usable or parts.query or parts.fragment:
            raise ArgumentError(
                f"{url!r} is not the address of a server",
                why="it is http:// or https://, a host, and the path of the API",
                fix="http://127.0.0.1:8000/v1",
            )
        if "@" in parts.netloc:
            raise ArgumentError(
                "the address holds a name or password", fix=f"give a key with {API_KEY_VARIABLE}"
            )
        path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
        key = os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key
        if key and not (key.isascii() and key.isprintable()):
            raise ArgumentError("the API key holds characters that no HTTP header can", argument="api_key")
        return cls(urlunsplit((parts.scheme, parts.netloc, path, "", "")), model or None, key or None)

    @property
    def root(self) -> str:
        """The address without ``/v1``: what is not OpenAI's lies there."""
        return self.url.removesuffix("/v1")

    @property
    def is_here(self) -> bool:
        """On this machine: no proxy leads there."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


class Server:
    """A connection to a server; used on one event loop, with ``async with``.

    Attributes:
        model: the name that is asked for.
        context_length: tokens of prompt and answer together, where the server tells.
        extras: whether fields that are not OpenAI's may be sent: a server that refuses them gets no more.
    """

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self.model = address.model or ""
        self.context_length: int | None = None
        self.extras = True
        headers = {"Authorization": f"Bearer {address.api_key}"} if address.api_key else {}
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(_SILENCE, connect=_CONNECT),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=not address.is_here,
        )

    async def __aenter__(self) -> Self:
        """
        Raises:
            ServerError: the server can't be reached, or its model is not known.
        """
        try:
            await self._find_model()
        except BaseException:
            await self._http.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def _find_model(self) -> None:
        """Asks for the models, which tells whether the address is right, too. Not every server has a list."""
        try:
            models = await self._get(Models, f"{self.address.url}/models")
        except ServerError as error:
            if self.model and error.status in (404, 405, 501):
                return
            raise
        lengths = {model.id: model.max_model_len for model in models.data}
        if not self.model:
            if len(lengths) != 1:
                raise ServerError(
                    f"the server has {len(lengths)} models",
                    why=", ".join(sorted(lengths)[:20]),
                    fix="name one: model=NAME behind --with, or --model NAME",
                )
            self.model = next(iter(lengths))
        self.context_length = lengths.get(self.model)

    # --- questions ---------------------------------------------------------------------------------------------

    async def complete(
        self, messages: Sequence[Mapping[str, Any]], extras: Mapping[str, Any], **fields: Any
    ) -> Completion:
        """Whole answers.

        Args:
            extras: fields that are not OpenAI's. They are left out if the server refuses the request with them and
                takes it without.

        Raises:
            ServerError: ``refuses_request`` tells a refusal of this request from a failure.
        """
        body = {"model": self.model, "messages": list(messages), **fields}
        if self.extras:
            try:
                return await self._post(Completion, self._chat, {**body, **extras})
            except ServerError as error:
                if not extras or not error.refuses_request:
                    raise
        answer = await self._post(Completion, self._chat, body)
        self.extras = False
        return answer

    async def stream(
        self, messages: Sequence[Mapping[str, Any]], extras: Mapping[str, Any], **fields: Any
    ) -> AsyncGenerator[Piece, None]:
        """One answer in pieces, as they come. ``extras`` are sent if ``self.extras``.

        Raises:
            ServerError: as of ``complete``; or the stream ends before the answer does.
        """
        body = {"model": self.model, "messages": list(messages), "stream": True, **fields}
        if self.extras:
            body.update(extras)
        events = EventReader()
        finished = False
        with self._transport():
            async with self._http.stream("POST", self._chat, json=body) as response:
                if not response.is_success:
                    raise _refusal(response, await response.aread())
                async for received in response.aiter_bytes():
                    for data in events.feed(received):
                        if data == b"[DONE]":
                            continue
                        piece = read(Piece, data)
                        finished = finished or piece.finish_reason is not None
                        yield piece
        if not finished:
            raise ServerError("the server's stream ended before the answer did")

    async def tokenize(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[int, ...] | None:
        """The prompt's ids, from vLLM's ``/tokenize``; None where there is nothing of the kind."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "add_generation_prompt": True,
        }
        if tools:
            body["tools"] = list(tools)
        try:
            return (await self._post(Tokens, f"{self.address.root}/tokenize", body)).tokens or None
        except ServerError as error:
            if error.status is None:
                raise
            return None

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of ids, special tokens included; empty where the server has no ``/detokenize``."""
        body = {"model": self.model, "tokens": list(token_ids)}
        try:
            return (await self._post(DecodedText, f"{self.address.root}/detokenize", body)).prompt
        except ServerError as error:
            if error.status is None:
                raise
            return ""

    # --- transport ---------------------------------------------------------------------------------------------

    @property
    def _chat(self) -> str:
        return f"{self.address.url}/chat/completions"

    async def _get(self, kind: type[M], url: str) -> M:
        with self._transport():
            response = await self._http.get(url)
        return _answer(kind, response)

    async def _post(self, kind: type[M], url: str, body: Mapping[str, Any]) -> M:
        with self._transport():
            response = await self._http.post(url, json=body)
        return _answer(kind, response)

    @contextmanager
    def _transport(self) -> Generator[None, None, None]:
        """httpx's errors as ours."""
        where = self.address.url
        try:
            yield
        except httpx.ConnectError as error:
            raise ServerError(
                f"nothing answers at {where}",
                why=str(error),
                fix="check the address, and that the server runs",
            ) from error
        except httpx.TimeoutException as error:
            raise ServerError(f"{where} does not answer", why=type(error).__name__) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerError(
                f"the connection to {where} broke", why=str(error) or type(error).__name__
            ) from error


def _answer(kind: type[M], response: httpx.Response) -> M:
    if not response.is_success:
        raise _refusal(response, response.content)
    try:
        return read(kind, response.content)
    except ServerError as error:
        error.status = response.status_code
        raise


def _refusal(response: httpx.Response, body: bytes) -> ServerError:
    status = response.status_code
    fixes = {
        401: f"give the server's key with {API_KEY_VARIABLE}",
        403: f"give the server's key with {API_KEY_VARIABLE}",
        404: "check the address, /v1 included, and the model's name",
    }
    return ServerError(
        f"the server answers with status {status}: {error_message(body) or response.reason_phrase}",
        fix=fixes.get(status, ""),
        status=status,
    )
