"""The official clients of OpenAI and Anthropic, doing what their documentation shows."""

import ast
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack
from typing import Any, Literal

import anthropic
import openai
import pytest
from api_process import KEY, Api
from pydantic import BaseModel

QUESTION = "What is 7 plus 5?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
WAIT: Any = [{"role": "user", "content": "wait"}]
FAIL: Any = [{"role": "user", "content": "fail"}]
THINK: Any = [{"role": "user", "content": "think"}]
FREE_WITHIN = 5.0


class Verdict(BaseModel):
    animal: Literal["cat", "dog"]
    sure: bool


def test_what_the_server_prints_to_try_works(api: Api) -> None:
    answered, said = tried(api)
    assert api.sum in answered["choices"][0]["message"]["content"]
    assert api.sum in said
    assert "Anthropic's clients go to" in api.greeting


@pytest.mark.slow
def test_what_is_printed_to_try_is_what_the_model_can(embedding_api: Api, reward_api: Api) -> None:
    answered, said = tried(embedding_api)
    vectors = [item["embedding"] for item in answered["data"]]
    assert len(vectors) == 2
    assert json.loads(said) == pytest.approx(vectors[0], abs=1e-5)
    answered, said = tried(reward_api)
    good, bad = (item["score"] for item in ast.literal_eval(said))
    assert answered["data"][0]["score"] == pytest.approx(good, abs=1e-4)
    assert good > bad
    assert "Anthropic's clients" not in embedding_api.greeting + reward_api.greeting


def tried(api: Api) -> tuple[Any, str]:
    """What the printed curl and the printed Python give."""
    curl, python = api.greeting.split("\n\n")[1:3]
    environ = {**os.environ, "ENGINEROOM_API_KEY": KEY}
    answered = subprocess.run(curl, shell=True, capture_output=True, check=True, timeout=60, env=environ)
    words = [sys.executable, "-c", python]
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60, env=environ)
    return json.loads(answered.stdout), said.stdout


# --- OpenAI ----------------------------------------------------------------------------------------------------


def client_of(api: Api, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{api.url}/v1", **{"api_key": KEY, "max_retries": 0, "timeout": 60, **options}
    )


@pytest.fixture
def client(api: Api) -> Generator[openai.OpenAI, None, None]:
    with client_of(api) as client:
        yield client


@pytest.fixture
def scripted(scripted_api: Api) -> Generator[openai.OpenAI, None, None]:
    with client_of(scripted_api) as client:
        yield client


@pytest.fixture
async def asynchronous(api: Api) -> AsyncGenerator[openai.AsyncOpenAI, None]:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


def test_chat_whole_and_streamed(client: openai.OpenAI, api: Api) -> None:
    whole = client.chat.completions.create(model="demo", messages=MESSAGES, temperature=0)
    answer = whole.choices[0].message.content
    assert answer is not None
    assert api.sum in answer
    assert (whole.choices[0].finish_reason, whole.model) == ("stop", "demo")
    assert whole.usage is not None
    stream = client.chat.completions.create(
        model="demo", messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == answer
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_the_stream_helper_of_chat(client: openai.OpenAI, api: Api) -> None:
    with client.chat.completions.stream(model="demo", messages=MESSAGES, temperature=0) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert api.sum in (final.choices[0].message.content or "")


async def test_chat_asynchronously(asynchronous: openai.AsyncOpenAI, api: Api) -> None:
    whole = await asynchronous.chat.completions.create(model="demo", messages=MESSAGES, temperature=0)
    stream = await asynchronous.chat.completions.create(
        model="demo", messages=MESSAGES, temperature=0, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert api.sum in "".join(pieces) == whole.choices[0].message.content


def test_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="demo", prompt="One, two,", max_tokens=5, temperature=0)
    stream = client.completions.create(
        model="demo", prompt="One, two,", max_tokens=5, temperature=0, stream=True
    )
    assert "".join(piece.choices[0].text for piece in stream) == whole.choices[0].text
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 5


def test_responses_whole_and_streamed(client: openai.OpenAI, api: Api) -> None:
    whole = client.responses.create(model="demo", input=QUESTION, temperature=0)
    assert api.sum in whole.output_text
    assert (whole.status, whole.error, whole.incomplete_details) == ("completed", None, None)
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    with client.responses.stream(model="demo", input=QUESTION, temperature=0) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(pieces) == whole.output_text == final.output_text
    assert client.responses.input_tokens.count(model="demo", input=QUESTION).input_tokens == (
        whole.usage.input_tokens
    )


def test_a_response_goes_back_as_input(client: openai.OpenAI) -> None:
    history: list[Any] = [{"role": "user", "content": QUESTION}]
    first = client.responses.create(model="demo", input=history, temperature=0)
    history += [item.to_dict() for item in first.output]
    history.append({"role": "user", "content": QUESTION})
    second = client.responses.create(model="demo", input=history, temperature=0)
    assert second.output_text
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens


async def test_responses_asynchronously(asynchronous: openai.AsyncOpenAI, api: Api) -> None:
    stream = await asynchronous.responses.create(model="demo", input=QUESTION, temperature=0, stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = events[-1]
    assert final.type == "response.completed"
    assert api.sum in final.response.output_text


def test_thoughts_come_apart(scripted: openai.OpenAI) -> None:
    chat = scripted.chat.completions.create(model="demo", messages=THINK)
    assert chat.choices[0].message.content == "It is 12."
    assert chat.choices[0].message.model_extra == {"reasoning_content": "Let me see."}
    answer = scripted.responses.create(model="demo", input="think")
    assert answer.output_text == "It is 12."
    thought = answer.output[0]
    assert thought.type == "reasoning"
    assert thought.content is not None
    assert thought.content[0].text == "Let me see."
    assert answer.usage is not None
    assert answer.usage.output_tokens_details.reasoning_tokens > 5


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"


@pytest.mark.slow
def test_structured_output(demo_api: Api) -> None:
    messages: Any = [{"role": "user", "content": "Is it a cat or a dog?"}]
    with client_of(demo_api) as client:
        parsed = client.chat.completions.parse(
            model="demo", messages=messages, response_format=Verdict, temperature=0, max_tokens=60
        )
        answered = client.responses.parse(
            model="demo", input=messages, text_format=Verdict, temperature=0, max_output_tokens=60
        )
        with client.chat.completions.stream(
            model="demo", messages=messages, response_format=Verdict, temperature=0, max_tokens=60
        ) as stream:
            streamed = stream.get_final_completion()
    assert isinstance(parsed.choices[0].message.parsed, Verdict)
    assert answered.output_parsed == parsed.choices[0].message.parsed
    assert streamed.choices[0].message.parsed == parsed.choices[0].message.parsed


@pytest.mark.slow
def test_embeddings(embedding_api: Api) -> None:
    with client_of(embedding_api) as client:
        as_numbers = client.embeddings.create(model="demo", input=["a", "b"], encoding_format="float")
        as_base64 = client.embeddings.create(model="demo", input=["a", "b"])  # the client's own default
        with pytest.raises(openai.BadRequestError, match="embed"):
            client.chat.completions.create(model="demo", messages=MESSAGES)
    assert len(as_numbers.data) == 2
    for numbers, decoded in zip(as_numbers.data, as_base64.data, strict=True):
        assert numbers.embedding == pytest.approx(decoded.embedding, abs=1e-6)


def test_errors_are_of_the_right_class(client: openai.OpenAI, api: Api) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="demo", messages=MESSAGES, store=True)
    assert (refused.value.param, refused.value.type) == ("store", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as before_the_stream:
        client.responses.create(model="demo", input="x", background=True, stream=True)
    assert before_the_stream.value.param == "background"
    with client_of(api, api_key="sk-wrong") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_a_failing_engine_is_told_whole_and_in_mid_stream(scripted: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError):
        scripted.chat.completions.create(model="demo", messages=FAIL)
    stream = scripted.chat.completions.create(model="demo", messages=FAIL, stream=True)
    assert "".join(next(stream).choices[0].delta.content or "" for _ in range(6)) == "Hello"
    with pytest.raises(openai.APIError, match="scripted engine failed"):
        next(stream)
    events = scripted.responses.create(model="demo", input="fail", stream=True)
    kinds = [next(events).type for _ in range(9)]
    assert kinds.count("response.output_text.delta") == 5
    with pytest.raises(openai.APIError, match="scripted engine failed"):
        next(events)


def test_a_full_queue_is_a_rate_limit_and_leaving_streams_frees_it(
    scripted: openai.OpenAI, scripted_api: Api
) -> None:
    with ExitStack() as streams:
        for _ in range(4):
            stream = scripted.chat.completions.create(model="demo", messages=WAIT, stream=True)
            streams.enter_context(stream)
            assert "".join(next(stream).choices[0].delta.content or "" for _ in range(10)) == "Streaming"
        assert scripted_api.running() == 4
        waiting = scripted.with_options(timeout=0.2)
        for _ in range(2):
            with pytest.raises(openai.APITimeoutError):  # waits for a place, and leaves
                waiting.chat.completions.create(model="demo", messages=WAIT)
    assert scripted_api.becomes_idle(FREE_WITHIN)
    assert (
        scripted.chat.completions.create(model="demo", messages=MESSAGES).choices[0].finish_reason == "stop"
    )


async def test_a_cancelled_task_frees_the_engine(scripted_api: Api) -> None:
    async with openai.AsyncOpenAI(base_url=f"{scripted_api.url}/v1", api_key=KEY, max_retries=0) as client:
        tasks = [
            asyncio.create_task(client.chat.completions.create(model="demo", messages=WAIT)) for _ in range(6)
        ]
        while await asyncio.to_thread(scripted_api.running) < 4:
            await asyncio.sleep(0.01)
        refused: openai.RateLimitError | None = None
        while refused is None:  # until the two that wait have taken all places of the queue
            late = asyncio.create_task(client.chat.completions.create(model="demo", messages=WAIT))
            done, _ = await asyncio.wait([late], timeout=0.5)
            late.cancel()
            if done and isinstance(error := late.exception(), openai.RateLimitError):
                refused = error
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert int(refused.response.headers["retry-after"]) >= 1
        assert await asyncio.to_thread(scripted_api.becomes_idle, FREE_WITHIN)
        answer = await client.chat.completions.create(model="demo", messages=MESSAGES)
    assert answer.choices[0].finish_reason == "stop"


# --- Anthropic -------------------------------------------------------------------------------------------------


@pytest.fixture
def claude(api: Api) -> Generator[anthropic.Anthropic, None, None]:
    with anthropic.Anthropic(base_url=api.url, api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


GREEDY: Any = {"temperature": 0}  # the client has no name for it any more


def test_messages_whole_streamed_and_counted(claude: anthropic.Anthropic, api: Api) -> None:
    whole = claude.messages.create(model="demo", max_tokens=50, messages=MESSAGES, extra_body=GREEDY)
    said = whole.content[0]
    assert said.type == "text"
    assert api.sum in said.text
    assert (whole.stop_reason, whole.model, whole.role) == ("end_turn", "demo", "assistant")
    with claude.messages.stream(model="demo", max_tokens=50, messages=MESSAGES, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == said.text
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens
    counted = claude.messages.count_tokens(model="demo", messages=MESSAGES).input_tokens
    for usage in (whole.usage, final.usage):
        assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == counted


def test_a_conversation_with_a_system_prompt_goes_on(claude: anthropic.Anthropic) -> None:
    history: list[Any] = [*MESSAGES]
    first = claude.messages.create(model="demo", max_tokens=20, system="Be brief.", messages=history)
    history += [first.to_param(), *MESSAGES]
    second = claude.messages.create(model="demo", max_tokens=20, system="Be brief.", messages=history)
    assert second.content
    begun = [*MESSAGES, {"role": "assistant", "content": "You said"}]
    assert claude.messages.create(model="demo", max_tokens=20, messages=begun).stop_reason


async def test_messages_asynchronously(api: Api) -> None:
    async with anthropic.AsyncAnthropic(base_url=api.url, api_key=KEY, max_retries=0) as client:
        stream = await client.messages.create(
            model="demo", max_tokens=50, messages=MESSAGES, stream=True, extra_body=GREEDY
        )
        events = [event async for event in stream]
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")
    texts = [e.delta.text for e in events if e.type == "content_block_delta" and e.delta.type == "text_delta"]
    assert api.sum in "".join(texts)


def test_the_limit_and_a_stop_sequence(scripted_api: Api) -> None:
    with anthropic.Anthropic(base_url=scripted_api.url, api_key=KEY, max_retries=0) as client:
        cut = client.messages.create(model="demo", max_tokens=3, messages=MESSAGES)
        stopped = client.messages.create(
            model="demo", max_tokens=50, messages=MESSAGES, stop_sequences=["plus", "said"]
        )
        thought, said = client.messages.create(model="demo", max_tokens=90, messages=THINK).content
    assert (cut.stop_reason, cut.content[0].type) == ("max_tokens", "text")
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "said")
    assert (thought.type, said.type) == ("thinking", "text")


@pytest.mark.slow
def test_structured_output_by_anthropics_client(demo_api: Api) -> None:
    with anthropic.Anthropic(base_url=demo_api.url, api_key=KEY, max_retries=0) as client:
        parsed = client.messages.parse(
            model="demo", max_tokens=60, messages=MESSAGES, output_format=Verdict, extra_body=GREEDY
        )
    assert isinstance(parsed.parsed_output, Verdict)


def test_anthropics_client_lists_the_models(claude: anthropic.Anthropic) -> None:
    (told,) = claude.models.list()
    assert told == claude.models.retrieve("demo")
    assert (told.type, told.id, told.display_name) == ("model", "demo", "demo")
    with pytest.raises(anthropic.NotFoundError, match="claude-9"):
        claude.models.retrieve("claude-9")


def test_anthropics_errors_are_of_the_right_class(claude: anthropic.Anthropic, api: Api) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        claude.messages.create(model="claude-9", max_tokens=5, messages=MESSAGES)
    assert unknown.value.request_id == unknown.value.response.headers["x-request-id"]
    with pytest.raises(anthropic.BadRequestError, match="container"):
        claude.messages.create(model="demo", max_tokens=5, messages=MESSAGES, container="c")
    with (
        anthropic.Anthropic(base_url=api.url, api_key="sk-wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(model="demo", max_tokens=5, messages=MESSAGES)


def test_anthropics_client_learns_of_a_failure_in_mid_stream(scripted_api: Api) -> None:
    with anthropic.Anthropic(base_url=scripted_api.url, api_key=KEY, max_retries=0) as client:
        said: list[str] = []
        with (
            pytest.raises(anthropic.APIStatusError, match="scripted engine failed"),
            client.messages.stream(model="demo", max_tokens=50, messages=FAIL) as stream,
        ):
            said.extend(stream.text_stream)
        with client.messages.stream(model="demo", max_tokens=50, messages=WAIT) as stream:
            assert next(iter(stream.text_stream)) == "S"
        assert scripted_api.becomes_idle(FREE_WITHIN)
    assert "".join(said) == "Hello"
