"""What a server answers, read from its JSON: OpenAI's fields, and those of vLLM's that tell more.

Servers add fields as they like, so unknown ones are passed over; a known one of the wrong type is an error.
"""

from __future__ import annotations

import json
import re
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from engineroom.errors import ServerError, shown

M = TypeVar("M", bound=BaseModel)

_TOKEN_ID = re.compile(r"token_id:(\d+)")
"""How vLLM and SGLang spell a token with ``return_tokens_as_token_ids``."""


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class NamedToken(_Wire):
    """A token and its natural log-probability.

    Attributes:
        bytes: of the token itself, where ``token`` can't show them: half a character is no text.
    """

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None

    @property
    def token_id(self) -> int | None:
        """The id, if it was asked for and the server gave it in place of the text."""
        match = _TOKEN_ID.fullmatch(self.token)
        return int(match[1]) if match else None

    @property
    def spelling(self) -> bytes | None:
        """The token's bytes; None if they can't be told: U+FFFD stands for any of several tokens, "" for any special one."""
        try:
            known = bytes(self.bytes) if self.bytes is not None else self.token.encode("utf-8")
        except ValueError:  # a number above 255, half a surrogate pair
            return None
        return known if known and "\ufffd".encode() not in known else None


class ChosenToken(NamedToken):
    """A token of the answer; ``top_logprobs`` holds the likeliest ones of its place, best first."""

    top_logprobs: tuple[NamedToken, ...] = ()


class Logprobs(_Wire):
    content: tuple[ChosenToken, ...] | None = None


class Usage(_Wire):
    prompt_tokens: int
    completion_tokens: int = 0


class _Text(_Wire):
    """``reasoning`` is vLLM's name of what others call ``reasoning_content``."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @property
    def thought(self) -> str:
        return self.reasoning or self.reasoning_content or ""


class Choice(_Wire):
    """One answer. ``token_ids`` only from servers that know the field, and were asked for it."""

    message: _Text = _Text()
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    token_ids: tuple[int, ...] | None = None

    @property
    def text(self) -> str:
        return self.message.content or ""

    @property
    def tokens(self) -> tuple[ChosenToken, ...]:
        """The tokens with their log-probabilities; empty if the server gave none."""
        return (self.logprobs and self.logprobs.content) or ()


class Completion(_Wire):
    choices: tuple[Choice, ...]
    usage: Usage | None = None
    prompt_token_ids: tuple[int, ...] | None = None


class _PieceChoice(_Wire):
    delta: _Text = _Text()
    finish_reason: str | None = None
    token_ids: tuple[int, ...] | None = None


class Piece(_Wire):
    """One event of a streamed answer. The last one may have the usage, and no choice."""

    choices: tuple[_PieceChoice, ...] = ()
    usage: Usage | None = None

    @property
    def text(self) -> str:
        return "".join(choice.delta.thought + (choice.delta.content or "") for choice in self.choices)

    @property
    def token_count(self) -> int | None:
        """Tokens in it, or None if the server does not tell."""
        known = [len(c.token_ids) for c in self.choices if c.token_ids is not None]
        return sum(known) if known else None

    @property
    def finish_reason(self) -> str | None:
        return next((c.finish_reason for c in self.choices if c.finish_reason), None)


class Models(_Wire):
    class Model(_Wire):
        id: str
        max_model_len: int | None = None

    data: tuple[Model, ...]


class Tokens(_Wire):
    tokens: tuple[int, ...]


class DecodedText(_Wire):
    prompt: str


def read(kind: type[M], text: str | bytes) -> M:
    """
    Raises:
        ServerError: the text is not JSON, tells of an error, or is not what ``kind`` describes.
    """
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ServerError(
            f"the server's answer is not JSON: {shown(text)}",
            why=str(error),
            fix="check that the address is that of an OpenAI-compatible server, /v1 included",
        ) from error
    if isinstance(value, dict) and value.get("error"):  # pyright: ignore[reportUnknownMemberType]
        raise ServerError(f"the server failed: {error_message(text)}")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the answer"
        raise ServerError(
            f"the server's answer is not OpenAI's: {place}: {first['msg']}", why=shown(text, 200)
        ) from error


class _Error(BaseModel):
    model_config = ConfigDict(extra="ignore")
    message: str


class _ErrorBody(BaseModel):
    """OpenAI's ``{"error": {"message": …}}``, and the plainer forms of others."""

    model_config = ConfigDict(extra="ignore")
    error: _Error | str | None = None
    message: str | None = None
    detail: object = None


def error_message(body: str | bytes) -> str:
    """What an error's body says, in one line. Bodies are of any form."""
    try:
        told = _ErrorBody.model_validate_json(body)
    except ValidationError:
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
        return _line(text)
    error = told.error.message if isinstance(told.error, _Error) else told.error
    return _line(str(error or told.message or told.detail or ""))


def _line(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
