"""Reading what callers send: understood in every dialect, refused by place."""

import copy
from typing import Any

import pytest

from engineroom import Message, Tool
from engineroom.errors import MessageError
from engineroom.render import parse_messages, parse_tools
from engineroom.types import ImagePart, ReasoningPart, TextPart, ToolCallPart, ToolResultPart


def test_llama_factorys_and_openais_dialects() -> None:
    call = {"name": "f", "arguments": {"a": 1}}
    parsed = parse_messages(
        [
            {"role": "developer", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "function", "content": '[{"name": "f", "arguments": {"a": 1}}]'},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": call}],
            },
            {"role": "observation", "content": "r"},
            {"role": "tool", "content": "r", "tool_call_id": "1", "name": "f"},
            {"role": "assistant", "content": "x", "reasoning_content": "t", "refusal": None, "audio": None},
        ]
    )
    assert [m.role for m in parsed] == [
        "system",
        "user",
        "assistant",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    assert parsed[1].text == "ab"
    assert parsed[2].parts == (ToolCallPart("f", {"a": 1}),)
    assert parsed[3].parts == (ToolCallPart("f", {"a": 1}, "1"),)
    assert parsed[5].parts == (ToolResultPart("r", "f", "1"),)
    assert parsed[6].parts == (ReasoningPart("t"), TextPart("x"))


def test_the_callers_values_are_not_changed() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    before = copy.deepcopy(messages)
    parsed = parse_messages(messages, system="s", images=["i"])
    assert messages == before
    assert parsed[0].parts == (ImagePart("i"), TextPart("s"))


def test_media_of_a_tools_result_are_not_lost() -> None:
    parts = [{"type": "text", "text": "r"}, {"type": "image_url", "image_url": "u"}]
    assert parse_messages([{"role": "tool", "content": parts}])[0].parts == (
        ImagePart("u"),
        ToolResultPart("r"),
    )


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"content": "x"}, r"\.role is None"),
        ({"role": 5, "content": "x"}, r"\.role is 5"),
        ({"role": "usr", "content": "x"}, "did you mean user"),
        ({"role": "user"}, r"\.content is null"),
        ({"role": "user", "content": {"type": "text"}}, r"\.content is dict"),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, r"\.content\[0\]\.text"),
        ({"role": "user", "content": [{"type": "smell"}]}, r"\.content\[0\]\.type"),
        ({"role": "user", "content": ["x"]}, r"\.content\[0\] is a str"),
        ({"role": "user", "content": "x", 5: 6}, r"\[5\] is an unknown key"),
        ({"role": "user", "content": "x", "name": 5}, r"\.name is int"),
        (
            {"role": "user", "content": "x", "tool_calls": [{"name": "f"}]},
            "belongs to a message of the assistant",
        ),
        ({"role": "user", "content": "x", "reasoning_content": "t"}, "belongs to a message of the assistant"),
        ({"role": "user", "content": "x", "tool_call_id": "1"}, "belongs to a message of the tool"),
        ({"role": "tool", "content": "x", "tool_call_id": 1}, r"\.tool_call_id is int"),
        ({"role": "assistant", "tool_calls": "f"}, r"\.tool_calls must be a list"),
        ({"role": "assistant", "tool_calls": [5]}, r"\.tool_calls\[0\] must be a mapping"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": 3}}]}, r"\.tool_calls\[0\]\.name"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}, "not valid JSON"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}, "must be a JSON object"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "id": 3}]}, r"\.id is int"),
        ({"role": "function", "content": "["}, "not valid JSON"),
    ],
)
def test_a_malformed_message_is_refused_by_place(message: dict[Any, Any], says: str) -> None:
    with pytest.raises(MessageError, match=says) as refusal:
        parse_messages([{"role": "user", "content": "x"}, message])
    assert "messages[1]" in str(refusal.value)


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        (5, "list"),
        ({"name": "f"}, "list"),
        ("{", "JSON"),
        ([5], r"tools\[0\]"),
        ([{"name": "f"}, {}], r"tools\[1\]\.name"),
        ([{"type": "web_search"}], "not a function"),
        ([{"name": "f", "parameters": 5}], "JSON Schema"),
        ([{"name": "f", "description": 5}], r"description is int"),
        ([{"name": "f", "paramters": {}}], r"tools\[0\]\.paramters is an unknown key"),
    ],
)
def test_malformed_tools_are_refused_by_place(tools: Any, says: str) -> None:
    with pytest.raises(MessageError, match=says):
        parse_tools(tools)


def test_tools_in_every_form() -> None:
    tool = Tool("f", "d", {"type": "object"})
    bare = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    for form in ([tool], [bare], [{"type": "function", "function": bare}]):
        assert parse_tools(form) == (tool,)
    assert parse_tools('[{"name": "f", "description": "d", "parameters": {"type": "object"}}]') == (tool,)
    assert parse_tools(None) == parse_tools("") == parse_tools([]) == ()


def test_a_message_of_ours_passes() -> None:
    message = Message("user", (TextPart("x"),), name="n")
    assert parse_messages([message]) == (message,)


def test_what_openai_has_for_refusals_and_for_a_functions_result() -> None:
    parsed = parse_messages(
        [
            {"role": "assistant", "content": None, "refusal": "No."},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"role": "function", "name": "f", "content": '{"degrees": 20}'},
        ]
    )
    assert parsed == (
        Message("assistant", (TextPart("No."),)),
        Message("assistant", (TextPart("No."),)),
        Message("tool", (ToolResultPart('{"degrees": 20}', "f"),)),
    )
