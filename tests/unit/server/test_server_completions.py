"""``/v1/completions``, and the routes about tokens."""

from typing import Any

import pytest

from engineroom.engines.scripted import Reply
from engineroom.types import Prompt, SamplingParams
from serving import HI, asking, error_of, events_of, served

PATH = "/v1/completions"
NONE_CACHED = {"prompt_tokens_details": {"cached_tokens": 0}}


def echo(prompt: Prompt, params: SamplingParams) -> str:
    return prompt.text.upper()


def test_a_prompt_is_taken_as_it_is() -> None:
    with asking(echo) as ask:
        body = ask(PATH, {"prompt": "abc", "max_tokens": 10}).json()
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "text": "ABC", "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, **NONE_CACHED}


def test_openais_default_of_sixteen_tokens() -> None:
    with asking(["x" * 40]) as ask:
        choice = ask(PATH, {"prompt": "abc"}).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("x" * 16, "length")


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [([104, 105], ["HI"]), (["a", "b"], ["A", "B"]), ([[97], [98, 99]], ["A", "BC"]), (["a"], ["A"])],
)
def test_ids_and_several_prompts(prompt: Any, texts: list[str]) -> None:
    with asking(echo) as ask:
        whole = ask(PATH, {"prompt": prompt}).json()
        events = events_of(
            ask(PATH, {"prompt": prompt, "stream": True, "stream_options": {"include_usage": True}})
        )
    assert [choice["text"] for choice in whole["choices"]] == texts
    streamed = ["" for _ in texts]
    for event in events[:-1]:
        streamed[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert streamed == texts
    assert events[-1]["usage"] == whole["usage"]


def test_answers_are_counted_on_from_prompt_to_prompt() -> None:
    with asking(echo) as ask:
        whole = ask(PATH, {"prompt": ["a", "bb"], "n": 2}).json()
        events = events_of(ask(PATH, {"prompt": ["a", "bb"], "n": 2, "stream": True}))
    assert [(c["index"], c["text"]) for c in whole["choices"]] == [(0, "A"), (1, "A"), (2, "BB"), (3, "BB")]
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 10, "total_tokens": 13, **NONE_CACHED}
    assert {event["choices"][0]["index"] for event in events} == {0, 1, 2, 3}


def test_logprobs_in_columns() -> None:
    with asking(["Hi"]) as ask:
        logprobs = ask(PATH, {"prompt": "a", "logprobs": 1}).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["H", "i", "<|im_end|>"]
    assert logprobs["token_logprobs"] == [0.0, 0.0, 0.0]
    assert logprobs["text_offset"] == [0, 1, 2]
    assert logprobs["top_logprobs"][0] == {"H": 0.0}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1, 2000]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [2**63]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a"] * 5000}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"enable_thinking": True}, "enable_thinking"),
    ],
)
def test_refusals(fields: dict[str, Any], param: str) -> None:
    with asking(["x"]) as ask:
        response = ask(PATH, {"prompt": "a", **fields})
    assert (response.status_code, error_of(response)["param"]) == (400, param), response.text


BAD = {
    "too long": ("b" * 5000, "context_length_exceeded"),
    "an unknown id": ([265], "invalid_value"),
    "no ids": ([], "invalid_value"),
    "an empty text": ("", "invalid_value"),
    "half a character": ("\ud800", "invalid_value"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("bad", "code"), BAD.values(), ids=BAD)
def test_one_bad_prompt_of_several_refuses_all_before_the_engine_works(
    bad: Any, code: str, stream: bool
) -> None:
    asked: list[Prompt] = []

    def keep(prompt: Prompt, params: SamplingParams) -> str:
        asked.append(prompt)
        return "x"

    good = "a" if isinstance(bad, str) else [97]
    with asking(keep) as ask:
        for prompts, place in (
            ([good, bad], "prompt[1]"),
            ([bad, good, bad], "prompt[0]"),
            ([bad], "prompt"),
        ):
            response = ask(PATH, {"prompt": prompts, "stream": stream})
            error = error_of(response)
            assert (response.status_code, error["code"], error["param"]) == (400, code, place), error
    assert asked == []


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_are_let_in_together_or_not_at_all(stream: bool) -> None:
    slow = Reply("x", pause_at=0)
    with served([slow], arguments={"max_concurrent": 1, "max_queue": 2}) as server:
        never = server.post(PATH, json={"prompt": ["a"] * 4, "stream": stream})
        inside = server.bridge.submit(server.model.acomplete("a"))
        assert slow.paused.wait(10)
        busy = server.post(PATH, json={"prompt": ["a", "b", "c"], "stream": stream})
        slow.resume.set()
        inside.result(10)
        asked = len(server.engine.requests)
    assert (never.status_code, error_of(never)["param"]) == (400, "prompt")
    assert (busy.status_code, error_of(busy)["code"]) == (429, "engine_busy")
    assert busy.headers["retry-after"] == "1"
    assert asked == 1


def test_a_large_body_is_read_as_a_small_one() -> None:
    """Another parser reads it; where that one fails, the first is asked, too."""
    with asking(["x"], engine={"context_length": 200_000}) as ask:

        def asked(body: str) -> Any:
            content = {"content": body, "headers": {"Content-Type": "application/json"}}
            return ask("/tokenize", method="POST", **content)

        for body in (
            '{"prompt": "\\u00e9\\ud83d\\ude00é", "prompt": "a\\u0000é"}',
            '{"prompt": "a", "n": 1' + "0" * 5000 + "}",
            '{"prompt": NaN}',
            '{"prompt": "\\ud800"}',
            '{"prompt": "a"',
            '{"prompt": "a",}',
            '{"prompt": "a\n"}',
            "\ufeff{}",
        ):
            small, large = asked(body), asked(body.ljust(70_000))
            assert (small.status_code, small.json()) == (large.status_code, large.json()), body[:40]


def test_tokens_there_and_back() -> None:
    with asking(["x"]) as ask:
        told = ask("/tokenize", {"prompt": "hé", "return_token_strs": True}).json()
        back = ask("/detokenize", {"tokens": told["tokens"]}).json()
        beyond = ask("/detokenize", {"tokens": [9999]})
        chat = ask("/tokenize", {"messages": HI, "add_generation_prompt": True}).json()
        rendered = ask("/render", {"messages": HI}).json()
    assert told == {
        "count": 3,
        "max_model_len": 4096,
        "tokens": [104, 195, 169],
        "token_strs": ["h", "\ufffd", "\ufffd"],
    }
    assert back == {"prompt": "hé"}
    assert error_of(beyond)["param"] == "tokens"
    assert rendered["prompt"] == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert rendered["token_ids"] == chat["tokens"]
    assert rendered["count"] == chat["count"] == len(chat["tokens"])


def test_a_rendering_is_refused_as_the_answer_would_be() -> None:
    with asking(["x"]) as ask:
        assert error_of(ask("/render", {"messages": []}))["param"] == "messages"
        assert error_of(ask("/render", {}))["param"] == "messages"
        assert error_of(ask("/tokenize", {"prompt": "a", "messages": HI}))["param"] == "prompt"
        assert error_of(ask("/render", {"messages": HI, "model": "x"}))["code"] == "model_not_found"


def test_the_error_of_a_prompt_names_all_its_forms() -> None:
    with asking(["x"]) as ask:
        error = error_of(ask(PATH, {"prompt": [1.5]}))
    assert error["message"] == "prompt: Input should be a valid string or a valid integer or a valid list"


@pytest.mark.parametrize("as_ids", [False, True])
def test_offsets_of_a_stream_are_those_of_the_whole(as_ids: bool) -> None:
    """Also where text is held back: "ab" may become the stop string."""
    body = {"prompt": "a", "logprobs": 0, "stop": ["abz"], "return_tokens_as_token_ids": as_ids}
    with asking(["xaby"]) as ask:
        whole = ask(PATH, body).json()["choices"][0]["logprobs"]
        events = events_of(ask(PATH, {**body, "stream": True}))
    pieces = [event["choices"][0]["logprobs"] for event in events]
    assert [offset for piece in pieces if piece for offset in piece["text_offset"]] == [0, 1, 2, 3, 4]
    assert whole["text_offset"] == [0, 1, 2, 3, 4]
    assert whole["tokens"][0] == ("token_id:120" if as_ids else "x")


def test_special_tokens_are_asked_for_with_a_text_alone() -> None:
    with asking(["x"]) as ask:
        refused = ask("/tokenize", {"messages": HI, "add_special_tokens": True})
        taken = ask("/tokenize", {"messages": HI, "add_special_tokens": False})
    assert error_of(refused)["param"] == "add_special_tokens"
    assert taken.status_code == 200
