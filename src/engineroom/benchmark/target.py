"""What is measured: an engine behind ``ChatModel``, or a server."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from engineroom.benchmark.plan import Plan, Task, check_context
from engineroom.benchmark.prompts import COMMON_WORDS, PromptMaker, Words, words_of
from engineroom.chat import ChatModel
from engineroom.client import Server
from engineroom.errors import ParameterError, RequestError, ServerError


@dataclass(frozen=True, slots=True)
class Arrival:
    """Something came.

    Attributes:
        tokens: how many of the answer; None for a piece of text of unknown size.
        prompt_tokens, answer_tokens: totals, where they are told.
    """

    tokens: int | None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


class Target(Protocol):
    """
    Attributes:
        name: of the model.
        engine: the engine's name, or the server's address.
        notes: what a reader of the figures must know, in sentences.
    """

    name: str
    engine: str
    notes: list[str]

    async def prepare(self, plan: Plan) -> None:
        """Learns how to make prompts.

        Raises:
            ArgumentError: the plan asks for what can't be.
        """
        ...

    async def task(self, chance: random.Random, prompt_tokens: int, answer_tokens: int) -> Task: ...

    def ask(self, task: Task) -> AsyncGenerator[Arrival, None]: ...


class EngineTarget:
    """A model that is run here, through ``ChatModel.astream_deltas``.

    Raises:
        RequestError: it is a reward model.
    """

    def __init__(self, model: ChatModel) -> None:
        if not model.engine.can_generate:
            raise RequestError(f"{model.arguments.model_name_or_path} is a reward model: it does not answer")
        if model.sampling.n != 1:
            raise ParameterError(
                f"n={model.sampling.n} can't be measured",
                why="a request is measured by its one answer",
                fix="leave n out",
                parameter="n",
            )
        self.name = model.arguments.model_name_or_path
        self.engine = model.engine.name
        self.notes: list[str] = []
        self._model = model
        self._prompts: PromptMaker | None = None
        self._options: dict[str, Any] = {}
        if model.engine.capabilities.get("ignore_eos", "unsupported") != "unsupported":
            self._options["ignore_eos"] = True
        else:
            self.notes.append("the engine has no ignore_eos: answers end where the model ends them")

    async def prepare(self, plan: Plan) -> None:
        check_context(plan, self._model.context_length)
        words = words_of(self._model.tokenizer, random.Random(plan.seed))
        self._prompts = await PromptMaker.measured(words, self._count, self._count)
        self._prompts.check(plan.prompt.low)

    async def _count(self, text: str) -> int:
        return len(self._model.render(text))

    async def task(self, chance: random.Random, prompt_tokens: int, answer_tokens: int) -> Task:
        assert self._prompts is not None
        return Task(await self._prompts.text(chance, prompt_tokens), answer_tokens)

    async def ask(self, task: Task) -> AsyncGenerator[Arrival, None]:
        stream = self._model.astream_deltas(task.text, max_new_tokens=task.answer_tokens, **self._options)
        async with aclosing(stream) as deltas:
            async for delta in deltas:
                usage = delta.usage
                yield Arrival(
                    len(delta.token_ids),
                    usage and usage.prompt_tokens,
                    usage and usage.completion_tokens,
                )


_EXTRAS: Mapping[str, Any] = {"ignore_eos": True, "return_token_ids": True}
_STREAMED: Mapping[str, Any] = {
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}
"""vLLM's and SGLang's: answers of the length that was asked for, and the tokens of each piece."""


class ServerTarget:
    """An OpenAI-compatible server. Prompts are of common English words; their length is what the server counts."""

    def __init__(self, server: Server) -> None:
        self.name = server.model
        self.engine = server.address.url
        self.notes: list[str] = []
        self._server = server
        self._prompts: PromptMaker | None = None

    async def prepare(self, plan: Plan) -> None:
        check_context(plan, self._server.context_length)
        count = self._tokenized if await self._server.tokenize(_user("time")) else None
        room = self._server.context_length or 4096
        words = Words(COMMON_WORDS)
        self._prompts = await PromptMaker.measured(words, self._counted, count, max(1, min(40, room // 16)))
        self._prompts.check(plan.prompt.low)
        if not self._server.extras:
            self.notes.append("the server refuses ignore_eos: answers end where the model ends them")
        if count is None:
            self.notes.append("the server has no /tokenize: prompts have the wanted length on average only")

    async def _tokenized(self, text: str) -> int:
        """
        Raises:
            ServerError: it had ``/tokenize`` a moment ago.
        """
        token_ids = await self._server.tokenize(_user(text))
        if token_ids is None:
            raise ServerError("the server's /tokenize has failed")
        return len(token_ids)

    async def _counted(self, text: str) -> int:
        answer = await self._server.complete(_user(text), _EXTRAS, max_tokens=1)
        if answer.usage is None:
            raise ServerError(
                "the server does not count the tokens of a prompt", why="its answer has no usage"
            )
        return answer.usage.prompt_tokens

    async def task(self, chance: random.Random, prompt_tokens: int, answer_tokens: int) -> Task:
        assert self._prompts is not None
        return Task(await self._prompts.text(chance, prompt_tokens), answer_tokens)

    async def ask(self, task: Task) -> AsyncGenerator[Arrival, None]:
        told = 0
        fields = {"max_tokens": task.answer_tokens, "stream_options": {"include_usage": True}}
        extras = {**_EXTRAS, **_STREAMED}
        async with aclosing(self._server.stream(_user(task.text), extras, **fields)) as pieces:
            async for piece in pieces:
                usage = piece.usage
                tokens = piece.token_count
                if tokens is None and usage is not None and piece.choices:
                    tokens = max(0, usage.completion_tokens - told)
                if tokens is None and not piece.text:
                    tokens = 0
                told += tokens or 0
                yield Arrival(tokens, usage and usage.prompt_tokens, usage and usage.completion_tokens)


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
