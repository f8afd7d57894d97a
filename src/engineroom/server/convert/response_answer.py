"""Answers to ``/v1/responses``: the events of a stream, and the whole, which is what the last event holds.

Each event has a type and a number. Those of an answer's text are written once for each token, so all that they have in
common is encoded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engineroom.params import SamplingParams
from engineroom.server.convert.chat_answer import finish_reason
from engineroom.server.convert.logprobs import LogprobWriter
from engineroom.server.convert.reasoning import ReasoningText
from engineroom.server.convert.response_request import wants_logprobs
from engineroom.server.encoding import compact
from engineroom.server.encoding import text as json_text
from engineroom.server.errors import Refusal
from engineroom.server.sse import KEEP_ALIVE, typed_event
from engineroom.server.wire.responses import ResponsesRequest
from engineroom.types import Delta, Usage


@dataclass(frozen=True, slots=True)
class ResponseShape:
    """What an answer is to hold.

    Attributes:
        id: the request's; the ids of the answer and its items are made of it.
        asked: the fields of the request that its answer repeats.
        tags: around the model's thinking.
    """

    id: str
    created: int
    model: str
    asked: Mapping[str, Any]
    writer: LogprobWriter
    tags: tuple[str, str] | None = None
    logprobs: bool = False

    @property
    def response_id(self) -> str:
        return f"resp_{self.id}"

    @classmethod
    def of(cls, body: ResponsesRequest, params: SamplingParams, **known: Any) -> ResponseShape:
        return cls(asked=_asked(body, params), logprobs=wants_logprobs(body), **known)


def _asked(body: ResponsesRequest, params: SamplingParams) -> dict[str, Any]:
    """The request's settings as they took effect, and those that only ever have one value here."""
    text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text else {}
    return {
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": params.temperature,
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


@dataclass(slots=True)
class _Open:
    """The item that is being written: a thought or a message, with the one part that each has."""

    kind: str
    id: str
    index: int
    texts: list[str] = field(default_factory=list[str])
    logprobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "content_index": 0}

    @property
    def part_type(self) -> str:
        return "output_text" if self.kind == "message" else "reasoning_text"

    def part(self, text: str) -> dict[str, Any]:
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs}

    def item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.id, "type": self.kind, "status": status, "content": content}
        return head | ({"role": "assistant"} if self.kind == "message" else {"summary": []})


class ResponsePieces:
    """Takes an answer's deltas in turn, and gives the events of each."""

    keep_alive = KEEP_ALIVE

    def __init__(self, shape: ResponseShape) -> None:
        self._shape = shape
        self._number = 0
        self._parts = ReasoningText(shape.tags)
        self._open: _Open | None = None
        self._plain = b""
        self._output: list[dict[str, Any]] = []
        self._status = "in_progress"
        self._error: dict[str, Any] | None = None
        self._usage: Usage | None = None
        self._thinking_tokens = 0
        self._answered = False

    # --- the whole ---------------------------------------------------------------------------------------------

    @property
    def body(self) -> dict[str, Any]:
        """The answer as far as it is known."""
        cut = {"reason": "max_output_tokens"} if self._status == "incomplete" else None
        return {
            "id": self._shape.response_id,
            "object": "response",
            "created_at": self._shape.created,
            "status": self._status,
            "error": self._error,
            "incomplete_details": cut,
            "model": self._shape.model,
            "output": self._output,
            "usage": self._usage and self._counts(self._usage),
            **self._shape.asked,
        }

    def _counts(self, usage: Usage) -> dict[str, Any]:
        thinking = self._thinking_tokens if self._parts.seen else 0
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": thinking},
            "total_tokens": usage.total_tokens,
        }

    # --- events ------------------------------------------------------------------------------------------------

    def event(self, delta: Delta) -> bytes:
        """The events of a delta; empty while text is held back."""
        if self._plain and delta.finish_reason is None:
            # Thoughts come first: once text of the answer was sent, all that follows is plain.
            if not delta.text:
                return b""
            assert self._open is not None
            self._open.texts.append(delta.text)
            self._number += 1
            return b'%s%d,"delta":%s}\n\n' % (self._plain, self._number - 1, json_text(delta.text))
        return self._whole(delta)

    def _whole(self, delta: Delta) -> bytes:
        events = b"" if self._number else self._begin()
        thought, text = self._parts.push(delta)
        self._answered = self._answered or bool(text)
        if not self._answered:
            self._thinking_tokens += len(delta.token_ids)
        if thought:
            events += self._text("reasoning", thought, delta)
        if text or (self._shape.logprobs and delta.logprobs and self._writes_message):
            events += self._text("message", text, delta)
        if delta.finish_reason is not None:
            events += self._finish(delta)
        return events

    @property
    def _writes_message(self) -> bool:
        return self._open is not None and self._open.kind == "message"

    def _begin(self) -> bytes:
        return self._event("created", response=self.body) + self._event("in_progress", response=self.body)

    def _text(self, kind: str, text: str, delta: Delta) -> bytes:
        events = b"" if self._open and self._open.kind == kind else self._start(kind)
        item = self._open
        assert item is not None
        item.texts.append(text)
        more: dict[str, Any] = {}
        if kind == "message":
            more["logprobs"] = (
                self._shape.writer.content(delta.logprobs) if self._shape.logprobs and delta.logprobs else []
            )
            item.logprobs += more["logprobs"]
        return events + self._event(f"{item.part_type}.delta", **item.place, delta=text, **more)

    def _start(self, kind: str) -> bytes:
        events = self._close("completed")
        prefix = "msg" if kind == "message" else "rs"
        item = self._open = _Open(kind, f"{prefix}_{self._shape.id}", len(self._output))
        events += self._event("output_item.added", output_index=item.index, item=item.item("in_progress", []))
        events += self._event("content_part.added", **item.place, part=item.part(""))
        if kind == "message" and not self._shape.logprobs:
            event: dict[str, Any] = {"type": "response.output_text.delta", **item.place, "logprobs": []}
            begin = b"event: response.output_text.delta\ndata: " + compact(event)[:-1]
            self._plain = begin + b',"sequence_number":'
        return events

    def _close(self, status: str) -> bytes:
        item, self._open, self._plain = self._open, None, b""
        if item is None:
            return b""
        text = "".join(item.texts)
        more = {"logprobs": item.logprobs} if item.kind == "message" else {}
        whole = item.item(status, [item.part(text)])
        self._output = [*self._output, whole]
        return (
            self._event(f"{item.part_type}.done", **item.place, text=text, **more)
            + self._event("content_part.done", **item.place, part=item.part(text))
            + self._event("output_item.done", output_index=item.index, item=whole)
        )

    def _finish(self, delta: Delta) -> bytes:
        assert delta.finish_reason is not None
        status = "incomplete" if finish_reason(delta.finish_reason) == "length" else "completed"
        events = b"" if self._open or self._output else self._start("message")  # an answer without any text
        events += self._close(status)
        self._status, self._usage = status, delta.usage
        return events + self._event(status, response=self.body)

    def failed(self, refusal: Refusal) -> bytes:
        """How the stream ends that fails on its way.

        OpenAI's Python client raises for an event that holds an ``error``; others read the event's own fields, or wait
        for the ``response.failed`` that ends all.
        """
        events = b"" if self._number else self._begin()
        error = refusal.body["error"]
        events += self._typed(
            "error", code=refusal.code, message=refusal.message, param=refusal.param, error=error
        )
        self._status, self._error = "failed", {"code": "server_error", "message": refusal.message}
        return events + self._event("failed", response=self.body)

    def _event(self, kind: str, **fields: Any) -> bytes:
        return self._typed(f"response.{kind}", **fields)

    def _typed(self, name: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return typed_event(name, {"type": name, "sequence_number": number, **fields})
