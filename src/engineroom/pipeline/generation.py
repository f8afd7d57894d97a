"""The path of a request: render → engine → parse."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from engineroom.admission import Admission
from engineroom.call import Call, Conversation, beside
from engineroom.deadline import Deadline
from engineroom.engines.base import BaseEngine
from engineroom.errors import GenerationError, ParameterError, RequestError
from engineroom.params import MAX_SEED
from engineroom.parse import AnswerParser
from engineroom.pipeline.pooled import Pooled
from engineroom.pipeline.prompts import Prompts
from engineroom.pipeline.streams import fold, interleave
from engineroom.pipeline.upkeep import Upkeep
from engineroom.render import Renderer
from engineroom.sampling import SamplingDefaults, token_limit
from engineroom.types import Chunk, Delta, Prompt, Response, SamplingParams, Tokenizer

_DEFAULTS = SamplingParams()


@dataclass(frozen=True, slots=True)
class Request:
    """One checked prompt: its parameters, the ids that end an answer among them.

    Attributes:
        first: the index of its first answer. Those to a later prompt of the same call are counted on from those before.
    """

    prompt: Prompt
    params: SamplingParams
    deadline: Deadline | None = None
    first: int = 0

    def reaches(self, stage: str) -> None:
        if self.deadline is not None:
            self.deadline.stage = stage

    def answer_params(self, index: int) -> SamplingParams:
        """The engine's parameters for the ``index``-th answer: one answer each, with a seed of its own."""
        if self.params.n == 1:
            return self.params
        seed = self.params.seed
        return replace(self.params, n=1, seed=None if seed is None else (seed + index) % (MAX_SEED + 1))


class Pipeline:
    """Joins one renderer, one engine and the parser."""

    def __init__(
        self,
        renderer: Renderer,
        engine: BaseEngine,
        tokenizer: Tokenizer,
        defaults: SamplingDefaults,
        *,
        admission: Admission,
        eos_token_ids: Sequence[int],
        vocab_size: int,
    ) -> None:
        self.renderer = renderer
        self.engine = engine
        self.defaults = defaults
        self.admission = admission
        self.upkeep = Upkeep(engine, admission)
        self.adapters = self.upkeep.adapters
        self._prompts = Prompts(renderer, engine, tokenizer, vocab_size)
        self.pooled = Pooled(self._prompts, engine, defaults, admission)
        self.prompt_tokens = self.cached_tokens = 0  # of all answers that came to an end
        self._tokenizer = tokenizer
        self._eos = tuple(eos_token_ids)

    # --- what the facade and the engine's seed interface call ------------------------------------------------------

    async def chat(self, call: Call) -> list[Response]:
        """The stream, folded."""
        answers: dict[int, list[Delta]] = {}
        async with aclosing(self.stream_deltas(call)) as deltas:
            async for delta in deltas:
                answers.setdefault(delta.index, []).append(delta)
        return [fold(answers[index]) for index in sorted(answers)]

    async def stream_chat(self, call: Call) -> AsyncGenerator[str, None]:
        """The stream's texts."""
        if self.defaults.resolve(call.sampling).n > 1:
            raise ParameterError(
                "n > 1 can't be streamed as plain text",
                why="the pieces of several answers would be mixed",
                fix="use stream_deltas, whose pieces carry an index, or chat",
                parameter="n",
            )
        async with aclosing(self.stream_deltas(call)) as deltas:
            async for delta in deltas:
                if delta.text:
                    yield delta.text

    async def stream_deltas(self, call: Call) -> AsyncGenerator[Delta, None]:
        """The one way to generate. Everything else folds or forwards this."""
        params = self.defaults.resolve(call.sampling)
        self._check_params(params)
        if params.timeout is None:
            async with self._entered(call, params, None) as deltas:
                async for delta in deltas:
                    yield delta
            return
        deadline = Deadline(params.timeout)
        async with aclosing(deadline.stream(self._timed(call, params, deadline))) as deltas:
            async for delta in deltas:
                yield delta

    async def _timed(
        self, call: Call, params: SamplingParams, deadline: Deadline
    ) -> AsyncGenerator[Delta, None]:
        async with self._entered(call, params, deadline) as deltas:
            async for delta in deltas:
                yield delta

    @asynccontextmanager
    async def _entered(
        self, call: Call, params: SamplingParams, deadline: Deadline | None
    ) -> AsyncGenerator[AsyncGenerator[Delta, None], None]:
        """The answers' deltas, within the places that they take. A generator more would cost each token its hop."""
        with (
            self.admission.place(1 if params.num_beams > 1 else params.n, prompts=len(call.prompts) or 1),
            self.adapters.used(params.adapter),
        ):
            requests = await self._requests(call, params, deadline)
            requests[0].reaches("it was being prepared")
            await self.engine.prepare(requests[0].params)
            requests[0].reaches("it was waiting for its turn in the engine")
            call.accepted()
            async with aclosing(self._answers(requests)) as deltas:
                yield deltas

    async def get_scores(self, batch_input: Sequence[Conversation], **kwargs: Any) -> list[float]:
        """The rewards' scores."""
        return [reward.score for reward in await self.pooled.get_rewards(batch_input, **kwargs)]

    def render(self, call: Call) -> Prompt:
        """The exact prompt that the engine would see."""
        return self._prompts.conversation(call)

    def resolve(self, request: Mapping[str, Any]) -> SamplingParams:
        """The parameters of a request with these values, refused as that request would be."""
        params = self.defaults.resolve(request)
        self._check_params(params)
        return params

    # --- the stages ------------------------------------------------------------------------------------------------

    async def _requests(
        self, call: Call, params: SamplingParams, deadline: Deadline | None
    ) -> Sequence[Request]:
        """All that a call asks for, rendered and checked: where one prompt is bad, none is answered."""
        self._check_chats()
        return await beside(partial(self._checked, call, params, deadline), call.length)

    def _checked(self, call: Call, params: SamplingParams, deadline: Deadline | None) -> Sequence[Request]:
        if not call.prompts:
            requests = [self._check(self.render(call), params)]
        else:
            _refuse_switches(call)
            requests = [
                replace(self._check_raw(call, place, params), first=place * params.n)
                for place in range(len(call.prompts))
            ]
        for request in requests:
            _check_format(request.prompt, request.params, call)
        return [replace(request, deadline=deadline) for request in requests] if deadline else requests

    def _check_raw(self, call: Call, place: int, params: SamplingParams) -> Request:
        try:
            return self._check(self._prompts.raw(call.prompts[place]), params)
        except RequestError as error:
            if len(call.prompts) > 1:
                error.within(f"prompt[{place}]")
            raise

    def _check_chats(self) -> None:
        if not self.engine.can_generate:
            kind, does, fix = (
                ("an embedding", "makes vectors", "get_embeddings, or `engineroom embed`")
                if self.engine.can_embed
                else ("a reward", "scores", "get_scores, or `engineroom score`")
            )
            raise RequestError(f"the model is {kind} model: it {does}, it does not chat", fix=f"use {fix}")

    def _check(self, prompt: Prompt, params: SamplingParams) -> Request:
        """What can only be judged with the prompt is refused here, before the engine is touched."""
        self._prompts.check_ids(prompt)
        if self.engine.context_length is not None:
            limit = token_limit(params, len(prompt), self.engine.context_length)
        else:
            limit = params.max_new_tokens or 1024
        ends = params.stop_token_ids if params.ignore_eos else (*params.stop_token_ids, *self._eos)
        checked = replace(params, max_new_tokens=limit, stop_token_ids=tuple(dict.fromkeys(ends)))
        return Request(prompt, checked)

    def _check_params(self, params: SamplingParams) -> None:
        for name in SamplingParams.names():
            if getattr(params, name) != getattr(_DEFAULTS, name):
                self.engine.require(name)
        if params.adapter is not None:
            self.adapters.check(params.adapter)
        for name in ("stop_token_ids", "logit_bias"):
            wrong = [i for i in getattr(params, name) if i >= self._prompts.vocab_size]
            if wrong:
                raise ParameterError(
                    f"{name} holds token id {wrong[0]}",
                    why=f"ids go up to {self._prompts.vocab_size - 1}",
                    parameter=name,
                )

    def _answers(self, requests: Sequence[Request]) -> AsyncGenerator[Delta, None]:
        streams = [
            self._answer(request, index)
            for request in requests
            for index in range(1 if request.params.num_beams > 1 else request.params.n)
        ]
        return streams[0] if len(streams) == 1 else interleave(streams)

    async def _answer(self, request: Request, index: int) -> AsyncGenerator[Delta, None]:
        """One call of the engine: the prompt's ``index``-th answer, or its ``n`` best beams."""
        params = request.params if request.params.num_beams > 1 else request.answer_params(index)
        expected = params.n if params.num_beams > 1 else 1
        parsers: dict[int, AnswerParser] = {}
        async with self.admission.slot():
            request.reaches("the engine was reading the prompt")
            chunks = self.engine.generate(request.prompt, params)
            try:
                async for chunk in chunks:
                    self.admission.moved()
                    parser = parsers.get(chunk.index)
                    if parser is None:
                        parser = parsers[chunk.index] = self._parser(
                            request, request.first + index + chunk.index
                        )
                    if parser.finished:
                        continue
                    for delta in parser.push(chunk):
                        if delta.usage is not None:
                            self.prompt_tokens += delta.usage.prompt_tokens
                            self.cached_tokens += delta.usage.cached_tokens
                        yield delta
                    if not parser.finished:
                        continue
                    if len(parsers) == expected and all(p.finished for p in parsers.values()):
                        return
            finally:
                await _aclose(chunks)
        raise GenerationError(
            "the engine ended the stream without a finish reason", fix="report this as a bug"
        )

    def _parser(self, request: Request, index: int) -> AnswerParser:
        return AnswerParser(
            self._tokenizer,
            index=index,
            prompt_tokens=len(request.prompt),
            stop=request.params.stop,
            end_ids=request.params.stop_token_ids,
            skip_special_tokens=request.params.skip_special_tokens,
            thinking_tags=self.renderer.template.thinking_tags,
            inside_thinking=request.prompt.inside_thinking,
        )


def _check_format(prompt: Prompt, params: SamplingParams, call: Call) -> None:
    """A format describes the whole answer: from its first token, to an end."""
    if params.response_format is None:
        return
    if prompt.inside_thinking:
        raise ParameterError(
            "response_format can't be combined with thinking",
            why="this prompt ends inside a thinking block, and the format describes the whole answer",
            fix="enable_thinking=false",
            parameter="response_format",
        )
    if call.rendering.get("continue_final"):
        raise ParameterError(
            "response_format can't be combined with continue_final",
            why="the format describes the whole answer, and this one was begun",
            fix="leave one of the two out",
            parameter="response_format",
        )
    if not params.stop_token_ids:
        raise ParameterError(
            "response_format needs a token that ends the answer",
            why="ignore_eos leaves none" if params.ignore_eos else "this model has none",
            fix="leave ignore_eos out" if params.ignore_eos else "name one in stop_token_ids",
            parameter="response_format",
        )


def _refuse_switches(call: Call) -> None:
    for name in call.rendering:
        raise ParameterError(
            f"{name} has no meaning for a prompt without a template", fix="leave it out", parameter=name
        )


async def _aclose(chunks: AsyncIterator[Chunk]) -> None:
    aclose = getattr(chunks, "aclose", None)
    if aclose is not None:
        await aclose()
