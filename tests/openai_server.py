"""A small OpenAI-compatible server over the scripted engine, which can be told to know less, or to fail.

It is of the standard library alone, so that what the client sends and reads is not judged by a library that it uses.
"""

import json
import socket
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from engineroom import ChatModel, ScriptedEngine
from engineroom.types import Response

_EXTRAS = {
    "return_token_ids",
    "return_tokens_as_token_ids",
    "ignore_eos",
    "top_k",
    "min_p",
    "repetition_penalty",
}


@dataclass
class Talent:
    """What the server can do, and what goes wrong. All of it may be changed while it runs.

    Attributes:
        extras: fields that are not OpenAI's are "honoured", "ignored", or "refused".
        logprobs: "given", "ignored", or "refused".
        counts_pieces: streamed pieces tell how many tokens they hold.
        usage: the numbers of tokens are told.
        faults: what happens to the next requests for a chat, one each: "500", "cut", "garbage", "error event", "pause",
            "array", "silence", "early end", or "" for nothing.
    """

    models: tuple[str, ...] = ("scripted",)
    context_length: int | None = 4096
    extras: str = "honoured"
    logprobs: str = "given"
    tokenize: bool = True
    tokenize_adds: tuple[int, ...] = ()
    detokenize: bool = True
    counts_pieces: bool = True
    usage: bool = True
    one_at_a_time: bool = False
    lists_end: bool = True
    api_key: str | None = None
    refuses: str | None = None
    shift: float = 0.0
    faults: list[str] = field(default_factory=list[str])
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class OpenAIServer:
    def __init__(self, model: ChatModel, talent: Talent) -> None:
        self.model = model
        self.talent = talent
        self.lock = threading.Lock()
        self.awake = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.office = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self.awake.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@contextmanager
def running(
    script: Any = None, *, engine: Mapping[str, Any] | None = None, **talent: Any
) -> Generator[OpenAIServer, None, None]:
    """``engine`` are options of the scripted engine, ``talent`` those of :class:`Talent`."""
    with ChatModel(engine=ScriptedEngine(script, **(engine or {}))) as model:
        server = OpenAIServer(model, Talent(**talent))
        try:
            yield server
        finally:
            server.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # else each answer waits 40 ms for the client's delayed acknowledgement of its head
    )

    @property
    def office(self) -> OpenAIServer:
        return self.server.office  # type: ignore[attr-defined]

    @property
    def talent(self) -> Talent:
        return self.office.talent

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client has left
            super().handle()

    # --- the endpoints ---------------------------------------------------------------------------------------------

    def do_GET(self) -> None:
        if not self._allowed():
            return
        if self.path != "/v1/models":
            self._error(404, "no such page")
            return
        models = [{"id": name, "max_model_len": self.talent.context_length} for name in self.talent.models]
        self._json({"object": "list", "data": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._allowed():
            return
        if self.path == "/tokenize" and self.talent.tokenize:
            prompt = self.office.model.render(body["messages"], tools=body.get("tools"))
            ids = [*prompt.token_ids, *self.talent.tokenize_adds]
            self._json({"tokens": ids, "count": len(ids)})
        elif self.path == "/detokenize" and self.talent.detokenize:
            text = self.office.model.tokenizer.decode(body["tokens"], skip_special_tokens=False)
            self._json({"prompt": text})
        elif self.path == "/v1/chat/completions":
            self._chat(body)
        else:
            self._error(404, "no such page")

    def _allowed(self) -> bool:
        key = self.talent.api_key
        if key is not None and self.headers.get("Authorization") != f"Bearer {key}":
            self._error(401, "a key is missing")
            return False
        return True

    def _chat(self, body: dict[str, Any]) -> None:
        with self.office.lock:
            self.talent.requests.append(body)
            fault = self.talent.faults.pop(0) if self.talent.faults else ""
        refusal = self._refusal(body)
        if fault == "500":
            self._error(500, "the fan stands still")
        elif fault == "array":
            self._send(200, b"[1, 2]")
        elif fault == "silence":
            self.office.awake.wait()
            self.close_connection = True
        elif refusal:
            self._error(400, refusal)
        elif body.get("stream"):
            self._stream(body, fault)
        else:
            self._json(self._completion(body))

    def _refusal(self, body: dict[str, Any]) -> str:
        talent = self.talent
        if talent.extras == "refused" and (_EXTRAS & set(body) or "continuous_usage_stats" in str(body)):
            return "Unrecognized request argument supplied"
        if talent.logprobs == "refused" and body.get("logprobs"):
            return "logprobs are not supported"
        if talent.refuses is not None and talent.refuses in json.dumps(body["messages"]):
            return f"{talent.refuses} is not welcome"
        return ""

    # --- answers -----------------------------------------------------------------------------------------------------

    def _answers(self, body: dict[str, Any]) -> list[Response]:
        options = {name: body[name] for name in ("temperature", "n", "max_tokens") if name in body}
        if self.talent.extras == "honoured" and "ignore_eos" in body:
            options["ignore_eos"] = body["ignore_eos"]
        if self.talent.one_at_a_time:
            options["n"] = 1
        return self.office.model.chat(body["messages"], tools=body.get("tools"), logprobs=1, **options)

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        answers = self._answers(body)
        completion: dict[str, Any] = {
            "choices": [self._choice(answer, place, body) for place, answer in enumerate(answers)]
        }
        if self.talent.usage:
            completion["usage"] = self._usage(answers[0])
        if self._wants(body, "return_token_ids"):
            completion["prompt_token_ids"] = self.office.model.render(body["messages"]).token_ids
        return completion

    def _choice(self, answer: Response, place: int, body: dict[str, Any]) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": place,
            "message": {"role": "assistant", "content": answer.response_text},
            "finish_reason": answer.finish_reason,
        }
        if self._wants(body, "return_token_ids"):
            choice["token_ids"] = answer.token_ids
        if body.get("logprobs") and self.talent.logprobs == "given":
            ids = answer.token_ids
            if answer.finish_reason == "stop" and not self.talent.lists_end:
                ids = ids[:-1]
            choice["logprobs"] = {"content": [self._named(i, body) for i in ids]}
        return choice

    def _named(self, token_id: int, body: dict[str, Any]) -> dict[str, Any]:
        text = self.office.model.tokenizer.decode([token_id], skip_special_tokens=False)
        as_id = self._wants(body, "return_tokens_as_token_ids")
        token = {"token": f"token_id:{token_id}" if as_id else text, "logprob": self.talent.shift}
        token["bytes"] = list(token["token"].encode())
        return {**token, "top_logprobs": [token] if body.get("top_logprobs") else []}

    def _wants(self, body: dict[str, Any], extra: str) -> bool:
        return bool(body.get(extra)) and self.talent.extras == "honoured"

    @staticmethod
    def _usage(answer: Response) -> dict[str, int]:
        return {"prompt_tokens": answer.prompt_length, "completion_tokens": answer.response_length}

    # --- streams -----------------------------------------------------------------------------------------------------

    def _stream(self, body: dict[str, Any], fault: str) -> None:
        (answer,) = self._answers(body)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._event({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        for place, token_id in enumerate(answer.token_ids):
            if place == 2 and fault:
                if not self._spoil(fault):
                    return
                continue
            self._event(self._piece(body, answer, place, token_id))
        if fault == "early end":
            self._end()
            return
        if self.talent.usage and body.get("stream_options", {}).get("include_usage"):
            self._event({"choices": [], "usage": self._usage(answer)})
        self._chunk(b"data: [DONE]\n\n")
        self._end()

    def _piece(self, body: dict[str, Any], answer: Response, place: int, token_id: int) -> dict[str, Any]:
        last = place == len(answer.token_ids) - 1
        choice: dict[str, Any] = {
            "delta": {"content": self.office.model.tokenizer.decode([token_id], skip_special_tokens=True)},
            "finish_reason": answer.finish_reason if last else None,
        }
        if self.talent.counts_pieces and self._wants(body, "return_token_ids"):
            choice["token_ids"] = [token_id]
        return {"choices": [choice]}

    def _spoil(self, fault: str) -> bool:
        """Whether the stream goes on."""
        match fault:
            case "cut":
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            case "garbage":
                self._chunk(b'data: {"choices": [{"delta": \xff\n\n')
                self._end()
            case "error event":
                self._event({"error": {"message": "out of memory", "code": 500}})
                self._end()
            case "early end":
                self._end()
            case "pause":
                time.sleep(1.0)
                return True
        return False

    def _event(self, value: Any) -> None:
        self._chunk(b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    # --- plain answers -----------------------------------------------------------------------------------------------

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode())

    def _error(self, status: int, message: str) -> None:
        self._send(status, json.dumps({"error": {"message": message, "code": status}}).encode())

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
