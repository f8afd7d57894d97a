"""LiteLLM and LangChain, as agent frameworks use the server through them."""

import asyncio
import gc
import os
import warnings
from collections.abc import Generator
from typing import Any, Literal

import pytest
from api_process import KEY, Api
from pydantic import BaseModel

# LiteLLM would ask the network for its prices otherwise, when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LANGSMITH_TRACING"] = "false"

import litellm
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

pytestmark = [
    pytest.mark.slow,  # their imports take seconds
    # What LiteLLM's own models do with pydantic:
    pytest.mark.filterwarnings("ignore:Items? .* using the `ReadOnly` qualifier:UserWarning"),
    # Both keep connections and event loops for later calls, and close some of them never:
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
one_loop = pytest.mark.asyncio(loop_scope="module")
"""Both keep their connections for all later calls, and so belong to one event loop."""

QUESTION = "What is 7 plus 5?"
MESSAGES = [{"role": "user", "content": QUESTION}]
WAIT = [{"role": "user", "content": "wait"}]
FREE_WITHIN = 5.0


@pytest.fixture(scope="module", autouse=True)
def what_they_left_open() -> Generator[None, None, None]:
    """Goes here, where it is expected, and not in the midst of another file's test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class Verdict(BaseModel):
    """Which animal it is."""

    animal: Literal["cat", "dog"]
    sure: bool


# --- LiteLLM ---------------------------------------------------------------------------------------------------


def options(api: Api, protocol: str = "openai", **more: Any) -> dict[str, Any]:
    base = api.url if protocol == "anthropic" else f"{api.url}/v1"
    return {"model": f"{protocol}/demo", "api_base": base, "api_key": KEY, "num_retries": 0, **more}


@pytest.mark.parametrize("protocol", ["openai", "hosted_vllm", "anthropic"])
def test_litellm_whole_and_streamed(api: Api, protocol: str) -> None:
    asked = options(api, protocol, messages=MESSAGES, temperature=0, max_tokens=50)
    whole = litellm.completion(**asked)
    text = whole.choices[0].message.content
    assert api.sum in text
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0
    pieces = list(litellm.completion(**asked, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == text


@one_loop
async def test_litellm_asynchronously(api: Api) -> None:
    asked = options(api, messages=MESSAGES, temperature=0)
    whole = await litellm.acompletion(**asked)
    stream = await litellm.acompletion(**asked, stream=True)
    text = "".join([piece.choices[0].delta.content or "" async for piece in stream])
    assert api.sum in text == whole.choices[0].message.content


def test_litellms_responses_and_text_completions(api: Api) -> None:
    answer = litellm.responses(**options(api), input=QUESTION, temperature=0)
    assert api.sum in answer.output[0].content[0].text
    assert answer.usage.input_tokens > 0
    events = list(litellm.responses(**options(api), input=QUESTION, temperature=0, stream=True))
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(texts) == answer.output[0].content[0].text
    asked = options(api, "text-completion-openai", prompt="One, two,", max_tokens=5, temperature=0)
    assert litellm.text_completion(**asked).choices[0].text


def test_litellms_reasoning(scripted_api: Api) -> None:
    for protocol in ("hosted_vllm", "anthropic"):
        asked = options(
            scripted_api, protocol, messages=[{"role": "user", "content": "think"}], max_tokens=90
        )
        message = litellm.completion(**asked).choices[0].message
        assert (message.content, message.reasoning_content) == ("It is 12.", "Let me see.")


def test_litellms_errors_are_of_the_right_class(api: Api) -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**options(api, messages=MESSAGES) | {"model": "openai/gpt-9"})
    with pytest.raises(litellm.BadRequestError, match="store"):
        litellm.completion(**options(api, messages=MESSAGES, extra_body={"store": True}))
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**options(api, messages=MESSAGES) | {"api_key": "sk-wrong"})


@one_loop
async def test_leaving_a_stream_of_litellm_frees_the_engine(scripted_api: Api) -> None:
    stream = await litellm.acompletion(**options(scripted_api, messages=WAIT), stream=True)
    async for piece in stream:
        if piece.choices[0].delta.content:
            break
    await stream.aclose()
    assert await asyncio.to_thread(scripted_api.becomes_idle, FREE_WITHIN)


def test_litellms_structured_output(demo_api: Api) -> None:
    asked = options(demo_api, messages=MESSAGES, temperature=0, max_tokens=60, response_format=Verdict)
    assert Verdict.model_validate_json(litellm.completion(**asked).choices[0].message.content)


def test_litellms_embeddings(embedding_api: Api) -> None:
    answer = litellm.embedding(**options(embedding_api), input=["a", "b"])
    assert [len(one["embedding"]) for one in answer.data] == [len(answer.data[0]["embedding"])] * 2


# --- LangChain -------------------------------------------------------------------------------------------------


def chat_of(api: Api, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="demo", base_url=f"{api.url}/v1", api_key=KEY, temperature=0, max_retries=0, **more
    )


@pytest.fixture(params=[False, True], ids=["chat", "responses"])
def chat(api: Api, request: pytest.FixtureRequest) -> ChatOpenAI:
    """Over either of OpenAI's two routes."""
    return chat_of(api, use_responses_api=request.param)


def test_langchain_whole_and_streamed(chat: ChatOpenAI, api: Api) -> None:
    whole = chat.invoke(QUESTION)
    assert api.sum in whole.text
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] > 0
    assert "".join(piece.text for piece in chat.stream(QUESTION)) == whole.text


def test_a_conversation_of_langchain(chat: ChatOpenAI) -> None:
    history = [SystemMessage("Be brief."), HumanMessage(QUESTION)]
    first = chat.invoke(history)
    assert isinstance(chat.invoke([*history, first, HumanMessage(QUESTION)]), AIMessage)


@one_loop
async def test_langchain_asynchronously(chat: ChatOpenAI, api: Api) -> None:
    whole = await chat.ainvoke(QUESTION)
    pieces = [piece.text async for piece in chat.astream(QUESTION)]
    assert api.sum in "".join(pieces) == whole.text
    assert [answer.text for answer in await chat.abatch([QUESTION, QUESTION])] == [whole.text] * 2


def test_langchains_structured_output(demo_api: Api) -> None:
    for responses in (False, True):
        chat = chat_of(demo_api, use_responses_api=responses, max_tokens=60)
        structured = chat.with_structured_output(Verdict, method="json_schema")
        assert isinstance(structured.invoke("Is it a cat or a dog?"), Verdict)


@one_loop
async def test_leaving_a_stream_of_langchain_frees_the_engine(scripted_api: Api) -> None:
    stream = chat_of(scripted_api).astream("wait")
    async for piece in stream:
        if piece.text:
            break
    await stream.aclose()
    assert await asyncio.to_thread(scripted_api.becomes_idle, FREE_WITHIN)


def test_langchains_embeddings(embedding_api: Api) -> None:
    # LangChain would cut texts into OpenAI's tokens otherwise, which are not the model's.
    vectors = OpenAIEmbeddings(
        model="demo", base_url=f"{embedding_api.url}/v1", api_key=KEY, check_embedding_ctx_length=False
    ).embed_documents(["a", "b"])
    assert len(vectors[0]) == len(vectors[1]) > 0
