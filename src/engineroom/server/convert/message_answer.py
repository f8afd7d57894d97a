"""Answers to ``/v1/messages``: whole, and in Anthropic's events.

Those of an answer's text are written once for each token, so all that they have in common is encoded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engineroom.server.convert.chat_answer import finish_reason, parted
from engineroom.server.convert.reasoning import ReasoningText
from engineroom.server.encoding import text as json_text
from engineroom.server.errors import Refusal, anthropic_error
from engineroom.server.sse import typed_event
from engineroom.types import Delta, FinishReason, Response, Usage


@dataclass(frozen=True, slots=True)
class MessageShape:
    """What an answer is to hold.

    Attributes:
        id: the request's; the message's is made of it.
        tags: around the model's thinking.
        max_tokens: the request's limit; an answer that is cut before it has filled the context.
    """

    id: str
    model: str
    max_tokens: int
    tags: tuple[str, str] | None = None

    @property
    def message_id(self) -> str:
        return f"msg_{self.id}"

    def message(self, content: list[dict[str, Any]], end: dict[str, Any], usage: Usage) -> dict[str, Any]:
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            **end,
            "usage": _counts(usage),
        }

    def end(self, finish: FinishReason, stop_string: str | None, usage: Usage) -> dict[str, Any]:
        """Why the answer ended, in Anthropic's words."""
        if finish_reason(finish) == "length":
            full = usage.completion_tokens < self.max_tokens
            return {
                "stop_reason": "model_context_window_exceeded" if full else "max_tokens",
                "stop_sequence": None,
            }
        reason = "end_turn" if stop_string is None else "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": stop_string}


def _counts(usage: Usage) -> dict[str, int]:
    """Anthropic counts apart what of a prompt was computed before. Nothing is charged for keeping it."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _thinking(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": ""}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def message(answer: Response, shape: MessageShape) -> dict[str, Any]:
    """The whole answer's body."""
    thought, text = parted(answer, shape.tags)
    content = ([_thinking(thought)] if thought else []) + ([_text(text)] if text else [])
    end = shape.end(answer.finish_reason, answer.stop_string, answer.usage)
    return shape.message(content, end, answer.usage)


class MessagePieces:
    """Takes an answer's deltas in turn, and gives the events of each."""

    keep_alive = typed_event("ping", {"type": "ping"})

    def __init__(self, shape: MessageShape) -> None:
        self._shape = shape
        self._parts = ReasoningText(shape.tags)
        self._begun = False
        self._kind = ""
        self._index = -1
        self._plain = b""

    def event(self, delta: Delta) -> bytes:
        """The events of a delta; empty while text is held back."""
        if self._plain and delta.finish_reason is None:
            # Thoughts come first: once text of the answer was sent, all that follows is plain.
            return b"%s%s}}\n\n" % (self._plain, json_text(delta.text)) if delta.text else b""
        events = b"" if self._begun else self._begin(delta)
        thought, text = self._parts.push(delta)
        if thought:
            events += self._piece("thinking", thought)
        if text:
            events += self._piece("text", text)
        if delta.finish_reason is not None:
            events += self._finish(delta)
        return events

    def _begin(self, delta: Delta) -> bytes:
        self._begun = True
        known = delta.prompt_usage or Usage(0, 0)
        start = self._shape.message([], {"stop_reason": None, "stop_sequence": None}, known)
        return typed_event("message_start", {"type": "message_start", "message": start})

    def _piece(self, kind: str, text: str) -> bytes:
        events = b"" if self._kind == kind else self._stop() + self._start(kind)
        return events + self._delta({"type": f"{kind}_delta", kind: text})

    def _start(self, kind: str) -> bytes:
        self._kind, self._index = kind, self._index + 1
        block = _thinking("") if kind == "thinking" else _text("")
        if kind == "text":
            begin = (
                b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d' % self._index
            )
            self._plain = begin + b',"delta":{"type":"text_delta","text":'
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return typed_event("content_block_start", start)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        event = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return typed_event("content_block_delta", event)

    def _stop(self) -> bytes:
        if not self._kind:
            return b""
        # Clients keep a thought only with a signature; nothing here is signed.
        signed = (
            self._delta({"type": "signature_delta", "signature": ""}) if self._kind == "thinking" else b""
        )
        self._kind, self._plain = "", b""
        return signed + typed_event(
            "content_block_stop", {"type": "content_block_stop", "index": self._index}
        )

    def _finish(self, delta: Delta) -> bytes:
        assert delta.finish_reason is not None
        assert delta.usage is not None
        end = self._shape.end(delta.finish_reason, delta.stop_string, delta.usage)
        last = {"type": "message_delta", "delta": end, "usage": _counts(delta.usage)}
        return (
            self._stop()
            + typed_event("message_delta", last)
            + typed_event("message_stop", {"type": "message_stop"})
        )

    def failed(self, refusal: Refusal) -> bytes:
        """How the stream ends that fails on its way."""
        return typed_event("error", anthropic_error(refusal, self._shape.id))
