"""``engineroom embed``: a JSON object for each text, in order."""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engineroom import ChatModel, ScriptedEngine
from engineroom.cli import loading

Run = Callable[..., tuple[int, str, str]]


class LengthEngine(ScriptedEngine):
    """Embeds a text as (its length, 0), unnormalised."""

    async def embed(self, prompts: Any) -> list[tuple[float, ...]]:
        return [(float(len(prompt)), 0.0) for prompt in prompts]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """An embedding model; the list fills with the arguments it got."""
    seen: list[Any] = []

    @contextmanager
    def open_model(arguments: Any) -> Generator[ChatModel, None, None]:
        seen.append(arguments)
        engine = LengthEngine(context_length=40)
        engine.can_generate, engine.can_embed = False, True
        engine.capabilities = {**engine.capabilities, "embed": "native"}
        with ChatModel(engine=engine) as model:
            yield model

    monkeypatch.setattr(loading, "open_model", open_model)
    return seen


def test_an_object_a_line_in_order(program: Run, asked: list[Any]) -> None:
    code, out, err = program("embed", "a", "abc")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"index": 0, "embedding": [1.0, 0.0], "prompt_tokens": 1},
        {"index": 1, "embedding": [1.0, 0.0], "prompt_tokens": 3},
    ]
    assert (code, err) == (0, "")
    assert (asked[0].model_name_or_path, asked[0].stage) == ("demo", "embed")


def test_ids_files_and_dimensions(program: Run, asked: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"text": "ab", "id": "x"}\n{"messages": [{"role": "user", "content": "hi"}]}\n')
    code, out, _ = program("embed", "--file", str(file), "--dimensions", "1")
    first, second = (json.loads(line) for line in out.splitlines())
    assert (code, first) == (0, {"index": 0, "id": "x", "embedding": [1.0], "prompt_tokens": 2})
    assert second["prompt_tokens"] > 2


def test_what_can_not_be_embedded_is_named_and_those_before_it_are_done(
    program: Run, asked: list[Any]
) -> None:
    code, out, err = program("embed", "--json", "ok", "x" * 100)
    assert (code, out.count("\n")) == (2, 1)
    assert json.loads(err)["error"]["what"].startswith("text 2:")


def test_nothing_to_embed(program: Run, asked: list[Any]) -> None:
    code, _, err = program("embed")
    assert (code, asked) == (2, [])
    assert "there is nothing to embed" in err
