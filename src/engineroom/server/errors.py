"""Errors as OpenAI's clients read them: ``{"error": {"message", "type", "param", "code"}}``.

What a client sees of a request's error is what, why and fix. Of an engine's it is what happened, without what belongs to
the operator: causes, paths and addresses go to the log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engineroom.errors import (
    ArgumentError,
    EngineBusyError,
    EngineClosedError,
    EngineDeadError,
    EngineNotInstalledError,
    EngineNotReadyError,
    EngineroomError,
    MessageError,
    ModelError,
    ParameterError,
    PromptTooLongError,
    RequestError,
    RequestTimeoutError,
    TemplateError,
    UnsupportedError,
)
from engineroom.server.encoding import compact

WIRE_NAMES: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    "adapter": "model",
    "name": "lora_name",
    "path": "lora_path",
    "continue_final": "continue_final_message",
    "enable_thinking": "chat_template_kwargs.enable_thinking",
}
"""Our parameters that have another name on the wire."""

_NO_RETRY = {"x-should-retry": "false"}
"""OpenAI's clients try a 5xx again unless they are told not to; what failed by itself fails again."""

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{4,}|https?://[\w.-]+//\S+|(?<![\w.:/])(?:/[\w.@+-]+){2,}/?")
"""Of memory, and of files; Transformers takes any name for a repository's, and puts a path behind the hub's host."""

_PLACE = re.compile(
    r"(?:messages|system|tools|batch_input|documents|query|text_[12]|input|prompt)(?:\[\d+\]|\.\w+)*"
)

_LONGEST_MESSAGE = 4_000
_LONGEST_PLACE = 400
"""Characters of an error. It names what a client wrote, whose keys may be megabytes long."""

_BATCH = "batch_input"
"""What is scored or embedded, whatever the route calls it."""


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that says no."""

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", _clipped(self.message, _LONGEST_MESSAGE))
        object.__setattr__(self, "param", self.param and _clipped(self.param, _LONGEST_PLACE))

    @property
    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def encoded(self) -> bytes:
        return compact(self.body)


_ANTHROPIC: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(refusal: Refusal, request_id: str | None) -> dict[str, Any]:
    """As Anthropic's clients read it. The field's place is in the message alone: there is none for it."""
    other = "invalid_request_error" if refusal.status < 500 else "api_error"
    place = refusal.param
    message = f"{place}: {refusal.message}" if place and place not in refusal.message else refusal.message
    error = {"type": _ANTHROPIC.get(refusal.status, other), "message": message}
    return {"type": "error", "error": error, "request_id": request_id}


OF_NO_CONCERN = (EngineNotReadyError, RequestTimeoutError)
"""What is answered with a 5xx, and is no failure: its traceback tells an operator nothing."""


class RefusedError(Exception):
    """A refusal that is of HTTP, not of the model: a missing key, an unknown path, too large a body."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class ClientLeftError(Exception):
    """Nobody reads the answer any more."""


def invalid(
    message: str, *, param: str | None = None, code: str | None = None, status: int = 400
) -> RefusedError:
    return RefusedError(Refusal(status, message, code=code, param=param))


def refusal_of(error: EngineroomError, names: Mapping[str, str], subject: str) -> Refusal:
    """
    Args:
        names: our parameters that have another name on this wire.
        subject: the field that holds what is answered.
    """
    match error:
        case EngineBusyError():
            after = {"Retry-After": str(max(1, round(error.retry_after)))}
            return _of_engine(error, 429, "engine_busy", kind="rate_limit_error", headers=after)
        case RequestTimeoutError():
            return _of_engine(error, 504, "timeout", kind="timeout_error", headers=_NO_RETRY)
        case EngineNotReadyError():
            return _of_engine(error, 503, "engine_not_ready", headers={"Retry-After": "5"})
        case EngineDeadError() | EngineClosedError():
            return _of_engine(error, 503, "engine_dead", headers={"Retry-After": "30"})
        case RequestError() | ArgumentError():
            return _of_request(error, names, subject)
        case EngineNotInstalledError():
            return Refusal(400, redacted(_whole(error)), code="engine_not_installed", param="infer_backend")
        case ModelError():
            return Refusal(400, redacted(_whole(error)), code="model_error")
        case _:
            return _of_engine(error, 500, "generation_failed", headers=_NO_RETRY)


def _of_request(error: RequestError | ArgumentError, names: Mapping[str, str], subject: str) -> Refusal:
    code, param = "invalid_value", None
    match error:
        case PromptTooLongError():
            code, param = "context_length_exceeded", _place_in(error.place) or subject
        case UnsupportedError():
            code, param = "unsupported_parameter", _place_in(error.place) or error.feature
        case ParameterError():
            code, param = _code(error.what), error.parameter
        case ArgumentError():
            param = error.argument
        case MessageError() | TemplateError():
            param = _place_in(error.what) or subject
        case _:
            code = "unsupported_request"
    message = _whole(error)
    if param and param.startswith(_BATCH):
        param = subject + param.removeprefix(_BATCH)
        message = message.replace(_BATCH, subject, 1)
    if param is not None and param in names:
        message = re.sub(rf"\b{param}(?==| must| needs| is| can't)", names[param], message)
        param = names[param]
    return Refusal(400, redacted(message), code=code, param=param or None)


def _code(what: str) -> str:
    """Of an error about a parameter: is it unknown, known but not honoured, or only its value wrong?"""
    if what.startswith("unknown"):
        return "unknown_parameter"
    return "unsupported_parameter" if what.endswith("is not supported") else "invalid_value"


def _place_in(text: str) -> str:
    """The place that a text begins with."""
    found = _PLACE.match(text)
    return found[0] if found else ""


def _of_engine(
    error: EngineroomError,
    status: int,
    code: str,
    *,
    kind: str = "server_error",
    headers: Mapping[str, str],
) -> Refusal:
    return Refusal(status, redacted(error.what), type=kind, code=code, headers=headers)


INTERNAL = Refusal(
    500,
    "the server failed on this request; its log has the reason under the request's id",
    type="server_error",
    code="internal_error",
    headers=_NO_RETRY,
)


def _whole(error: EngineroomError) -> str:
    """What, why and fix on one line."""
    text = error.what
    if error.why:
        text += f": {error.why}"
    return f"{text}. Fix: {error.fix}" if error.fix else text


def redacted(text: str) -> str:
    """Without addresses in memory and paths of this machine; on one line, and of a bounded length."""
    return _ADDRESS.sub("…", " ".join(_clipped(text, _LONGEST_MESSAGE).split()))
