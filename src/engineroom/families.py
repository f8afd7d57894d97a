"""Facts about model families, as data. What a family does is told by marks in its chat template, never by its name."""

from __future__ import annotations

from dataclasses import dataclass

THINKING_TAGS: tuple[tuple[str, str], ...] = (("<think>", "</think>"),)
"""How a thinking block opens and closes; the closing tag stands in the chat template of a model that thinks."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a family writes a tool call.

    Attributes:
        name: one word, as engines call their parsers where they have one.
        marks: strings that all stand in the chat template of a model of this family.
        looks: how a call looks, for people.
    """

    name: str
    marks: tuple[str, ...]
    looks: str


TOOL_FORMATS: tuple[ToolFormat, ...] = (
    ToolFormat(
        "qwen3_coder",
        ("<tool_call>", "<function=", "<parameter="),
        "<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>",
    ),
    ToolFormat(
        "glm4_moe",
        ("<tool_call>", "<arg_key>", "<arg_value>"),
        "<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>",
    ),
    ToolFormat(
        "minimax", ("<minimax:tool_call>",), '<minimax:tool_call><invoke name="NAME">…</minimax:tool_call>'
    ),
    ToolFormat("hermes", ("<tool_call>",), '<tool_call>{"name": NAME, "arguments": {…}}</tool_call>'),
    ToolFormat(
        "kimi_k2",
        ("<|tool_calls_section_begin|>",),
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}",
    ),
    ToolFormat(
        "deepseek",
        ("<｜tool▁call▁begin｜>",),
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{…}<｜tool▁call▁end｜>",
    ),
    ToolFormat("mistral", ("[TOOL_CALLS]",), '[TOOL_CALLS][{"name": NAME, "arguments": {…}}]'),
    ToolFormat(
        "harmony",
        ("<|start|>", "<|channel|>", "functions"),
        "<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>",
    ),
    ToolFormat("cohere", ("<|START_ACTION|>",), '<|START_ACTION|>[{"tool_name": NAME, "parameters": {…}}]'),
    ToolFormat("granite", ("<|tool_call|>",), '<|tool_call|>[{"name": NAME, "arguments": {…}}]'),
    ToolFormat("llama3_json", ("<|python_tag|>",), '{"name": NAME, "parameters": {…}}'),
    ToolFormat("llama3_json", ("ipython", '"parameters"'), '{"name": NAME, "parameters": {…}}'),
    ToolFormat("generic", ("tools",), "a form that engineroom does not know"),
)
"""From the most particular to the most general: the first whose marks are all there is the one."""


def tool_format_of(template: str) -> ToolFormat | None:
    """How a model with this chat template writes tool calls; None if the template has no place for tools."""
    return next((form for form in TOOL_FORMATS if all(mark in template for mark in form.marks)), None)
