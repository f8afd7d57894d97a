"""``/v1/chat/completions``: whole and streamed, on the scripted engine."""

import logging
from typing import Any

import pytest

from engineroom.engines.scripted import Reply
from serving import CHAT, HI, asking, error_of, events_of, text_of


def test_a_whole_answer_is_in_openais_shape() -> None:
    with asking(["Hello!"]) as ask:
        response = ask(CHAT, {"model": "demo", "messages": HI})
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["id"] == f"chatcmpl-{response.headers['x-request-id']}"
    assert body["model"] == "demo"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello!"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"]["completion_tokens"] == 7
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 7


def test_the_streamed_pieces_are_the_answer() -> None:
    text = 'Grüße, "quotes",\n\u2028 and 😀\x00\\.'
    with asking([text]) as ask:
        response = ask(CHAT, {"messages": HI, "stream": True})
        events = events_of(response)
    assert text_of(events) == text
    assert response.headers["x-accel-buffering"] == "no"
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({(event["id"], event["created"], event["model"]) for event in events}) == 1
    first, *_, last = [event["choices"][0] for event in events]
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")
    assert "usage" not in events[0]


def test_usage_comes_in_an_event_of_its_own_if_asked_for() -> None:
    with asking(["Hello!"]) as ask:
        options = {"include_usage": True}
        *pieces, last = events_of(ask(CHAT, {"messages": HI, "stream": True, "stream_options": options}))
        whole = ask(CHAT, {"messages": HI}).json()
    assert all(piece["usage"] is None for piece in pieces)
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]


def test_vllms_running_counts() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    with asking(["Hey"]) as ask:
        events = events_of(ask(CHAT, {"messages": HI, "stream": True, "stream_options": options}))
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == [0, 1, 2, 3, 4, 4]
    assert len({event["usage"]["prompt_tokens"] for event in events}) == 1


def test_several_answers_whole_and_streamed() -> None:
    with asking(["one", "two", "one", "two"]) as ask:
        whole = ask(CHAT, {"messages": HI, "n": 2}).json()
        events = events_of(ask(CHAT, {"messages": HI, "n": 2, "stream": True}))
    assert [choice["message"]["content"] for choice in whole["choices"]] == ["one", "two"]
    assert whole["usage"]["completion_tokens"] == 8
    single = whole["usage"]["prompt_tokens"]
    assert single < 60
    assert {text_of(events, 0), text_of(events, 1)} == {"one", "two"}
    ends = [c["index"] for event in events for c in event["choices"] if c["finish_reason"]]
    assert sorted(ends) == [0, 1]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_limit_and_its_finish_reason(field: str) -> None:
    with asking(["Hello!"]) as ask:
        choice = ask(CHAT, {"messages": HI, field: 3}).json()["choices"][0]
        events = events_of(ask(CHAT, {"messages": HI, field: 3, "stream": True}))
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hel", "length")
    assert text_of(events) == "Hel"
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_stop_strings_stop() -> None:
    with asking(["one END two"]) as ask:
        choice = ask(CHAT, {"messages": HI, "stop": ["END"]}).json()["choices"][0]
        streamed = text_of(events_of(ask(CHAT, {"messages": HI, "stop": "END", "stream": True})))
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one ", "stop")
    assert streamed == "one "


def test_logprobs_whole_and_streamed() -> None:
    with asking(["Hé"]) as ask:
        whole = ask(CHAT, {"messages": HI, "logprobs": True, "top_logprobs": 1}).json()
        events = events_of(ask(CHAT, {"messages": HI, "logprobs": True, "stream": True}))
    h, half, _, end = whole["choices"][0]["logprobs"]["content"]
    assert h == {
        "token": "H",
        "logprob": 0.0,
        "bytes": [72],
        "top_logprobs": [{"token": "H", "logprob": 0.0, "bytes": [72]}],
    }
    assert half["bytes"] is None
    assert end["token"] == "<|im_end|>"
    content = [e for event in events for e in (event["choices"][0]["logprobs"] or {}).get("content", ())]
    assert [entry["token"] for entry in content] == [entry["token"] for entry in (h, half, half, end)]


def test_token_ids_and_tokens_as_ids() -> None:
    body = {"messages": HI, "logprobs": True, "return_token_ids": True, "return_tokens_as_token_ids": True}
    with asking(["Hi"]) as ask:
        whole = ask(CHAT, body).json()
        events = events_of(ask(CHAT, {**body, "stream": True}))
        tokens = ask("/tokenize", {"messages": HI}).json()["tokens"]
    assert whole["choices"][0]["token_ids"] == [72, 105, 258]
    assert [e["token"] for e in whole["choices"][0]["logprobs"]["content"]] == [
        "token_id:72",
        "token_id:105",
        "token_id:258",
    ]
    assert whole["prompt_token_ids"] == tokens == events[0]["prompt_token_ids"]
    assert [i for event in events for i in event["choices"][0].get("token_ids", ())] == [72, 105, 258]


THINKING = "{% for m in messages %}{{ m.content }}{% endfor %}{# <think> </think> #}"


def test_reasoning_comes_apart_without_tags_and_blank_lines() -> None:
    script = ["<think>\nLet me\n\nsee.\n</think>\n\nIt is 12."]
    with asking(script, engine={"chat_template": THINKING}) as ask:
        message = ask(CHAT, {"messages": HI}).json()["choices"][0]["message"]
        events = events_of(ask(CHAT, {"messages": HI, "stream": True}))
        hidden = events_of(ask(CHAT, {"messages": HI, "stream": True, "include_reasoning": False}))
    assert message == {"role": "assistant", "content": "It is 12.", "reasoning_content": "Let me\n\nsee."}
    assert text_of(events) == "It is 12." == text_of(hidden)
    assert text_of(events, field="reasoning_content") == "Let me\n\nsee."
    assert text_of(hidden, field="reasoning_content") == ""


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "developer", "content": "Be brief."}, *HI],
        [*HI, *HI],
        [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}],
        [*HI, {"role": "assistant", "content": "x", "refusal": None, "annotations": []}, *HI],
        [*HI, {"role": "assistant", "content": None, "refusal": "No."}, *HI],
        [*HI, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, *HI],
        [*HI, {"role": "function", "name": "f", "content": '{"degrees": 20}'}],
        [
            *HI,
            {
                "role": "assistant",
                "content": "text beside",
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "b", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                ],
            },
            {"role": "tool", "tool_call_id": "a", "content": "1"},
            {"role": "tool", "tool_call_id": "b", "content": "2"},
        ],
    ],
)
def test_conversations_of_all_kinds_are_taken(messages: Any) -> None:
    with asking(["ok"]) as ask:
        assert ask(CHAT, {"messages": messages}).json()["choices"][0]["message"]["content"] == "ok"


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"max_tokens": -5}, 400, "max_tokens", "invalid_value"),
        ({"temperature": -1}, 400, "temperature", "invalid_value"),
        ({"temperature": "1"}, 400, "temperature", "invalid_value"),
        ({"top_p": 3}, 400, "top_p", "invalid_value"),
        ({"n": 1_000_000_000}, 400, "n", "invalid_value"),
        ({"n": True}, 400, "n", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 10**6}, 400, "top_logprobs", "invalid_value"),
        ({"top_logprobs": 2}, 400, "top_logprobs", "invalid_value"),
        ({"temprature": 1}, 400, "temprature", "unknown_parameter"),
        ({"messages": []}, 400, "messages", "invalid_value"),
        ({"messages": None}, 400, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": None}]}, 400, "messages[0].content", "invalid_value"),
        ({"messages": [*HI, {"role": "alien", "content": "x"}]}, 400, "messages[1].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, 400, "messages", "context_length_exceeded"),
        ({"frequency_penalty": 1}, 400, "frequency_penalty", "unsupported_parameter"),
        ({"logit_bias": {"99999": 1}}, 400, "logit_bias", "unsupported_parameter"),
        ({"stop_token_ids": [99999]}, 400, "stop_token_ids", "invalid_value"),
        ({"stop_token_ids": [-1]}, 400, "stop_token_ids", "invalid_value"),
        ({"stop": [str(i) for i in range(1000)]}, 400, "stop", "invalid_value"),
        (
            {"stream": False, "stream_options": {"include_usage": True}},
            400,
            "stream_options",
            "invalid_value",
        ),
        ({"stream": True, "stream_options": {"x": 1}}, 400, "stream_options.x", "unknown_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools", "unsupported_parameter"),
        ({"functions": [{}]}, 400, "functions", "unsupported_parameter"),
        ({"tool_choice": "required"}, 400, "tool_choice", "invalid_value"),
        ({"modalities": ["audio"]}, 400, "modalities", "unsupported_parameter"),
        ({"store": True}, 400, "store", "unsupported_parameter"),
        ({"web_search_options": {}}, 400, "web_search_options", "unsupported_parameter"),
        ({"chat_template": "{{ 1 }}"}, 400, "chat_template", "unsupported_parameter"),
        ({"chat_template_kwargs": {"tokenize": True}}, 400, "chat_template_kwargs.tokenize", "invalid_value"),
        ({"reasoning_effort": "high"}, 400, "reasoning_effort", "unsupported_parameter"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, 400, "guided_choice", "invalid_value"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, 400, "structured_outputs", "invalid_value"),
        ({"guided_json": {"type": "object"}}, 400, "guided_json", "unsupported_parameter"),
        ({"structured_outputs": {"regex": "["}}, 400, "structured_outputs", "unsupported_parameter"),
        ({"guided_choice": []}, 400, "guided_choice", "invalid_value"),
        (
            {"chat_template_kwargs": {"enable_thinking": "no"}},
            400,
            "chat_template_kwargs.enable_thinking",
            "invalid_value",
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": True}},
            400,
            "chat_template_kwargs.enable_thinking",
            "invalid_value",
        ),
        ({"continue_final_message": True}, 400, "continue_final_message", "invalid_value"),
        ({"messages": [{**HI[0], "zzz": 1}]}, 400, "messages[0].zzz", "invalid_value"),
        ({"messages": [{**HI[0], "refusal": "No."}]}, 400, "messages[0].refusal", "invalid_value"),
        (
            {"messages": [*HI, {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]},
            400,
            "messages[1].function_call",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "zzz": 1}]}]},
            400,
            "messages[0].content[0].zzz",
            "invalid_value",
        ),
        ({"max_tokens": 3, "max_completion_tokens": 4}, 400, "max_completion_tokens", "invalid_value"),
        ({"timeout": 0}, 400, "timeout", "invalid_value"),
        ({"model": "gpt-9"}, 404, "model", "model_not_found"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cant_be_honoured_is_refused_by_name(
    fields: dict[str, Any], status: int, param: str, code: str, stream: bool
) -> None:
    with asking(["x"]) as ask:
        response = ask(CHAT, {"messages": HI, "stream": stream, **fields})
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (status, param, code), error
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "fields",
    [
        {"store": False, "service_tier": "auto", "verbosity": "medium", "user": "me", "metadata": {"a": "b"}},
        {"modalities": ["text"], "parallel_tool_calls": True, "response_format": {"type": "text"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
        {"functions": None, "audio": None, "logprobs": False, "top_logprobs": 0, "stream_options": None},
        {"min_tokens": 0, "best_of": 1, "use_beam_search": False, "spaces_between_special_tokens": True},
        {"seed": 7, "top_k": 20, "min_p": 0.1, "ignore_eos": False, "n": 1, "timeout": 60},
    ],
)
def test_what_asks_for_nothing_is_taken(fields: dict[str, Any]) -> None:
    with asking(["x"]) as ask:
        response = ask(CHAT, {"messages": HI, **fields})
    assert response.status_code == 200, response.text


def test_an_error_in_mid_stream_is_one_event_and_the_end() -> None:
    with asking([Reply("Hello", error=RuntimeError("at 0xdeadbeef00 in /root/secret/file.py"))]) as ask:
        response = ask(CHAT, {"messages": HI, "stream": True})
        *pieces, last = events_of(response)
        whole = ask(CHAT, {"messages": HI})
    assert response.status_code == 200
    assert text_of(pieces) == "Hello"
    assert all(choice["finish_reason"] is None for piece in pieces for choice in piece["choices"])
    assert last["error"]["code"] == "generation_failed"
    assert (whole.status_code, whole.headers["x-should-retry"]) == (500, "false")
    assert "secret" not in response.text + whole.text
    assert error_of(whole)["type"] == "server_error"


def test_a_dead_engine_is_503_and_not_ready() -> None:
    with asking([Reply("x", die=True)]) as ask:
        assert ask("/ready").status_code == 200
        died = ask(CHAT, {"messages": HI})
        after = ask(CHAT, {"messages": HI, "stream": True})
        ready, health = ask("/ready"), ask("/health")
    assert [error_of(r)["code"] for r in (died, after)] == ["engine_dead", "engine_dead"]
    assert {r.status_code for r in (died, after, ready)} == {503}
    assert (ready.json(), health.status_code) == ({"status": "dead"}, 200)


def test_a_deadline_is_504() -> None:
    slow = Reply("Hello", pause_at=0)
    with asking([slow]) as ask:
        response = ask(CHAT, {"messages": HI, "timeout": 0.05})
    slow.resume.set()
    assert response.status_code == 504
    assert (error_of(response)["code"], response.headers["x-should-retry"]) == ("timeout", "false")


def test_an_answer_that_its_deadline_breaks_off_is_counted_and_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="engineroom.server")
    slow = Reply("Hello", chunk_size=1, pause_at=3)
    with asking([slow]) as ask:
        response = ask(CHAT, {"messages": HI, "timeout": 0.3, "stream": True})
        slow.resume.set()
        figures = ask("/metrics").text
    assert events_of(response)[-1]["error"]["code"] == "timeout"
    assert "engineroom_generated_tokens_total 3.0" in figures
    assert "engineroom_prompt_tokens_total 0.0" not in figures
    assert not [record for record in caplog.records if record.exc_info]
    told = next(vars(record) for record in caplog.records if record.getMessage() == "request")
    assert (told["status"], told["completion_tokens"], told["error"]) == (200, 3, "timeout")


def test_the_servers_own_deadline_holds_for_all() -> None:
    slow = Reply("Hello", pause_at=0)
    with asking([slow], request_timeout=0.05) as ask:
        assert ask(CHAT, {"messages": HI, "timeout": 3600}).status_code == 504
    slow.resume.set()
