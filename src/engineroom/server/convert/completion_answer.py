"""Answers to ``/v1/completions``: whole, and in pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engineroom.server.convert.chat_answer import finish_reason
from engineroom.server.convert.logprobs import LogprobWriter
from engineroom.server.convert.usage import tokens, usage_of
from engineroom.server.encoding import compact
from engineroom.server.encoding import text as json_text
from engineroom.server.sse import DONE, event
from engineroom.server.wire.completions import CompletionRequest
from engineroom.types import Delta, Response, Usage


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """What an answer is to hold. ``id``, ``created`` and ``model`` are told in each body."""

    id: str
    created: int
    model: str
    writer: LogprobWriter
    prompts: int = 1
    logprobs: bool = False
    token_ids: bool = False
    usage: bool = False
    running_usage: bool = False

    @classmethod
    def of(cls, body: CompletionRequest, **known: Any) -> CompletionShape:
        return cls(
            logprobs=body.logprobs is not None,
            token_ids=bool(body.return_token_ids),
            usage=body.wants_usage,
            running_usage=body.wants_running_usage,
            **known,
        )

    @property
    def head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}


def completion(answers: Sequence[Response], shape: CompletionShape) -> dict[str, Any]:
    """The whole body: the answers to the first prompt, then those to the second, …"""
    choices = [_choice(answer, place, shape) for place, answer in enumerate(answers)]
    usage = usage_of((answer.usage for answer in answers), shape.prompts)
    return {**shape.head, "choices": choices, "usage": usage}


def _choice(answer: Response, place: int, shape: CompletionShape) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": place,
        "text": answer.response_text,
        "logprobs": shape.writer.columns(answer.logprobs or (), 0) if shape.logprobs else None,
        "finish_reason": finish_reason(answer.finish_reason),
    }
    if answer.prompt_logprobs is not None:
        choice["prompt_logprobs"] = shape.writer.prompt(answer.prompt_logprobs)
    if shape.token_ids:
        choice["token_ids"] = answer.token_ids
    return choice


class CompletionPieces:
    """Deltas to events. One for each stream."""

    def __init__(self, shape: CompletionShape) -> None:
        self._shape = shape
        usage = b',"usage":null' if shape.usage else b""
        self._head = b"data: " + compact(shape.head)[:-1] + b',"choices":[{"index":'
        self._tail = b',"logprobs":null,"finish_reason":null}]' + usage + b"}\n\n"
        self._rich = shape.logprobs or shape.token_ids or shape.running_usage
        self._usages: dict[int, Usage] = {}
        self._counts = 0
        self._lengths: dict[int, int] = {}

    def event(self, delta: Delta) -> bytes:
        """The event of a delta; empty while text is held back."""
        if not self._rich and delta.finish_reason is None and delta.prompt_logprobs is None:
            if not delta.text:
                return b""
            return self._head + b'%d,"text":' % delta.index + json_text(delta.text) + self._tail
        return self._whole(delta)

    def _whole(self, delta: Delta) -> bytes:
        shape = self._shape
        choice: dict[str, Any] = {
            "index": delta.index,
            "text": delta.text,
            "logprobs": None,
            "finish_reason": None,
        }
        if delta.finish_reason is not None:
            choice["finish_reason"] = finish_reason(delta.finish_reason)
        if shape.logprobs and delta.logprobs:
            offset = self._lengths.get(delta.index, 0)
            choice["logprobs"] = shape.writer.columns(delta.logprobs, offset)
            # Of the tokens, not of the text: that may still be held back.
            length = sum(len(shape.writer.text(entry.token_id)) for entry in delta.logprobs)
            self._lengths[delta.index] = offset + length
        if delta.prompt_logprobs is not None:
            choice["prompt_logprobs"] = shape.writer.prompt(delta.prompt_logprobs)
        if shape.token_ids:
            choice["token_ids"] = delta.token_ids
        if delta.usage is not None:
            self._usages[delta.index] = delta.usage
        self._counts += len(delta.token_ids)
        body: Mapping[str, Any] = {**shape.head, "choices": [choice]}
        if shape.usage:
            body = {**body, "usage": tokens(0, self._counts) if shape.running_usage else None}
        return event(compact(body))

    @property
    def usage(self) -> dict[str, Any]:
        return usage_of((self._usages[index] for index in sorted(self._usages)), self._shape.prompts)

    def end(self) -> bytes:
        """The last events, when every answer has ended."""
        if not self._shape.usage:
            return DONE
        return event(compact({**self._shape.head, "choices": [], "usage": self.usage})) + DONE
