"""Scores and embeddings over HTTP."""

import base64
import json
import struct
from collections.abc import Generator, Mapping, Sequence
from math import exp
from typing import Any

import pytest

from engineroom import ChatModel, Prompt, ScriptedEngine
from engineroom.engines.capabilities import CAPABILITIES
from engineroom.types import Support
from serving import Ask, asking, error_of, served_by


class Embedder(ScriptedEngine):
    """Vectors that tell how often a and b stand in the text."""

    capabilities: Mapping[str, Support] = {**CAPABILITIES["scripted"], "embed": "native"}
    can_embed = True

    def __init__(self, *args: object) -> None:
        super().__init__()
        self.can_generate = False

    async def embed(self, prompts: Sequence[Prompt]) -> list[tuple[float, ...]]:
        return [(float(p.text.count("a")), float(p.text.count("b"))) for p in prompts]


class Idle(Embedder):
    async def embed(self, prompts: Sequence[Prompt]) -> list[tuple[float, ...]]:
        pytest.fail("it was asked for vectors")


def reward(prompt: Prompt) -> float:
    return float(len(prompt.text.rpartition("assistant\n")[2].removesuffix("<|im_end|>\n")))


@pytest.fixture
def rewards() -> Generator[Ask, None, None]:
    with asking(engine={"scorer": reward}) as ask:
        yield ask


def test_llama_factorys_evaluation(rewards: Ask) -> None:
    body = rewards("/v1/score/evaluation", {"model": "demo", "messages": ["a", "abc"]}).json()
    assert (body["object"], body["model"], body["scores"]) == ("score.evaluation", "demo", [1.0, 3.0])
    assert body["id"].startswith("scoreval-")
    assert (
        error_of(rewards("/v1/score/evaluation", {"messages": ["a"], "max_length": 9}))["param"]
        == "max_length"
    )


def test_llama_factorys_trainer_calls_every_reward_server_model(rewards: Ask) -> None:
    body = rewards("/v1/score/evaluation", {"model": "model", "messages": ["abc"]}).json()
    assert (body["model"], body["scores"]) == ("demo", [3.0])
    assert rewards("/v1/score/evaluation", {"model": "other", "messages": ["a"]}).status_code == 404
    assert rewards("/score", {"model": "model", "input": "a"}).status_code == 404


def test_scores_of_texts_conversations_and_pairs(rewards: Ask) -> None:
    def scores(**body: object) -> list[float]:
        return [item["score"] for item in rewards("/score", body).json()["data"]]

    conversation = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "four"}]
    assert scores(input="abc") == [3.0]
    assert scores(input=["abc", "d"]) == [3.0, 1.0]
    assert scores(input=[conversation]) == [4.0]
    assert scores(text_1="question", text_2=["yes", "four"]) == [3.0, 4.0]
    assert error_of(rewards("/score", {"text_1": ["a", "b"], "text_2": ["c"]}))["param"] == "text_2"
    assert error_of(rewards("/score", {"input": []}))["param"] == "input"


IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
HALF = "\ud800"


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/score", {"input": [[{"role": "user", "content": "q"}], [IMAGE]]}, "input[1]"),
        ("/score", {"input": ["a", HALF]}, "input[1]"),
        ("/score", {"text_1": "q", "text_2": ["a", HALF]}, "text_2[1]"),
        ("/classify", {"input": ["a", HALF]}, "input[1]"),
        ("/v1/score/evaluation", {"messages": ["a", HALF]}, "messages[1]"),
        ("/v1/rerank", {"query": "q", "documents": ["a", HALF]}, "documents[1]"),
    ],
)
def test_what_cant_be_scored_is_named_by_its_place_in_the_body(
    rewards: Ask, path: str, body: dict[str, object], place: str
) -> None:
    error = error_of(rewards(path, body))
    assert error["param"] == place
    assert place in error["message"]
    assert "batch_input" not in error["message"]


def test_classes_are_sigmoids(rewards: Ask) -> None:
    (item,) = rewards("/classify", {"input": "ab"}).json()["data"]
    assert item == {
        "index": 0,
        "label": "LABEL_0",
        "probs": [pytest.approx(1 / (1 + exp(-2)))],
        "num_classes": 1,
    }
    assert rewards("/classify", {"input": ["ab", "c"]}).json()["usage"]["prompt_tokens"] == 3
    assert rewards("/classify", {"input": "ab", "use_activation": False}).json()["data"][0]["probs"] == [2.0]


def test_reranking_puts_the_best_first(rewards: Ask) -> None:
    documents = ["no", {"text": "longest"}, "mid"]
    body = rewards("/v1/rerank", {"query": "q", "documents": documents, "top_n": 2}).json()
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] > len("no longest mid")
    assert body["results"] == [
        {"index": 1, "relevance_score": 7.0, "document": {"text": "longest"}},
        {"index": 2, "relevance_score": 3.0, "document": {"text": "mid"}},
    ]
    assert (
        error_of(rewards("/v1/rerank", {"query": "q", "documents": [{"x": "y"}]}))["param"] == "documents[0]"
    )


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_vllms_top_n_of_0_is_all(rewards: Ask, path: str) -> None:
    everything = {"query": "q", "documents": ["no", "mid"], "top_n": 0, "max_tokens_per_doc": 0}
    assert [item["index"] for item in rewards(path, everything).json()["results"]] == [1, 0]


def test_what_was_scored_is_counted(rewards: Ask) -> None:
    assert rewards("/score", {"input": ["abc", "d"]}).json()["usage"] == {
        "prompt_tokens": 4,
        "total_tokens": 4,
    }
    rewards("/v1/score/evaluation", {"messages": ["ab"]})
    assert "engineroom_prompt_tokens_total 6.0" in rewards("/metrics").text


def test_a_reward_model_does_not_chat(rewards: Ask) -> None:
    response = rewards("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
    assert (response.status_code, error_of(response)["code"]) == (400, "unsupported_request")


def test_a_chat_model_does_not_score() -> None:
    with asking(["x"]) as ask:
        for path, body in (("/score", {"input": "x"}), ("/v1/embeddings", {"input": "x"})):
            assert ask(path, body).status_code == 400


def test_what_the_model_is_not_is_said_without_its_path(rewards: Ask) -> None:
    message = error_of(rewards("/v1/completions", {"prompt": "hi"}))["message"]
    assert message.startswith("the model is a reward model: it scores, it does not chat")


def test_an_empty_list_of_ids_is_no_conversation() -> None:
    with asking(["x"]) as ask:
        error = error_of(ask("/v1/embeddings", {"input": [[97], []]}))
    assert (error["param"], error["message"]) == ("input[1]", "input[1] has no tokens")


def test_embeddings() -> None:
    import asyncio

    import httpx

    from engineroom.server.app import create_app

    with ChatModel(engine=Embedder()) as model:
        app = create_app(model)

        def ask(path: str, **body: object) -> httpx.Response:
            async def go() -> httpx.Response:
                async with httpx.AsyncClient(
                    transport=httpx.ASGITransport(app), base_url="http://localhost"
                ) as client:
                    return await client.post(path, json=body)

            return asyncio.run(go())

        body = ask("/v1/embeddings", input=["aaaabbb", "aa"], model="demo").json()
        ids = ask("/v1/embeddings", input=[[97, 97], [98]]).json()
        packed = ask("/v1/embeddings", input="aaaabbb", encoding_format="base64").json()
        near = ask("/v1/rerank", query="a", documents=["b", "aab", "a"]).json()["results"]
        pair = ask("/score", text_1="a", text_2="ab").json()["data"][0]["score"]
        refused = [ask("/v1/embeddings", input=given) for given in ([], ["a"] * 3000, [300])]
    assert [item["embedding"] for item in body["data"]] == [pytest.approx([0.8, 0.6]), [1.0, 0.0]]
    assert body["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert [item["embedding"] for item in ids["data"]] == [[1.0, 0.0], [0.0, 1.0]]
    values = struct.unpack("<2f", base64.b64decode(packed["data"][0]["embedding"]))
    assert values == pytest.approx((0.8, 0.6))
    assert [item["index"] for item in near] == [2, 1, 0]
    assert pair == pytest.approx(0.5**0.5)
    assert {response.status_code for response in refused} == {400}


@pytest.mark.parametrize("bad", ["", "b" * 5000], ids=["empty", "too long"])
@pytest.mark.parametrize(
    ("path", "texts", "place"),
    [
        ("/v1/embeddings", {"input": ["a", "BAD", "b"]}, "input[1]"),
        ("/v1/rerank", {"query": "a", "documents": ["a", "b", "b", "BAD"]}, "documents[3]"),
        ("/v1/rerank", {"query": "BAD", "documents": ["a", "b"]}, "query"),
        ("/score", {"text_1": "a", "text_2": ["a", "BAD"]}, "text_2[1]"),
        ("/score", {"text_1": "BAD", "text_2": ["a", "b"]}, "text_1"),
    ],
)
def test_of_several_texts_a_bad_one_refuses_all_before_the_engine_works(
    path: str, texts: dict[str, Any], place: str, bad: str
) -> None:
    with served_by(Idle()) as server:
        body = json.loads(json.dumps(texts).replace("BAD", bad))
        answer = server.post(path, json=body)
    error = error_of(answer)
    assert (answer.status_code, error["param"]) == (400, place)
    assert error["message"].startswith(f"{place}: the prompt has")


def test_an_id_that_the_model_does_not_have_is_named_by_its_place_in_the_body() -> None:
    with served_by(Idle()) as server:
        error = error_of(server.post("/v1/embeddings", json={"input": [[1, 2], [265]]}))
    assert error["param"] == "input[1]"
    assert error["message"].startswith("input[1]: the model has no token id 265")
