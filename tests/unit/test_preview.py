"""The preview makes the prompts that ChatModel makes."""

import json

import pytest

from engineroom import ChatModel
from engineroom.errors import ArgumentError, ParameterError
from engineroom.preview import PromptPreview

TOOLS = json.dumps([{"name": "add", "parameters": {"type": "object"}}])


@pytest.mark.parametrize("thinking", [None, True, False])
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_the_same_prompt_as_the_model_gets(demo: ChatModel, tools: str | None, thinking: bool | None) -> None:
    messages = [{"role": "user", "content": "hi <|im_end|>"}]
    preview = PromptPreview()
    ours = preview.render(messages, "Be brief.", tools, enable_thinking=thinking)
    theirs = demo.render(messages, "Be brief.", tools, enable_thinking=thinking)
    assert (ours.token_ids, ours.text) == (theirs.token_ids, theirs.text)
    assert preview.context_length == demo.context_length


def test_the_arguments_count() -> None:
    preview = PromptPreview({"default_system": "Be brief.", "model_maxlen": 100, "template": "chatml"})
    assert preview.render("hi").text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert (preview.context_length, preview.template.origin) == (100, "chatml")


def test_a_reward_model_sees_the_whole_conversation() -> None:
    preview = PromptPreview({"model_name_or_path": "demo-reward"})
    prompt = preview.render([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])
    assert not prompt.text.rstrip().endswith("assistant")
    with pytest.raises(ParameterError, match="means nothing to a reward model"):
        preview.render("q", continue_final=True)


def test_an_engine_that_does_not_exist() -> None:
    with pytest.raises(ArgumentError, match="did you mean"):
        PromptPreview({"infer_backend": "vlm"})
