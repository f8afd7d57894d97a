"""``/v1/messages``, Anthropic's: whole and streamed, on the scripted engine."""

from typing import Any

import httpx
import pytest

from engineroom.engines.scripted import Reply
from engineroom.server.convert.message_request import conversation
from engineroom.server.wire.messages import MessagesRequest
from engineroom.types import ImagePart, Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from serving import HI, asking, typed_events_of

PATH = "/v1/messages"
ASK: dict[str, Any] = {"max_tokens": 100, "messages": HI}
THINKING = "{% for m in messages %}{{ m.content }}{% endfor %}{# <think> </think> #}"


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert (set(body), body["type"]) == ({"type", "error", "request_id"}, "error")
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    assert set(body["error"]) == {"type", "message"}
    return body["error"]


def test_a_whole_answer_is_in_anthropics_shape() -> None:
    with asking(["Hello!"]) as ask:
        response = ask(PATH, {**ASK, "system": "Be kind."})
        counted = ask(
            f"{PATH}/count_tokens", {"messages": HI, "system": [{"type": "text", "text": "Be kind."}]}
        )
    assert response.json() == {
        "id": f"msg_{response.headers['request-id']}",
        "type": "message",
        "role": "assistant",
        "model": response.json()["model"],
        "content": [{"type": "text", "text": "Hello!"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": counted.json()["input_tokens"],
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 7,
        },
    }


def test_the_events_hold_the_answer() -> None:
    text = 'Grüße, "quotes",\n\u2028 and 😀\x00\\.'
    with asking([text, text]) as ask:
        events = typed_events_of(ask(PATH, {**ASK, "stream": True}))
        whole = ask(PATH, ASK).json()
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert [event["type"] for event in events] == [
        *("message_start", "content_block_start"),
        *(["content_block_delta"] * len(deltas)),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert "".join(deltas) == text == whole["content"][0]["text"]
    start = events[0]["message"]
    assert start["usage"] == {**whole["usage"], "output_tokens": 0}
    assert (start["content"], start["stop_reason"]) == ([], None)
    assert events[1]["content_block"] == {"type": "text", "text": ""}
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"] == whole["usage"]


@pytest.mark.parametrize(
    ("fields", "arguments", "reason", "sequence", "text"),
    [
        ({"max_tokens": 3}, {}, "max_tokens", None, "Hel"),
        ({"stop_sequences": ["xx", "lo"]}, {}, "stop_sequence", "lo", "Hel"),
        ({"max_tokens": 90}, {"vllm_maxlen": 35}, "model_context_window_exceeded", None, None),
    ],
)
def test_why_an_answer_ended(
    fields: dict[str, Any], arguments: dict[str, Any], reason: str, sequence: str | None, text: str | None
) -> None:
    engine = {"context_length": arguments["vllm_maxlen"]} if arguments else {}
    with asking(["Hello! " * 9], engine=engine) as ask:
        whole = ask(PATH, {**ASK, **fields}).json()
        *_, end, _ = typed_events_of(ask(PATH, {**ASK, **fields, "stream": True}))
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, sequence)
    assert end["delta"] == {"stop_reason": reason, "stop_sequence": sequence}
    if text is not None:
        assert whole["content"] == [{"type": "text", "text": text}]


def test_thoughts_are_a_block_of_their_own() -> None:
    script = ["<think>\nLet me see.\n</think>\n\nIt is 12."]
    with asking(script, engine={"chat_template": THINKING}) as ask:
        whole = ask(PATH, ASK).json()
        events = typed_events_of(ask(PATH, {**ASK, "stream": True}))
    thought, said = whole["content"]
    assert thought == {"type": "thinking", "thinking": "Let me see.", "signature": ""}
    assert said == {"type": "text", "text": "It is 12."}
    blocks = [
        (e["type"], e["index"]) for e in events if e["type"].endswith(("start", "stop")) and "index" in e
    ]
    assert blocks == [
        *(("content_block_start", 0), ("content_block_stop", 0)),
        *(("content_block_start", 1), ("content_block_stop", 1)),
    ]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "Let me see."
    assert [delta["type"] for delta in deltas].count("signature_delta") == 1


def test_an_answer_without_text_has_no_block() -> None:
    with asking([""]) as ask:
        whole = ask(PATH, ASK).json()
        events = typed_events_of(ask(PATH, {**ASK, "stream": True}))
    assert (whole["content"], whole["stop_reason"]) == ([], "end_turn")
    assert [event["type"] for event in events] == ["message_start", "message_delta", "message_stop"]


def test_the_model_goes_on_with_a_last_message_of_its_own() -> None:
    begun = [*HI, {"role": "assistant", "content": "It is"}]
    with asking(["x"]) as ask:
        count = ask(f"{PATH}/count_tokens", {"messages": begun}).json()["input_tokens"]
        expected = ask("/render", {"messages": begun, "continue_final_message": True}).json()
        answered = ask(PATH, {**ASK, "messages": begun}).json()
    assert expected["prompt"].endswith("It is")
    assert count == expected["count"] == answered["usage"]["input_tokens"]


def test_blocks_become_messages() -> None:
    body = MessagesRequest.model_validate(
        {
            "max_tokens": 5,
            "system": [{"type": "text", "text": "Be ", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Look", "citations": None},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "AA=="},
                        },
                        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
                    ],
                },
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm.", "signature": ""},
                        {"type": "text", "text": "Wait."},
                        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "content": "7"},
                        {
                            "type": "tool_result",
                            "tool_use_id": "t2",
                            "content": [{"type": "text", "text": "8"}],
                        },
                        {"type": "text", "text": "And?"},
                    ],
                },
            ],
        }
    )
    assert conversation(body) == [
        Message("system", (TextPart("Be "),)),
        Message(
            "user",
            (
                TextPart("Look"),
                ImagePart({"url": "data:image/png;base64,AA=="}),
                ImagePart({"url": "https://x/y.png"}),
            ),
        ),
        Message("assistant", (ReasoningPart("Hm."), TextPart("Wait."), ToolCallPart("f", {"a": 1}, "t1"))),
        Message("tool", (ToolResultPart("7", call_id="t1"),)),
        Message("tool", (ToolResultPart("8", call_id="t2"),)),
        Message("user", (TextPart("And?"),)),
    ]


def turn(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, *blocks]}]}


@pytest.mark.parametrize(
    ("fields", "status", "kind", "place"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens"),
        ({"max_tokens": 0}, 400, "invalid_request_error", "max_tokens"),
        ({"messages": []}, 400, "invalid_request_error", "messages"),
        ({"messages": [{"role": "alien", "content": "x"}]}, 400, "invalid_request_error", "messages[0].role"),
        (turn({"type": "alien"}), 400, "invalid_request_error", "messages[0].content[1]"),
        (turn({"type": "text"}), 400, "invalid_request_error", "messages[0].content[1].text"),
        (
            turn({"type": "text", "text": "\ud800"}),
            400,
            "invalid_request_error",
            "half a character",
        ),
        (
            turn({"type": "text", "text": "x", "x": 1}),
            400,
            "invalid_request_error",
            "messages[0].content[1].x",
        ),
        (
            turn({"type": "image", "source": {"type": "url", "url": "x"}}),
            400,
            "invalid_request_error",
            "messages[0].content[1]: images is not supported",
        ),
        (
            turn(
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [{"type": "image", "source": {"type": "url", "url": "x"}}],
                }
            ),
            400,
            "invalid_request_error",
            "messages[0].content[1].content[0]: images is not supported",
        ),
        ({"system": [{"type": "image"}]}, 400, "invalid_request_error", "system[0].type"),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, 400, "invalid_request_error", "messages"),
        ({"temperature": -1}, 400, "invalid_request_error", "temperature"),
        ({"stop_sequences": [""]}, 400, "invalid_request_error", "stop_sequences"),
        ({"thinking": {"type": "adaptive"}}, 400, "invalid_request_error", "thinking"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2000}},
            400,
            "invalid_request_error",
            "thinking.budget_tokens",
        ),
        ({"output_config": {"effort": "max"}}, 400, "invalid_request_error", "output_config.effort"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            400,
            "invalid_request_error",
            "output_config.format",
        ),
        ({"tools": [{"name": "f", "input_schema": {}}]}, 400, "invalid_request_error", "tools"),
        ({"tool_choice": {"type": "any"}}, 400, "invalid_request_error", "tool_choice"),
        ({"thread": {"type": "create"}}, 400, "invalid_request_error", "nothing is stored"),
        ({"mcp_servers": [{}]}, 400, "invalid_request_error", "mcp_servers"),
        ({"temprature": 1}, 400, "invalid_request_error", "temprature"),
        ({"model": "claude-9"}, 404, "not_found_error", "claude-9"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cant_be_honoured_is_refused_by_name(
    fields: dict[str, Any], status: int, kind: str, place: str, stream: bool
) -> None:
    with asking(["x"]) as ask:
        response = ask(PATH, {**ASK, "stream": stream, **fields})
    error = error_of(response)
    assert (response.status_code, error["type"]) == (status, kind), error
    assert place in error["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"user_id": "me"}, "service_tier": "auto", "speed": "standard", "container": None},
        {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "none"}},
        {"output_config": {"effort": "high"}, "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "stop_sequences": []},
    ],
)
def test_what_asks_for_nothing_is_taken(fields: dict[str, Any]) -> None:
    with asking(["x"]) as ask:
        response = ask(PATH, {**ASK, **fields})
    assert response.status_code == 200, response.text


def test_errors_of_every_layer_are_in_anthropics_shape() -> None:
    with asking(["x"], api_key=("sk-one",), max_body=0.01) as ask:
        key = {"x-api-key": "sk-one"}
        answers = {
            401: ask(PATH, ASK),
            413: ask(PATH, {**ASK, "system": "x" * 20_000}, headers=key),
            405: ask(PATH, method="GET", headers=key),
            404: ask("/v1/messages/nothing", headers=key),
            400: ask(PATH, ASK, headers={**key, "anthropic-version": "2023-01-01"}),
            200: ask(PATH, ASK, headers={**key, "anthropic-version": "2026-10-21"}),
        }
        bearer = ask(PATH, ASK, headers={"Authorization": "Bearer sk-one"})
        other = ask("/v1/models/none", headers={**key, "anthropic-version": "2023-06-01"})
    assert {status: answer.status_code for status, answer in answers.items()} == {s: s for s in answers}
    assert bearer.status_code == 200
    kinds = {status: error_of(answer)["type"] for status, answer in answers.items() if status != 200}
    assert kinds == {
        401: "authentication_error",
        413: "request_too_large",
        405: "invalid_request_error",
        404: "not_found_error",
        400: "invalid_request_error",
    }
    assert error_of(other)["type"] == "not_found_error"


def test_an_error_in_mid_stream_is_an_event() -> None:
    with asking([Reply("Hello", error=RuntimeError("at /root/secret/file.py"))]) as ask:
        response = ask(PATH, {**ASK, "stream": True})
        *pieces, last = typed_events_of(response)
        whole = ask(PATH, ASK)
    assert pieces[-1]["type"] == "content_block_delta"
    assert (last["type"], last["error"]["type"]) == ("error", "api_error")
    assert (whole.status_code, error_of(whole)["type"]) == (500, "api_error")
    assert "secret" not in response.text + whole.text
