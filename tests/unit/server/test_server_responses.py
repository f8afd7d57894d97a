"""``/v1/responses``: whole and streamed, on the scripted engine."""

from typing import Any

import pytest

from engineroom.engines.scripted import Reply
from engineroom.server.convert.response_request import conversation
from engineroom.server.wire.responses import ResponsesRequest
from engineroom.types import (
    AudioPart,
    ImagePart,
    Message,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from serving import asking, error_of, typed_events_of

PATH = "/v1/responses"
THINKING = "{% for m in messages %}{{ m.content }}{% endfor %}{# <think> </think> #}"


def test_a_whole_answer_is_in_openais_shape() -> None:
    with asking(["Hello!"]) as ask:
        response = ask(PATH, {"input": "hi", "instructions": "Be kind.", "metadata": {"a": "b"}})
        prompt = ask(
            "/render",
            {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]},
        ).json()
        counted = ask(f"{PATH}/input_tokens", {"input": "hi", "instructions": "Be kind."}).json()
    body = response.json()
    name = response.headers["x-request-id"]
    assert body["id"] == f"resp_{name}"
    assert (body["object"], body["status"], body["error"]) == ("response", "completed", None)
    assert body["output"] == [
        {
            "id": f"msg_{name}",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello!", "annotations": [], "logprobs": []}],
        }
    ]
    assert (body["usage"]["input_tokens"], body["usage"]["output_tokens"]) == (prompt["count"], 7)
    assert body["usage"]["total_tokens"] == prompt["count"] + 7
    assert (body["store"], body["instructions"], body["metadata"]) == (False, "Be kind.", {"a": "b"})
    assert counted == {"object": "response.input_tokens", "input_tokens": prompt["count"]}


def test_the_events_are_typed_numbered_and_hold_the_answer() -> None:
    text = 'Grüße, "quotes",\n\u2028 and 😀\x00\\.'
    with asking([text, text]) as ask:
        events = typed_events_of(ask(PATH, {"input": "hi", "stream": True}))
        whole = ask(PATH, {"input": "hi"}).json()
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *(["output_text.delta"] * len(deltas)),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert "".join(deltas) == text == events[-4]["text"] == events[-3]["part"]["text"]
    assert events[0]["response"]["status"] == events[1]["response"]["status"] == "in_progress"
    assert (events[0]["response"]["output"], events[0]["response"]["usage"]) == ([], None)
    final = events[-1]["response"]
    assert final["output"] == [events[-2]["item"]]
    for changed in ("id", "created_at"):
        final.pop(changed), whole.pop(changed)
    final["output"][0].pop("id"), whole["output"][0].pop("id")
    assert final == whole


def test_the_limit_makes_an_answer_incomplete() -> None:
    with asking(["Hello!"]) as ask:
        whole = ask(PATH, {"input": "hi", "max_output_tokens": 3}).json()
        *_, last = typed_events_of(ask(PATH, {"input": "hi", "max_output_tokens": 3, "stream": True}))
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (whole["output"][0]["status"], whole["output"][0]["content"][0]["text"]) == ("incomplete", "Hel")
    assert (last["type"], last["response"]["output"][0]["content"][0]["text"]) == (
        "response.incomplete",
        "Hel",
    )


def test_thoughts_are_an_item_of_their_own() -> None:
    script = ["<think>\nLet me see.\n</think>\n\nIt is 12."]
    with asking(script, engine={"chat_template": THINKING}) as ask:
        whole = ask(PATH, {"input": "hi"}).json()
        events = typed_events_of(ask(PATH, {"input": "hi", "stream": True}))
        cut = ask(PATH, {"input": "hi", "max_output_tokens": 4}).json()
    thought, said = whole["output"]
    assert (thought["type"], thought["summary"]) == ("reasoning", [])
    assert thought["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert said["content"][0]["text"] == "It is 12."
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] == len("\nLet me see.\n\n\n") + 2
    deltas = [event for event in events if event["type"] == "response.reasoning_text.delta"]
    assert "".join(event["delta"] for event in deltas) == "Let me see."
    assert {event["output_index"] for event in deltas} == {0}
    said = [event for event in events if event["type"] == "response.output_text.delta"]
    assert {event["output_index"] for event in said} == {1}
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [(item["type"], item["status"]) for item in cut["output"]] == [("reasoning", "incomplete")]
    assert cut["usage"]["output_tokens_details"]["reasoning_tokens"] == 4


def test_an_answer_without_text_is_an_empty_message() -> None:
    with asking([""]) as ask:
        whole = ask(PATH, {"input": "hi"}).json()
    assert [item["content"][0]["text"] for item in whole["output"]] == [""]


def test_logprobs() -> None:
    wanted = {"input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 1}
    with asking(["Hé"]) as ask:
        whole = ask(PATH, wanted).json()
        events = typed_events_of(ask(PATH, {**wanted, "stream": True}))
    entries = whole["output"][0]["content"][0]["logprobs"]
    assert [entry["token"] for entry in entries][::3] == ["H", "<|im_end|>"]
    assert [len(entry["top_logprobs"]) for entry in entries] == [1] * 4
    streamed = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [entry for event in streamed for entry in event["logprobs"]] == entries
    assert "".join(event["delta"] for event in streamed) == "Hé"


def test_items_become_messages() -> None:
    body = ResponsesRequest.model_validate(
        {
            "instructions": "Be kind.",
            "input": [
                {"role": "developer", "content": "And brief."},
                {
                    "type": "message",
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "Look"},
                        {"type": "input_image", "image_url": "data:x", "detail": "low"},
                        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                    ],
                },
                {
                    "type": "reasoning",
                    "id": "rs_1",
                    "summary": [],
                    "encrypted_content": None,
                    "content": [{"type": "reasoning_text", "text": "Hm."}],
                },
                {
                    "type": "message",
                    "id": "msg_1",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": "Wait.", "annotations": [], "logprobs": []}],
                },
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
                {"type": "function_call_output", "call_id": "c1", "output": "7"},
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
                {"role": "assistant", "content": "Really."},
            ],
        }
    )
    assert conversation(body) == [
        Message("system", (TextPart("Be kind."),)),
        Message("system", (TextPart("And brief."),)),
        Message(
            "user",
            (
                TextPart("Look"),
                ImagePart({"url": "data:x", "detail": "low"}),
                AudioPart({"data": "AA==", "format": "wav"}),
            ),
        ),
        Message("assistant", (ReasoningPart("Hm."), TextPart("Wait."), ToolCallPart("f", {"a": 1}, "c1"))),
        Message("tool", (ToolResultPart("7", call_id="c1"),)),
        Message("assistant", (TextPart("No."),)),
        Message("assistant", (TextPart("Really."),)),
    ]


def user(**fields: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": "x", **fields}]}


def part(**fields: Any) -> dict[str, Any]:
    return user(content=[{"type": "input_text", "text": "x"}, fields])


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"input": None}, 400, "input", "invalid_value"),
        ({"input": []}, 400, "input", "invalid_value"),
        ({"input": 7}, 400, "input", "invalid_value"),
        ({"input": ["x"]}, 400, "input[0]", "invalid_value"),
        ({"input": "x" * 9000}, 400, "input", "context_length_exceeded"),
        (user(role="alien"), 400, "input[0].role", "invalid_value"),
        (user(content=None), 400, "input[0].content", "invalid_value"),
        (user(x=1), 400, "input[0].x", "unknown_parameter"),
        (user(phase="commentary"), 400, "input[0].phase", "unsupported_parameter"),
        (part(type="input_text"), 400, "input[0].content[1].text", "missing_field"),
        (part(type="input_text", text="\ud800"), 400, "input", "invalid_value"),
        (part(type="alien"), 400, "input[0].content[1]", "invalid_value"),
        (part(type="input_file", file_id="f"), 400, "input[0].content[1]", "invalid_value"),
        (part(type="input_image", file_id="f"), 400, "input[0].content[1]", "invalid_value"),
        (part(type="input_image", image_url="data:x"), 400, "input[0].content[1]", "unsupported_parameter"),
        (
            part(type="input_audio", input_audio={"data": "AA==", "format": "wav"}),
            400,
            "input[0].content[1]",
            "unsupported_parameter",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, 400, "input[0]", "invalid_value"),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]},
            400,
            "input[0].arguments",
            "invalid_value",
        ),
        (
            {"input": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}]},
            400,
            "input[0].summary",
            "unsupported_parameter",
        ),
        ({"max_output_tokens": 0}, 400, "max_output_tokens", "invalid_value"),
        ({"max_tokens": 5}, 400, "max_tokens", "unknown_parameter"),
        ({"temperature": 101}, 400, "temperature", "invalid_value"),
        ({"frequency_penalty": 1}, 400, "frequency_penalty", "unsupported_parameter"),
        ({"top_logprobs": 1000}, 400, "top_logprobs", "invalid_value"),
        ({"include": ["everything"]}, 400, "include[0]", "invalid_value"),
        ({"text": {"format": {"type": "json_schema"}}}, 400, "text.format.schema", "missing_field"),
        ({"text": {"format": {"type": "xml"}}}, 400, "text.format", "invalid_value"),
        ({"text": {"format": {"type": "json_object"}}}, 400, "text.format", "unsupported_parameter"),
        ({"text": {"verbosity": "low"}}, 400, "text.verbosity", "unsupported_parameter"),
        ({"reasoning": {"effort": "high"}}, 400, "reasoning.effort", "unsupported_parameter"),
        ({"reasoning": {"summary": "auto"}}, 400, "reasoning.summary", "unsupported_parameter"),
        ({"store": True}, 400, "store", "unsupported_parameter"),
        ({"background": True}, 400, "background", "unsupported_parameter"),
        ({"previous_response_id": "resp_1"}, 400, "previous_response_id", "unsupported_parameter"),
        ({"conversation": "conv_1"}, 400, "conversation", "unsupported_parameter"),
        ({"truncation": "auto"}, 400, "truncation", "unsupported_parameter"),
        ({"prompt": {"id": "p"}}, 400, "prompt", "unsupported_parameter"),
        ({"tools": [{"type": "web_search"}]}, 400, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, 400, "tool_choice", "invalid_value"),
        ({"model": "gpt-9"}, 404, "model", "model_not_found"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cant_be_honoured_is_refused_by_name(
    fields: dict[str, Any], status: int, param: str, code: str, stream: bool
) -> None:
    with asking(["x"]) as ask:
        response = ask(PATH, {"input": "hi", "stream": stream, **fields})
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (status, param, code), error


@pytest.mark.parametrize(
    "fields",
    [
        {"store": False, "background": False, "truncation": "disabled", "service_tier": "auto", "user": "me"},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "include": []},
        {"tools": [{"type": "web_search"}], "tool_choice": "none"},
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}, "previous_response_id": None},
        {"reasoning": None, "prompt_cache_key": "k", "include": ["reasoning.encrypted_content"]},
        {"seed": 7, "top_k": 20, "stop": ["END"], "timeout": 60, "stream_options": {}},
    ],
)
def test_what_asks_for_nothing_is_taken(fields: dict[str, Any]) -> None:
    with asking(["x"]) as ask:
        response = ask(PATH, {"input": "hi", **fields})
    assert response.status_code == 200, response.text


def test_an_error_in_mid_stream_is_told_and_ends_the_response() -> None:
    with asking([Reply("Hello", error=RuntimeError("at /root/secret/file.py"))]) as ask:
        response = ask(PATH, {"input": "hi", "stream": True})
        *_, error, last = typed_events_of(response)
        whole = ask(PATH, {"input": "hi"})
    assert (error["type"], error["code"], error["error"]["code"]) == (
        *("error", "generation_failed"),
        "generation_failed",
    )
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"]["message"] == error["message"]
    assert last["sequence_number"] == error["sequence_number"] + 1
    assert (whole.status_code, error_of(whole)["code"]) == (500, "generation_failed")
    assert "secret" not in response.text + whole.text
