"""The public names, and the signatures that code written for LLaMA-Factory relies on."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import engineroom
from engineroom import BaseEngine, ChatModel, Response

CONTEXT = ["self", "messages", "system", "tools", "images", "videos", "audios", "input_kwargs"]


@pytest.mark.parametrize("owner", [ChatModel, BaseEngine])
@pytest.mark.parametrize("name", ["chat", "stream_chat"])
def test_chat_takes_what_it_took(owner: type, name: str) -> None:
    twins = (name, f"a{name}") if owner is ChatModel else (name,)
    for method in (getattr(owner, twin) for twin in twins):
        parameters = inspect.signature(method).parameters
        assert list(parameters) == CONTEXT
        assert all(parameters[p].default is None for p in CONTEXT[2:-1])


def test_scores_and_the_constructor() -> None:
    for method in (ChatModel.get_scores, ChatModel.aget_scores, BaseEngine.get_scores):
        assert list(inspect.signature(method).parameters) == ["self", "batch_input", "input_kwargs"]
    assert inspect.signature(ChatModel).parameters["args"].default is None
    assert inspect.iscoroutinefunction(ChatModel.achat)
    assert inspect.iscoroutinefunction(BaseEngine.chat)
    assert inspect.iscoroutinefunction(BaseEngine.get_scores)
    assert inspect.isasyncgenfunction(ChatModel.astream_chat)
    assert inspect.isasyncgenfunction(BaseEngine.stream_chat)


def test_a_response_and_an_engine_have_the_fields_that_they_had() -> None:
    names = ("response_text", "response_length", "prompt_length", "finish_reason")
    assert Response.__match_args__[:4] == names
    for name in ("name", "model", "tokenizer", "can_generate", "template", "generating_args"):
        assert name in BaseEngine.__annotations__


def test_every_public_name_is_there_and_documented() -> None:
    assert set(dir(engineroom)) >= set(engineroom.__all__)
    for name in engineroom.__all__:
        assert inspect.getdoc(getattr(engineroom, name)), name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = engineroom.no_such_name  # type: ignore[attr-defined]


def test_every_module_says_what_it_is() -> None:
    root = Path(engineroom.__file__).parent
    for file in root.rglob("*.py"):
        if file.name != "__main__.py":
            assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), file


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import engineroom", {"torch", "transformers", "pydantic", "jinja2", "yaml", "asyncio", "typer"}),
        ("import engineroom; engineroom.SamplingParams()", {"torch", "transformers", "pydantic", "jinja2"}),
        ("import engineroom; engineroom.ScriptedEngine()", {"torch", "transformers"}),
        ("import engineroom; engineroom.ChatModel", {"torch", "transformers"}),
        ("from engineroom import ChatModel; ChatModel({'infer_backend': 'scripted'}).close()", {"torch"}),
    ],
)
def test_nothing_is_imported_before_it_is_needed(code: str, absent: set[str]) -> None:
    script = f"import sys; {code}; print(sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
