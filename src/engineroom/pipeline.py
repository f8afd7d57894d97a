"""The path of a request: render → engine → parse. Everything here runs on the model's own event loop."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from engineroom.adapters import Adapters
from engineroom.admission import Admission
from engineroom.call import Call, Conversation, RawPrompt, beside, text_length
from engineroom.deadline import Deadline
from engineroom.engines.base import BaseEngine
from engineroom.engines.capabilities import engines_with
from engineroom.engines.successor import successor
from engineroom.errors import (
    EngineNotReadyError,
    EngineroomError,
    GenerationError,
    MessageError,
    ParameterError,
    RequestError,
    UnsupportedError,
    shown,
)
from engineroom.params import MAX_SEED
from engineroom.parse import AnswerParser
from engineroom.render import Renderer, parse_messages, parse_tools
from engineroom.sampling import SamplingDefaults, check_text, most_text, token_limit
from engineroom.types import (
    Chunk,
    Delta,
    Embedding,
    Prompt,
    Response,
    Reward,
    SamplingParams,
    Tokenizer,
)

T = TypeVar("T")

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
        self.adapters = Adapters(engine)
        self.asleep = False
        self.weights: Path | None = None  # those of an update; None are those of the start
        self.prompt_tokens = self.cached_tokens = 0  # of all answers that came to an end
        self._alone = asyncio.Lock()
        self._updates: set[asyncio.Task[None]] = set()
        self._tokenizer = tokenizer
        self._eos = tuple(eos_token_ids)
        self._vocab_size = vocab_size

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
        return [reward.score for reward in await self.get_rewards(batch_input, **kwargs)]

    async def get_rewards(self, batch_input: Sequence[Conversation], **kwargs: Any) -> list[Reward]:
        """A reward for each text or conversation. ``timeout`` is understood, and no other parameter.

        Raises:
            RequestTimeoutError: it passed.
        """
        timeout = self.defaults.resolve({"timeout": kwargs.pop("timeout", None)}).timeout
        _check_batch("get_scores", batch_input, kwargs)
        self._check_feature("score")
        if self.engine.can_generate or self.engine.can_embed:
            raise RequestError(
                "the model is not a reward model",
                why="its checkpoint has neither a sequence-classification nor a value head",
                fix="name a reward model, such as model_name_or_path=demo-reward",
            )
        if not batch_input:
            return []

        async def score(prompts: Sequence[Prompt]) -> list[Reward]:
            scores = await self.engine.score(prompts)
            return [Reward(value, len(prompt)) for value, prompt in zip(scores, prompts, strict=True)]

        return await self._batch(batch_input, timeout, score, "scored")

    async def get_embeddings(
        self,
        batch_input: Sequence[Conversation],
        *,
        dimensions: int | None = None,
        normalize: bool | None = None,
        **kwargs: Any,
    ) -> list[Embedding]:
        """A vector for each text or conversation. ``timeout`` is understood, too.

        Raises:
            RequestTimeoutError: it passed.
        """
        timeout = self.defaults.resolve({"timeout": kwargs.pop("timeout", None)}).timeout
        _check_batch("get_embeddings", batch_input, kwargs)
        self._check_feature("embed")
        if not self.engine.can_embed:
            raise RequestError(
                "the model was not loaded as an embedding model",
                fix="load it with stage=embed",
            )
        if normalize is not None and not isinstance(normalize, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ParameterError(
                f"normalize={shown(normalize)} is not allowed", why="true or false", parameter="normalize"
            )
        self._check_dimensions(dimensions)
        if not batch_input:
            return []
        unit = self.engine.pooling.normalize if normalize is None else normalize

        async def embed(prompts: Sequence[Prompt]) -> list[Embedding]:
            vectors = await self.engine.embed(prompts)
            return [
                Embedding(_shaped(vector, dimensions, unit), len(prompt))
                for vector, prompt in zip(vectors, prompts, strict=True)
            ]

        return await self._batch(batch_input, timeout, embed, "embedded")

    async def load_adapter(self, name: str, path: str | os.PathLike[str]) -> None:
        """Beside whatever runs."""
        self._check_feature("load_adapter")
        if not self.engine.can_generate:
            raise RequestError(
                "the model does not chat, and only a request to chat chooses an adapter",
                fix="load the model with adapter_name_or_path",
            )
        self.admission.check_open()
        await self.adapters.load(name, path)

    async def unload_adapter(self, name: str) -> None:
        """When no answer needs it."""
        self._check_feature("load_adapter")
        self.admission.check_open()
        await self.adapters.unload(name)

    async def sleep(self, level: int) -> None:
        """When all who are in have been served; whoever comes meanwhile is refused."""
        self._check_feature("sleep")
        if level != 1:
            raise ParameterError(
                f"level={shown(level)} is not allowed",
                why="1 keeps the weights in the host's memory; there is no other level",
                fix="to free that too: close()",
                parameter="level",
            )
        async with self._alone:
            if self.asleep:
                return
            self.admission.refusal = _sleeping
            try:
                await self.admission.emptied()
                await self.engine.sleep()
            except BaseException:
                self.admission.refusal = None
                raise
            self.asleep = True

    async def wake(self) -> None:
        """Nothing, if the model is awake."""
        self._check_feature("sleep")
        async with self._alone:
            if self.asleep:
                await self.engine.wake()
                self.admission.refusal, self.asleep = None, False

    async def flush_cache(self) -> None:
        """When all who are in have been served; whoever comes meanwhile is refused."""
        self._check_feature("flush_cache")
        async with self._nobody_in(_flushing):
            await self.engine.flush_cache()

    async def update_weights(self, path: str | os.PathLike[str]) -> None:
        """Likewise. It goes on if its caller leaves: an engine can't be left with half of the weights."""
        self._check_feature("update_weights")
        if not self.engine.can_generate or self.engine.adapters:
            raise RequestError(
                "the weights can be changed under a model that chats, without adapters",
                why=f"adapters: {', '.join(self.engine.adapters)}"
                if self.engine.adapters
                else "the model does not chat",
                fix="unload the adapters first" if self.engine.adapters else "make a new ChatModel",
            )
        assert self.engine.checkpoint is not None
        folder = await asyncio.to_thread(successor, self.engine.checkpoint, path)
        task = asyncio.create_task(self.take_weights(folder))
        self._updates.add(task)
        task.add_done_callback(self._updates.discard)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may end unheard
        await asyncio.shield(task)

    async def take_weights(self, folder: Path) -> None:
        """Without a look at what they are."""
        async with self._nobody_in(_updating):
            await self.engine.update_weights(folder)
            self.weights = folder

    @asynccontextmanager
    async def _nobody_in(self, refusal: Callable[[], EngineroomError]) -> AsyncGenerator[None, None]:
        """Waits until all have been served, and keeps others out."""
        async with self._alone:
            self.admission.check_open()
            self.admission.refusal = refusal
            try:
                await self.admission.emptied()
                yield
            finally:
                if self.admission.refusal is refusal:  # else a restart keeps them out
                    self.admission.refusal = None

    def render(self, call: Call) -> Prompt:
        """The exact prompt that the engine would see."""
        for name, value in call.rendering.items():
            if not isinstance(value, bool):
                raise ParameterError(
                    f"{name}={shown(value)} is not allowed", why="true or false", parameter=name
                )
        self._check_text((call.messages, call.system))
        messages = parse_messages(
            call.messages, system=call.system, images=call.images, videos=call.videos, audios=call.audios
        )
        return self.renderer.render(messages, parse_tools(call.tools), **call.rendering)

    def _raw(self, prompt: RawPrompt) -> Prompt:
        """A prompt as it is.

        Raises:
            RequestError: it has no tokens, too many, or such as the model does not have.
        """
        if isinstance(prompt, str):
            self._check_text(prompt)
            return self.renderer.render_raw(prompt)
        if self.engine.context_length is not None:
            token_limit(
                _DEFAULTS, len(prompt), self.engine.context_length
            )  # before a million ids are looked at
        ids = tuple(prompt)
        if not _are_integers(ids):
            raise MessageError("a prompt is a text or token ids", fix="send one of the two")
        wrong = next((i for i in ids and (min(ids), max(ids)) if not 0 <= i < self._vocab_size), None)
        if wrong is not None:
            raise MessageError(
                f"the model has no token id {shown(wrong)}", why=f"ids go from 0 to {self._vocab_size - 1}"
            )
        return Prompt(ids, self._tokenizer.decode(ids, skip_special_tokens=False))

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
            return self._check(self._raw(call.prompts[place]), params)
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

    async def _batch(
        self,
        batch: Sequence[Conversation],
        seconds: float | None,
        work: Callable[[Sequence[Prompt]], Awaitable[list[T]]],
        done: str,
    ) -> list[T]:
        """What the engine makes of whole texts, in time."""
        if seconds is None:
            return await self._batch_until(None, batch, work, done)
        self._check_feature("timeout")
        deadline = Deadline(seconds)
        return await deadline.wait(self._batch_until(deadline, batch, work, done))

    async def _batch_until(
        self,
        deadline: Deadline | None,
        batch: Sequence[Conversation],
        work: Callable[[Sequence[Prompt]], Awaitable[list[T]]],
        done: str,
    ) -> list[T]:
        with self.admission.place(1):
            prompts = await self._batch_prompts(batch)
            if deadline is not None:
                deadline.stage = "it was waiting for its turn in the engine"
            async with self.admission.slot():
                if deadline is not None:
                    deadline.stage = f"the engine had not {done} all {len(prompts)} of them"
                return await work(prompts)

    async def _batch_prompts(self, batch: Sequence[Conversation]) -> list[Prompt]:
        def render() -> list[Prompt]:
            return [self._whole(item, place) for place, item in enumerate(batch)]

        return await beside(render, text_length(batch))

    def _check(self, prompt: Prompt, params: SamplingParams) -> Request:
        """What can only be judged with the prompt is refused here, before the engine is touched."""
        self._check_ids(prompt)
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
                self._check_feature(name)
        if params.adapter is not None:
            self.adapters.check(params.adapter)
        for name in ("stop_token_ids", "logit_bias"):
            wrong = [i for i in getattr(params, name) if i >= self._vocab_size]
            if wrong:
                raise ParameterError(
                    f"{name} holds token id {wrong[0]}",
                    why=f"ids go up to {self._vocab_size - 1}",
                    parameter=name,
                )

    def _check_text(self, text: Any) -> None:
        """Of a prompt or a conversation: is it worth the time that a tokenizer takes?"""
        context = self.engine.context_length
        check_text(text_length(text, enough=most_text(context)), context)

    def _check_ids(self, prompt: Prompt) -> None:
        """An id without an embedding would fail the whole device on CUDA, not only its request."""
        if not prompt.token_ids:
            raise MessageError("the prompt has no tokens", fix="send some text")
        highest = max(prompt.token_ids)
        if highest >= self._vocab_size:
            raise MessageError(
                f"the tokenizer made token id {highest}, and the model has ids up to {self._vocab_size - 1}",
                why="the tokenizer has tokens that the model was not resized for",
                fix="save the model again with resized embeddings, or leave that token out of the text",
            )

    def _check_feature(self, feature: str) -> None:
        if self.engine.capabilities.get(feature, "unsupported") == "unsupported":
            reason = self.engine.lacks.get(feature, "")
            others = [name for name in engines_with(feature) if name != self.engine.name and not reason]
            raise UnsupportedError(feature, self.engine.name, others, why=reason)

    def _check_dimensions(self, dimensions: Any) -> None:
        if dimensions is None:
            return
        size = self.engine.checkpoint.hidden_size if self.engine.checkpoint else None
        whole = isinstance(dimensions, int) and not isinstance(dimensions, bool)
        if not whole or dimensions < 1 or (size is not None and dimensions > size):
            raise ParameterError(
                f"dimensions={shown(dimensions)} is not allowed",
                why=f"an integer from 1 to {size}" if size else "an integer of at least 1",
                parameter="dimensions",
            )

    def _whole(self, item: Any, place: int) -> Prompt:
        try:
            if isinstance(item, str) or _is_ids(item):
                prompt = self._raw(item)
            else:
                self._check_text(item)
                prompt = self.renderer.render_scored(parse_messages(item))
            self._check_ids(prompt)
            limits = (self.engine.context_length, self.engine.pooling.max_tokens)
            limit = min((limit for limit in limits if limit is not None), default=None)
            if limit is not None:
                token_limit(_DEFAULTS, len(prompt) - 1, limit)
        except RequestError as error:
            error.within(f"batch_input[{place}]")
            raise
        return prompt

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


def _is_ids(item: Any) -> bool:
    """A text as token ids, rather than a conversation."""
    if not isinstance(item, (list, tuple)):
        return False
    items = cast("Sequence[Any]", item)
    return bool(items) and _are_integers(items)


def _are_integers(items: Sequence[Any]) -> bool:
    return {int}.issuperset(map(type, items))


def _check_batch(method: str, batch_input: Any, unknown: Mapping[str, Any]) -> None:
    for name, value in unknown.items():
        if value is not None:
            raise ParameterError(f"{method} has no parameter {name!r}", fix="leave it out", parameter=name)
    if isinstance(batch_input, str) or not isinstance(batch_input, Sequence):
        raise MessageError(
            f"{method} takes a list of texts or of conversations", fix='wrap it in a list: ["a text"]'
        )


def _shaped(vector: Sequence[float], dimensions: int | None, unit: bool) -> tuple[float, ...]:
    """The first ``dimensions`` numbers (Matryoshka embeddings, Kusupati et al. 2022), then the length 1.

    Raises:
        GenerationError: the vector holds what is not a number.
    """
    if not all(map(math.isfinite, vector)):
        raise GenerationError(
            "the model's embedding is not a number (NaN or infinite)",
            why="the weights are broken, or infer_dtype overflows on this text",
            fix="try infer_dtype=float32 or infer_dtype=bfloat16",
        )
    kept = tuple(vector[:dimensions])
    length = math.hypot(*kept) if unit else 1.0
    return tuple(value / length for value in kept) if length else kept


def _sleeping() -> EngineroomError:
    return EngineNotReadyError("the model sleeps", fix="wake it: model.wake()")


def _flushing() -> EngineroomError:
    return EngineNotReadyError("the model's cache is being flushed", fix="try again in a moment")


def _updating() -> EngineroomError:
    return EngineNotReadyError("the model's weights are being changed", fix="try again when they are")


def fold(deltas: Sequence[Delta]) -> Response:
    """One answer's deltas as a whole."""
    last = deltas[-1]
    if last.finish_reason is None or last.usage is None:
        raise GenerationError("the answer has no end", fix="report this as a bug")
    logprobs = [entry for delta in deltas if delta.logprobs is not None for entry in delta.logprobs]
    return Response(
        response_text="".join(delta.text for delta in deltas),
        response_length=last.usage.completion_tokens,
        prompt_length=last.usage.prompt_tokens,
        finish_reason=last.finish_reason,
        reasoning_text="".join(delta.text for delta in deltas if delta.channel == "reasoning"),
        token_ids=tuple(i for delta in deltas for i in delta.token_ids),
        logprobs=tuple(logprobs) if any(delta.logprobs is not None for delta in deltas) else None,
        prompt_logprobs=next((d.prompt_logprobs for d in deltas if d.prompt_logprobs is not None), None),
        cached_length=last.usage.cached_tokens,
        stop_string=last.stop_string,
    )


async def interleave(streams: Sequence[AsyncGenerator[Delta, None]]) -> AsyncGenerator[Delta, None]:
    """Items of several streams as they come. The first error ends all."""
    items: asyncio.Queue[Delta | BaseException | None] = asyncio.Queue(maxsize=64)

    async def drain(stream: AsyncGenerator[Delta, None]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    await items.put(item)
        except Exception as error:
            await items.put(error)
        else:
            await items.put(None)

    tasks = [asyncio.create_task(drain(stream)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            item = await items.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _aclose(chunks: AsyncIterator[Chunk]) -> None:
    aclose = getattr(chunks, "aclose", None)
    if aclose is not None:
        await aclose()
