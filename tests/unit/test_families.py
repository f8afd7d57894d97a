"""How families write tool calls, told from pieces of their chat templates."""

import pytest

from engineroom.families import tool_format_of

TEMPLATES = {
    "hermes": '{%- if tools %}For each call: <tool_call>\\n{"name": <function-name>}</tool_call>{% endif %}',
    "qwen3_coder": "{% if tools %}<tool_call>\n<function=example>\n<parameter=a>\n1</parameter></function>{% endif %}",
    "glm4_moe": "{% if tools %}<tool_call>{name}\n<arg_key>k</arg_key>\n<arg_value>v</arg_value></tool_call>{% endif %}",
    "mistral": "{% if tools %}[AVAILABLE_TOOLS]{{ tools }}[/AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]",
    "llama3_json": "{% if tools %}Environment: ipython {'<|python_tag|>'} {{ tools }}{% endif %}",
    "deepseek": "{% if tools %}<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{% endif %}",
    "kimi_k2": "{% if tools %}<|tool_calls_section_begin|><|tool_call_begin|>{% endif %}",
    "harmony": "{% if tools %}<|start|>developer<|message|>namespace functions {}<|channel|>{% endif %}",
    "granite": "{% if tools %}<|tool_call|>{% endif %}",
    "cohere": "{% if tools %}<|START_ACTION|>{% endif %}",
    "generic": "{% if tools %}{{ tools | tojson }}{% endif %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_marks_tell_the_format(name: str) -> None:
    found = tool_format_of(TEMPLATES[name])
    assert found is not None
    assert found.name == name
    assert found.looks


def test_a_template_without_tools_has_no_format() -> None:
    assert tool_format_of("{% for message in messages %}{{ message.content }}{% endfor %}") is None
