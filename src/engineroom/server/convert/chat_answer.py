"""Answers to ``/v1/chat/completions``: whole, and in pieces.

A piece is written once for each token of each stream, so what all pieces of an answer have in common is encoded once, and
a plain piece is that with the text between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engineroom.errors import GenerationError
from engineroom.server.convert.logprobs import LogprobWriter
from engineroom.server.convert.reasoning import ReasoningText
from engineroom.server.convert.usage import tokens, usage_of
from engineroom.server.encoding import compact
from engineroom.server.encoding import text as json_text
from engineroom.server.sse import DONE, event
from engineroom.server.wire.chat import ChatRequest
from engineroom.types import Delta, Prompt, Response, Usage


@dataclass(frozen=True, slots=True)
class ChatShape:
    """What an answer is to hold.

    Attributes:
        id, created, model: told in each body.
        tags: around the model's thinking.
        token_ids: those of prompt and answer go along.
        prompt: known where its ids or its length are to be told before the end.
    """

    id: str
    created: int
    model: str
    writer: LogprobWriter
    tags: tuple[str, str] | None = None
    reasoning: bool = True
    logprobs: bool = False
    token_ids: bool = False
    usage: bool = False
    running_usage: bool = False
    prompt: Prompt | None = None

    @classmethod
    def of(cls, body: ChatRequest, **known: Any) -> ChatShape:
        return cls(
            reasoning=body.include_reasoning is not False,
            logprobs=bool(body.logprobs),
            token_ids=bool(body.return_token_ids),
            usage=body.wants_usage,
            running_usage=body.wants_running_usage,
            **known,
        )

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def completion(answers: Sequence[Response], shape: ChatShape) -> dict[str, Any]:
    """The whole answer's body."""
    body = shape.head("chat.completion")
    body["choices"] = [_choice(answer, place, shape) for place, answer in enumerate(answers)]
    body["usage"] = usage_of(answer.usage for answer in answers)
    if answers[0].prompt_logprobs is not None:
        body["prompt_logprobs"] = shape.writer.prompt(answers[0].prompt_logprobs)
    if shape.token_ids and shape.prompt is not None:
        body["prompt_token_ids"] = shape.prompt.token_ids
    return body


def _choice(answer: Response, place: int, shape: ChatShape) -> dict[str, Any]:
    thought, text = parted(answer, shape.tags)
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thought and shape.reasoning:
        message["reasoning_content"] = thought
    choice = {
        "index": place,
        "message": message,
        "logprobs": {"content": shape.writer.content(answer.logprobs or ())} if shape.logprobs else None,
        "finish_reason": finish_reason(answer.finish_reason),
    }
    return {**choice, "token_ids": answer.token_ids} if shape.token_ids else choice


def parted(answer: Response, tags: tuple[str, str] | None) -> tuple[str, str]:
    """(What was thought, what was answered), without the tags."""
    parts = ReasoningText(tags)
    thought, _ = (
        parts.push(Delta(answer.reasoning_text, channel="reasoning")) if answer.reasoning_text else ("", "")
    )
    # The thinking block is at the answer's beginning, whole; see parse/reasoning.py.
    rest = answer.response_text[len(answer.reasoning_text) :]
    return thought, parts.push(Delta(rest))[1]


def finish_reason(reason: str) -> str:
    """
    Raises:
        GenerationError: the engine gave the answer up, which is no end that OpenAI's clients know.
    """
    if reason == "abort":
        raise GenerationError("the engine gave this request up")
    return reason


class ChatPieces:
    """Deltas to events. One for each stream."""

    def __init__(self, shape: ChatShape) -> None:
        self._shape = shape
        self._head = compact(shape.head("chat.completion.chunk"))[:-1]
        usage = b',"usage":null' if shape.usage else b""
        self._tail = b'},"finish_reason":null,"logprobs":null}]' + usage + b"}\n\n"
        self._plain: dict[int, bytes] = {}
        self._reasoning: dict[int, ReasoningText] = {}
        self._usages: dict[int, Usage] = {}
        self._counts: dict[int, int] = {}
        self._rich = shape.logprobs or shape.token_ids or shape.running_usage

    def event(self, delta: Delta) -> bytes:
        """The events of a delta; empty while text is held back."""
        begin = self._plain.get(delta.index)
        if begin is not None and delta.finish_reason is None and delta.channel == "answer":
            # Thoughts come first: once an answer's text was sent, all that follows is plain.
            return begin + json_text(delta.text) + self._tail if delta.text else b""
        return self._whole(delta)

    def _whole(self, delta: Delta) -> bytes:
        events = b""
        parts = self._reasoning.get(delta.index)
        if parts is None:
            parts = self._reasoning[delta.index] = ReasoningText(self._shape.tags)
            events = self._first(delta)
        thought, text = parts.push(delta)
        fields: dict[str, Any] = {}
        if thought and self._shape.reasoning:
            fields["reasoning_content"] = thought
        if text:
            fields["content"] = text
            if not self._rich:
                self._plain[delta.index] = self._plain_begin(delta.index)
        if delta.usage is not None:
            self._usages[delta.index] = delta.usage
        self._counts[delta.index] = self._counts.get(delta.index, 0) + len(delta.token_ids)
        if fields or self._rich or delta.finish_reason:
            events += self._piece(delta.index, fields, delta)
        return events

    def _first(self, delta: Delta) -> bytes:
        more: dict[str, Any] = {}
        if delta.prompt_logprobs is not None:
            more["prompt_logprobs"] = self._shape.writer.prompt(delta.prompt_logprobs)
        if self._shape.token_ids and self._shape.prompt is not None:
            more["prompt_token_ids"] = self._shape.prompt.token_ids
        return self._piece(delta.index, {"role": "assistant", "content": ""}, None, more)

    def _piece(
        self,
        index: int,
        fields: Mapping[str, Any],
        delta: Delta | None,
        more: Mapping[str, Any] | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": fields, "finish_reason": None, "logprobs": None}
        if delta is not None:
            if delta.finish_reason is not None:
                choice["finish_reason"] = finish_reason(delta.finish_reason)
            if self._shape.logprobs and delta.logprobs:
                choice["logprobs"] = {"content": self._shape.writer.content(delta.logprobs)}
            if self._shape.token_ids:
                choice["token_ids"] = delta.token_ids
        body = self._shape.head("chat.completion.chunk")
        body["choices"] = [choice]
        body.update(more or {})
        if self._shape.usage:
            body["usage"] = self._so_far() if self._shape.running_usage else None
        return event(compact(body))

    def _plain_begin(self, index: int) -> bytes:
        return b"data: " + self._head + b',"choices":[{"index":%d,"delta":{"content":' % index

    def _so_far(self) -> dict[str, int]:
        return tokens(len(self._shape.prompt or ()), sum(self._counts.values()))

    @property
    def usage(self) -> dict[str, Any]:
        return usage_of(self._usages[index] for index in sorted(self._usages))

    def end(self) -> bytes:
        """The last events, when every answer has ended."""
        if not self._shape.usage:
            return DONE
        body: dict[str, Any] = {
            **self._shape.head("chat.completion.chunk"),
            "choices": [],
            "usage": self.usage,
        }
        return event(compact(body)) + DONE
