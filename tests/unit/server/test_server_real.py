"""The server over real weights: what the scripted engine can't show."""

import asyncio
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

import tiny_models
from engineroom import ChatModel
from engineroom.server.app import create_app
from engineroom.server.settings import ServerSettings
from serving import CHAT, error_of, events_of, text_of

SUM = [{"role": "user", "content": "What is 7 plus 5?"}]


def ask(model: ChatModel, path: str, body: Any, **settings: Any) -> httpx.Response:
    app = create_app(model, ServerSettings(**settings))

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            return await client.post(path, json=body, headers={"x-api-key": "root"})

    return asyncio.run(go())


def test_a_real_answer_whole_and_streamed(demo: ChatModel) -> None:
    body = {"messages": SUM, "temperature": 0}
    answer = ask(demo, CHAT, body).json()["choices"][0]["message"]["content"]
    assert answer == demo.chat(SUM, temperature=0)[0].response_text
    assert text_of(events_of(ask(demo, CHAT, {**body, "stream": True}))) == answer


def test_vllms_and_openais_ways_to_ask_for_a_format(demo: ChatModel) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]}
    for fields in (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        {"guided_json": schema},
        {"guided_json": json.dumps(schema)},
        {"structured_outputs": {"json": schema}},
    ):
        answer = ask(demo, CHAT, {"messages": SUM, "max_tokens": 60, "temperature": 0, **fields})
        assert set(json.loads(answer.json()["choices"][0]["message"]["content"])) == {"a"}
    choice = ask(demo, CHAT, {"messages": SUM, "guided_choice": ["cat", "dog"]}).json()["choices"][0]
    assert choice["message"]["content"] in ("cat", "dog")


def test_what_is_drawn_is_repeatable_and_differs_among_n(demo: ChatModel) -> None:
    body = {"prompt": "The", "n": 3, "seed": 7, "temperature": 5, "max_tokens": 8}
    first, second = (ask(demo, "/v1/completions", body).json()["choices"] for _ in range(2))
    assert first == second
    assert len({choice["text"] for choice in first}) > 1


def test_a_prompts_log_probabilities(demo: ChatModel) -> None:
    body = {"prompt": "Hello there", "max_tokens": 1, "prompt_logprobs": 1, "temperature": 0}
    first, *rest = ask(demo, "/v1/completions", body).json()["choices"][0]["prompt_logprobs"]
    assert first is None
    assert all(entry["logprob"] <= 0 for place in rest for entry in place.values())
    assert len(rest) == len(demo.tokenizer.encode_plain("Hello there")) - 1


def test_what_was_found_in_the_cache_is_told(demo: ChatModel) -> None:
    body = {"messages": [{"role": "user", "content": "What is 41 plus 17? " * 20}], "temperature": 0}
    ask(demo, CHAT, body)
    usage = ask(demo, CHAT, body).json()["usage"]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


@pytest.fixture
def adaptable(tiny_folder: Path, tmp_path: Path) -> Generator[tuple[ChatModel, Path], None, None]:
    tiny_models.lora(tiny_folder, tmp_path / "poet", seed=3)
    with ChatModel({"model_name_or_path": str(tiny_folder)}) as model:
        yield model, tmp_path


def test_adapters_are_loaded_chosen_by_name_and_unloaded(adaptable: tuple[ChatModel, Path]) -> None:
    model, folder = adaptable
    settings: dict[str, Any] = {"admin_key": ("root",), "lora_folder": folder}
    named = {"lora_name": "poet", "lora_path": "poet"}
    chat = {"messages": SUM, "temperature": 0, "max_tokens": 8, "logprobs": True}
    assert ask(model, "/v1/load_lora_adapter", named, **settings).json() == {"adapters": ["poet"]}
    taken = ask(model, "/v1/load_lora_adapter", named, **settings)
    base = ask(model, CHAT, chat, **settings).json()
    poet = ask(model, CHAT, {**chat, "model": "poet"}, **settings).json()
    assert (taken.status_code, error_of(taken)["param"]) == (400, "lora_name")
    assert (base["model"], poet["model"]) == (tiny_name(model), "poet")
    assert base["choices"][0]["logprobs"] != poet["choices"][0]["logprobs"]
    assert ask(model, "/v1/unload_lora_adapter", {"lora_name": "poet"}, **settings).json() == {"adapters": []}
    gone = ask(model, CHAT, {**chat, "model": "poet"}, **settings)
    assert (gone.status_code, error_of(gone)["code"]) == (404, "model_not_found")


def tiny_name(model: ChatModel) -> str:
    return Path(model.arguments.model_name_or_path).name
