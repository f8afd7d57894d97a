"""Structured output on the huggingface engine, and the process that compiles formats."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from engineroom import ChatModel
from engineroom.engines.grammar import compiler as compiler_module
from engineroom.engines.grammar.compiler import FormatCompiler
from engineroom.engines.huggingface.structured import apply_bitmask, new_bitmask
from engineroom.errors import EngineNotInstalledError, ParameterError
from engineroom.params import ResponseFormat

YES_NO: dict[str, Any] = {"type": "choice", "choices": ["yes", "no"]}


@pytest.fixture(scope="module")
def model() -> Iterator[ChatModel]:
    with ChatModel({"infer_dtype": "float32"}) as model:
        yield model


@pytest.fixture
async def compiler(model: ChatModel) -> Any:
    tokenizer = model.tokenizer
    compiler = FormatCompiler(tokenizer, tokenizer.vocab_size + 40, tokenizer.eos_token_ids)
    yield compiler
    compiler.close()


def test_a_mask_is_applied_by_rows_past_the_vocabularys_last_word() -> None:
    logits = torch.zeros(3, 70)
    mask = new_bitmask(3, 70)
    assert mask.shape == (3, 3)
    mask[1] = 0
    mask[1, 0], mask[1, 2] = -(2**31), 1 << 5  # bit 31 of the first word: the sign
    masked = apply_bitmask(logits, mask)
    assert torch.equal(masked[0], logits[0])
    assert torch.equal(masked[2], logits[2])
    assert (masked[1] == 0).nonzero().flatten().tolist() == [31, 69]
    assert bool((logits == 0).all())


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"temperature": 2.0, "seed": 1}, {"n": 3, "temperature": 2.0}]
)
def test_answers_keep_to_the_format(model: ChatModel, options: dict[str, Any]) -> None:
    for answer in model.chat("hello", response_format=YES_NO, **options):
        assert answer.response_text in ("yes", "no")
        assert answer.finish_reason == "stop"


def test_log_probabilities_stay_the_models_own(model: ChatModel) -> None:
    free = model.chat("hello", temperature=0, max_new_tokens=1, logprobs=2)[0].logprobs
    kept = model.chat("hello", temperature=0, max_new_tokens=1, logprobs=2, response_format=YES_NO)[
        0
    ].logprobs
    assert free is not None
    assert kept is not None
    assert [i for i, _ in kept[0].top] == [i for i, _ in free[0].top]


def test_special_tokens_are_no_text(model: ChatModel) -> None:
    (special,) = model.tokenizer.encode("<|im_start|>")
    form = {"type": "regex", "pattern": "[a-z<>|_]{12}"}
    answer = model.chat("hello", response_format=form, logit_bias={special: 100}, skip_special_tokens=False)[
        0
    ]
    assert special not in answer.token_ids


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ignore_eos": True}, "ignore_eos leaves none"),
        ({"num_beams": 2}, "num_beams"),
        ({"continue_final": True}, "continue_final"),
    ],
)
def test_what_can_not_go_with_it_is_refused(model: ChatModel, options: dict[str, Any], says: str) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "I"}]
    with pytest.raises(ParameterError, match=says):
        model.chat(messages if "continue_final" in options else "hi", response_format=YES_NO, **options)


def test_a_prompt_that_ends_inside_a_thinking_block_is_refused(model: ChatModel, tmp_path: Any) -> None:
    template = tmp_path / "thinking.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n{% if enable_thinking is not false %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}",
        encoding="utf-8",
    )
    with ChatModel({"infer_dtype": "float32", "template": str(template)}) as thinking:
        with pytest.raises(ParameterError, match="enable_thinking=false"):
            thinking.chat("hi", response_format=YES_NO)
        answer = thinking.chat("hi", response_format=YES_NO, enable_thinking=False)[0]
        assert answer.response_text in ("yes", "no")


async def test_a_format_is_compiled_once(compiler: FormatCompiler) -> None:
    form = ResponseFormat("regex", "a+")
    assert await compiler.compile(form) is await compiler.compile(form)


@pytest.mark.slow
async def test_what_takes_too_long_is_refused_and_the_next_is_compiled(
    compiler: FormatCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    await compiler.compile(ResponseFormat("json_object"))
    large = ResponseFormat("choice", json.dumps([f"value {i} of many" for i in range(3000)]))
    with monkeypatch.context() as patch:
        patch.setattr(compiler_module, "COMPILE_LIMIT", 0.001)
        with pytest.raises(ParameterError, match="too complex"):
            await compiler.compile(large)
    assert (await compiler.compile(ResponseFormat("regex", "b+"))).text.startswith("root ::=")


@pytest.mark.slow
async def test_a_grammar_that_gets_slower_and_slower_is_refused(compiler: FormatCompiler) -> None:
    hostile = "root ::= (" + " | ".join(f"[a-z]{{1,{i}}}" for i in range(1, 60)) + ")*"
    with pytest.raises(ParameterError, match=r"too ambiguous|too complex"):
        await compiler.compile(ResponseFormat("grammar", hostile))
    await compiler.compile(ResponseFormat("regex", "c+"))


@pytest.mark.slow
async def test_a_worker_that_was_killed_is_replaced(compiler: FormatCompiler) -> None:
    await compiler.compile(ResponseFormat("regex", "d+"))
    worker = compiler._worker  # pyright: ignore[reportPrivateUsage]
    assert worker is not None
    worker.kill()
    worker.wait()
    await compiler.compile(ResponseFormat("regex", "e+"))


async def test_without_xgrammar_the_error_says_how_to_get_it(
    compiler: FormatCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler_module, "find_spec", lambda name: None)
    with pytest.raises(EngineNotInstalledError, match=r"engineroom\[structured\]"):
        await compiler.compile(ResponseFormat("regex", "f+"))


@pytest.mark.slow
def test_xgrammar_is_not_imported_unless_it_is_used() -> None:
    import subprocess

    code = (
        "import sys; from engineroom import ChatModel; m = ChatModel(); m.chat('hi', max_new_tokens=1); m.close();"
        "assert 'xgrammar' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
