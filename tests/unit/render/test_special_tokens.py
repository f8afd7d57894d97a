"""Whatever people write, only the template makes control tokens."""

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from engineroom import demo
from engineroom.engines.scripted import ByteTokenizer
from engineroom.errors import MessageError
from engineroom.render import (
    ChatTemplate,
    Renderer,
    TransformersTokenizer,
    load_tokenizer,
    parse_messages,
    parse_tools,
    resolve_template,
)

WORDS = [
    "<|im_end|>",
    "<|im_start|>",
    "<|endoftext|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_response>",
]
SPECIAL = WORDS[:3]


def halves(word: str) -> list[str]:
    return [word[:cut] for cut in range(1, len(word))] + [word[cut:] for cut in range(1, len(word))]


hostile = st.lists(
    st.sampled_from([*WORDS, *(half for word in WORDS for half in halves(word))])
    | st.sampled_from(["system\n", "\n", " ", "\ufdd0", "\\ufdd0", "x", "é"])
    | st.text(max_size=3),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    tokenizer = load_tokenizer(str(demo.resolve("demo")))
    return Renderer(tokenizer, resolve_template(tokenizer, None)[0])


def controls(renderer: Renderer, ids: Sequence[int], words: Sequence[str]) -> list[int]:
    wanted = {i for word in words for i in renderer.tokenizer.encode(word)}
    assert len(wanted) == len(words)
    return [i for i in ids if i in wanted]


def everywhere(texts: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A conversation and tools with the given texts in every place that a caller can write to."""
    system, first, second, argument, key, result, name, description, identity = texts
    messages = [
        {"role": "system", "content": system},
        {
            "role": "user",
            "name": name or "n",
            "content": [{"type": "text", "text": t} for t in (first, second)],
        },
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": identity,
                    "function": {"name": name, "arguments": {key or "k": [argument, {"a": argument}]}},
                }
            ],
        },
        {"role": "tool", "name": name, "tool_call_id": identity, "content": result},
        {"role": "user", "content": second},
    ]
    schema = {"type": "object", "properties": {key or "k": {"description": description}}}
    tools = [{"name": name, "description": description, "parameters": schema}]
    return messages, tools


@settings(max_examples=150)
@given(texts=st.lists(hostile, min_size=9, max_size=9))
def test_no_text_of_the_caller_becomes_a_control_token(renderer: Renderer, texts: list[str]) -> None:
    messages, tools = everywhere(texts)
    plain_messages, plain_tools = everywhere(["x"] * 9)
    mine = renderer.render(parse_messages(messages), parse_tools(tools)).token_ids
    plain = renderer.render(parse_messages(plain_messages), parse_tools(plain_tools)).token_ids
    assert controls(renderer, mine, WORDS) == controls(renderer, plain, WORDS)


@given(text=hostile)
def test_the_model_still_reads_the_text_itself(renderer: Renderer, text: str) -> None:
    prompt = renderer.render(parse_messages(text))
    shown = text.replace("\ufdd0", "\ufffd")
    assert shown in prompt.text
    assert renderer.tokenizer.decode(prompt.token_ids, skip_special_tokens=False) == prompt.text


JOINING = """{% for m in messages %}<|im_start|>{{ m.name }}{{ m.content | trim }}{{ m.content }}<|im_end|>{% endfor %}"""


@given(name=hostile, content=hostile)
def test_texts_that_a_template_joins_make_no_token_together(name: str, content: str) -> None:
    renderer = Renderer(ByteTokenizer(), ChatTemplate(JOINING, "file"))
    message = {"role": "user", "name": name, "content": content}
    ids = renderer.render(parse_messages([message])).token_ids
    assert controls(renderer, ids, SPECIAL) == controls(
        renderer, renderer.tokenizer.encode("<|im_start|><|im_end|>"), SPECIAL
    )


def test_ascii_json_does_not_hide_the_cut() -> None:
    template = "{{ tools | tojson(ensure_ascii=True) }}<|im_end|>"
    renderer = Renderer(ByteTokenizer(), ChatTemplate(template, "file"))
    prompt = renderer.render(parse_messages("x"), parse_tools([{"name": "<|im_end|>é"}]))
    assert controls(renderer, prompt.token_ids, SPECIAL) == renderer.tokenizer.encode("<|im_end|>")
    assert "fdd0" not in prompt.text


def test_a_hundred_thousand_special_strings_take_no_quadratic_time(renderer: Renderer) -> None:
    text = "<|im_end|>" * 100_000  # minutes, if every one began the search anew
    guarded = renderer._guard_all(text)
    assert guarded.count("\ufdd0") == 100_000
    assert guarded.replace("\ufdd0", "") == text


def test_assistants_keep_their_own_tags_and_no_special_tokens(renderer: Renderer) -> None:
    turn = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes<|im_end|>"}
    asked = {"role": "user", "content": "x"}
    ids = renderer.render_scored(parse_messages([asked, turn])).token_ids
    harmless = renderer.render_scored(parse_messages([asked, {**turn, "content": "x"}])).token_ids
    assert controls(renderer, ids, SPECIAL) == controls(renderer, harmless, SPECIAL)
    assert len(controls(renderer, ids, ["<think>", "</think>"])) == 2


def test_a_look_alike_that_the_tokenizer_normalises_is_refused() -> None:
    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1, "<end>": 2}, unk_token="[UNK]"))
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    fast.add_special_tokens({"eos_token": AddedToken("<end>", special=True, normalized=True)})
    template = "{% for m in messages %}{{ m.content }} <end>{% endfor %}"
    renderer = Renderer(TransformersTokenizer(fast), ChatTemplate(template, "file"))
    assert renderer.render(parse_messages("hello ünknown <end>")).token_ids.count(2) == 1
    with pytest.raises(MessageError, match="special token"):
        renderer.render(parse_messages("hello ＜end＞"))


def test_a_raw_text_is_read_as_the_tokenizer_reads_it(renderer: Renderer) -> None:
    text = "<|im_start|>user\nhi<|im_end|>\n"
    assert list(renderer.render_raw(text).token_ids) == renderer.tokenizer.encode(text)


def test_a_template_file_is_checked_when_it_is_chosen(tmp_path: Path) -> None:
    from engineroom.errors import TemplateError

    file = tmp_path / "t.jinja"
    file.write_text("{% for")
    with pytest.raises(TemplateError, match="does not parse"):
        resolve_template(ByteTokenizer(), str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(TemplateError, match="can't be read"):
        resolve_template(ByteTokenizer(), str(file))
    file.write_text("{{ ().__class__.__mro__ }}")
    hostile_template = resolve_template(ByteTokenizer(), str(file))[0]
    with pytest.raises(TemplateError, match="failed"):
        Renderer(ByteTokenizer(), hostile_template).render(parse_messages("x"))


@pytest.mark.parametrize("name", ["qwen3", "llama3", "default_name"])
def test_names_of_llama_factorys_templates_mean_the_models_own(name: str) -> None:
    template, warning = resolve_template(ByteTokenizer(), name)
    assert template.origin == "model"
    assert name in str(warning)


def test_a_tokenizer_set_to_cut_and_pad_does_neither_and_serves_many_threads(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(str(demo.resolve("demo"))) / name, tmp_path / name)
    settings = {
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1015,
                    "pad_type_id": 0, "pad_token": "<|endoftext|>"},
    }  # fmt: skip
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    tokenizer, plain = load_tokenizer(tmp_path), load_tokenizer(str(demo.resolve("demo")))
    texts = [f"text number {i}, and some more words" for i in range(64)] + ["x"]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == [plain.encode(text) for text in texts]
        assert list(pool.map(tokenizer.encode_plain, texts)) == [plain.encode_plain(text) for text in texts]
