"""Going on with an answer: the prompt is what the model itself had before it when it was cut."""

from collections.abc import Generator
from typing import Any

import pytest

from engineroom import ChatModel, Prompt, SamplingParams, ScriptedEngine
from engineroom.errors import ParameterError, UnsupportedError

ASK = {"role": "user", "content": "hi"}
SWITCHED = """\
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""


@pytest.fixture
def model() -> Generator[ChatModel, None, None]:
    with ChatModel(engine=ScriptedEngine([" end</think>\n\n12."], chat_template=SWITCHED)) as model:
        yield model


def begun(model: ChatModel, content: str, thought: str = "", **options: Any) -> Prompt:
    last = {"role": "assistant", "content": content, **({"reasoning_content": thought} if thought else {})}
    return model.render([ASK, last], continue_final=True, **options)


def test_a_cut_text_goes_on_right_behind_itself(model: ChatModel) -> None:
    for text in ("Hello, ", "", "a  b\n"):
        assert begun(model, text).text == model.render([ASK]).text + text
    assert (
        begun(model, "x", enable_thinking=False).text == model.render([ASK], enable_thinking=False).text + "x"
    )


def test_a_cut_thought_goes_on_inside_its_block(model: ChatModel) -> None:
    prompt = begun(model, "", "7 + 5")
    assert prompt.text == model.render([ASK]).text + "<think>\n7 + 5"
    assert prompt.inside_thinking
    deltas = list(
        model.stream_deltas(
            [ASK, {"role": "assistant", "content": "", "reasoning_content": "7 + 5"}], continue_final=True
        )
    )
    assert "".join(d.text for d in deltas if d.channel == "reasoning") == " end</think>"
    assert "".join(d.text for d in deltas if d.channel == "answer") == "\n\n12."


def test_a_cut_text_keeps_the_thought_before_it(model: ChatModel) -> None:
    prompt = begun(model, "It is", "7 + 5")
    assert prompt.text.endswith("<think>\n7 + 5\n</think>\n\nIt is")
    assert not prompt.inside_thinking
    assert begun(model, "It is", "7 + 5", enable_thinking=False).text.endswith("<think>\n\n</think>\n\nIt is")


def test_only_an_assistants_text_can_go_on(model: ChatModel) -> None:
    with pytest.raises(ParameterError, match="assistant message"):
        model.render([ASK], continue_final=True)
    calls = [{"function": {"name": "f", "arguments": {}}}]
    with pytest.raises(ParameterError, match="without tool calls"):
        model.render([ASK, {"role": "assistant", "content": "", "tool_calls": calls}], continue_final=True)


def test_sampling_is_resolved_as_for_a_request(model: ChatModel) -> None:
    assert model.resolve_sampling(max_new_tokens=3) == SamplingParams(temperature=0.0, max_new_tokens=3)
    with pytest.raises(UnsupportedError, match="repetition_penalty"):
        model.resolve_sampling(repetition_penalty=1.5)
    with pytest.raises(ParameterError, match="top_p"):
        model.resolve_sampling(top_p=3)
