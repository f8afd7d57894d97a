"""ChatModel: the facade over every engine."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import warnings
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engineroom.admission import Admission
from engineroom.bridge import Bridge
from engineroom.call import Call, Conversation, RawPrompt, nobody, raw_prompts
from engineroom.config import Arguments, ArgumentSource, max_concurrent, parse_arguments
from engineroom.engines import registry
from engineroom.engines.base import BaseEngine, Health, Progress
from engineroom.errors import (
    EngineDeadError,
    EngineError,
    EngineNotReadyError,
    EngineroomError,
)
from engineroom.pipeline import Pipeline
from engineroom.render import Renderer, load_tokenizer, resolve_template
from engineroom.sampling import SamplingDefaults
from engineroom.types import Delta, Embedding, Prompt, Response, Reward, SamplingParams, Tokenizer


class TemplateWarning(UserWarning):
    """The prompt is not made as the model's author meant it."""


class SamplingWarning(UserWarning):
    """The model's generation_config.json asks for something that engineroom does not do."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a model is at work on.

    Attributes:
        running: answers in the engine.
        waiting: answers that are being rendered or wait for their turn.
        limit: the most that run at once.
        max_queue: the most that may wait.
        still: seconds for which the engine has given nothing though answers are due.
    """

    running: int
    waiting: int
    limit: int
    max_queue: int
    still: float = 0.0


class ChatModel:
    """One model behind one engine, to chat with and to score with.

    Sync methods: ``chat``, ``stream_chat``, ``stream_deltas``, ``get_scores``, ``get_embeddings``; ``load_adapter``,
    ``unload_adapter``, ``sleep``, ``wake``, ``restart``, ``flush_cache``, ``update_weights``. Each has an async twin with an ``a`` in front, which works on
    any event loop. All may be called from many threads at once. ``close()`` it, or use ``with``.

    Args:
        args: LLaMA-Factory's inference arguments: a mapping, the path of a YAML or JSON file, or command-line words.
            Without ``model_name_or_path`` the shipped model answers.
        engine: an engine object to use instead of the one that ``infer_backend`` names.
        progress: called with the stage and the share done while the model loads, from any thread.
        bridge: an event loop to live on beside others, such as a server's, which outlives the model; without it the
            model has one of its own.

    Raises:
        ArgumentError: an argument is unknown, mistyped, out of range, or for training only.
        ModelError: the model can't be found or loaded.
        EngineError: the engine can't run here.

    Attributes:
        arguments: the checked arguments.
        engine: the engine, with LLaMA-Factory's ``BaseEngine`` interface.
        warnings: what the user should know about this model, in full sentences.
    """

    def __init__(
        self,
        args: ArgumentSource = None,
        *,
        engine: BaseEngine | None = None,
        progress: Progress | None = None,
        bridge: Bridge | None = None,
    ) -> None:
        report = progress or _silent
        self.arguments = parse_arguments(args)
        self._given = engine is not None
        self.engine = engine or registry.make(self.arguments)
        self._tokenizer = self.engine.tokenizer or _load_tokenizer(self.engine, self.arguments, report)
        self.engine.tokenizer = self._tokenizer
        template, warning = resolve_template(self._tokenizer, self.arguments.template)
        self._template = template
        checkpoint = self.engine.checkpoint
        self._defaults = SamplingDefaults(
            checkpoint.generation_config if checkpoint else {}, self.arguments.sampling()
        )
        self.warnings = [text for text in (warning, self._defaults.warning) if text]
        if warning:
            warnings.warn(warning, TemplateWarning, stacklevel=2)
        if self._defaults.warning:
            warnings.warn(self._defaults.warning, SamplingWarning, stacklevel=2)
        max_concurrent(self.arguments)  # refused before anything is loaded
        self.renderer = Renderer(
            self._tokenizer,
            template,
            engine_name=self.engine.name,
            default_system=self.arguments.default_system,
            enable_thinking=self.arguments.enable_thinking,
        )
        self._bridge = bridge or Bridge()
        self._closer = _Closer(self._bridge, self.engine, owns_bridge=bridge is None)
        weakref.finalize(self, self._closer.forgotten).atexit = False
        atexit.register(self._closer)
        try:
            self._bridge.call(self.engine.start(report))
        except BaseException:
            self.close()
            raise
        self._pipeline = self._join(self.engine)
        self._restarting: asyncio.Task[None] | None = None
        self._restart_failed: Exception | None = None

    def _join(self, engine: BaseEngine) -> Pipeline:
        """The path through an engine that has started."""
        checkpoint = engine.checkpoint
        limit = max_concurrent(self.arguments) or engine.max_concurrency
        pipeline = Pipeline(
            self.renderer,
            engine,
            self._tokenizer,
            self._defaults,
            admission=Admission(limit, self.arguments.max_queue),
            eos_token_ids=(*(checkpoint.eos_token_ids if checkpoint else ()), *self._tokenizer.eos_token_ids),
            vocab_size=(checkpoint.vocab_size if checkpoint else None) or self._tokenizer.vocab_size,
        )
        engine.frontend = pipeline
        engine.template = self._template
        engine.generating_args = {n: getattr(self.sampling, n) for n in SamplingParams.names()}
        return pipeline

    # --- facts -------------------------------------------------------------------------------------------------

    @property
    def sampling(self) -> SamplingParams:
        """The sampling defaults in force: the model's own, changed by the arguments."""
        return self._defaults.params

    def resolve_sampling(self, **input_kwargs: Any) -> SamplingParams:
        """The parameters that a request with these values would be answered with.

        Raises:
            ParameterError, UnsupportedError: as that request would.
        """
        return self._pipeline.resolve(input_kwargs)

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and answer together."""
        return self.engine.context_length

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def adapters(self) -> Mapping[str, Path]:
        """The LoRA adapters that a request can choose with ``adapter``: name → folder."""
        return self._pipeline.adapters.open

    @property
    def load(self) -> Load:
        """How many answers the model is at work on, and how many it would take."""
        admission = self._pipeline.admission
        return Load(
            admission.running,
            admission.accepted - admission.running,
            admission.limit,
            admission.max_queue,
            admission.still,
        )

    @property
    def weights(self) -> Path | None:
        """The checkpoint that ``update_weights`` took; None if the weights are those of the start."""
        return self._pipeline.upkeep.weights

    @property
    def can_restart(self) -> bool:
        """Do the arguments tell how to make the engine again? Not if it was given as an object."""
        return not self._given

    @property
    def is_sleeping(self) -> bool:
        return self._pipeline.upkeep.asleep

    def health(self) -> Health:
        """How the engine is; after a failed restart, ``dead`` with the reason."""
        counted = self._pipeline
        health = replace(
            self.engine.health(), prompt_tokens=counted.prompt_tokens, cached_tokens=counted.cached_tokens
        )
        if self._restart_failed is not None:
            return Health("dead", detail=str(self._restart_failed))
        return replace(health, state="sleeping") if self.is_sleeping and health.state == "ready" else health

    def render(
        self,
        messages: Conversation,
        system: str | None = None,
        tools: Any = None,
        images: Any = None,
        videos: Any = None,
        audios: Any = None,
        *,
        enable_thinking: bool | None = None,
        continue_final: bool = False,
    ) -> Prompt:
        """The exact prompt that the model would see, as text and token ids."""
        switches = {"enable_thinking": enable_thinking, "continue_final": continue_final}
        return self._pipeline.render(Call(messages, system, tools, images, videos, audios, switches))

    # --- chat --------------------------------------------------------------------------------------------------

    def chat(
        self,
        messages: Conversation,
        system: str | None = None,
        tools: Any = None,
        images: Any = None,
        videos: Any = None,
        audios: Any = None,
        **input_kwargs: Any,
    ) -> list[Response]:
        """Whole answers, ``n`` of them.

        Args:
            messages: the conversation: mappings with ``role`` and ``content``, or one user message as a string.
            system: a system prompt in front.
            tools: functions that the model may call, as JSON text or a list of definitions.
            images, videos, audios: not supported yet; refused by name.
            input_kwargs: any field of :class:`SamplingParams`; ``enable_thinking``; ``continue_final`` to go on from
                a last assistant message.

        Raises:
            RequestError: the request can't be served as asked; the engine was not touched.
            EngineError: the engine is busy, dead, closed, or failed on this request.
        """
        call = Call(messages, system, tools, images, videos, audios, input_kwargs)
        return self._bridge.call(self._pipeline.chat(call))

    async def achat(
        self,
        messages: Conversation,
        system: str | None = None,
        tools: Any = None,
        images: Any = None,
        videos: Any = None,
        audios: Any = None,
        **input_kwargs: Any,
    ) -> list[Response]:
        """:meth:`chat`, awaited. Cancelling the await frees the engine's slot."""
        call = Call(messages, system, tools, images, videos, audios, input_kwargs)
        return await self._bridge.acall(self._pipeline.chat(call))

    def stream_chat(
        self,
        messages: Conversation,
        system: str | None = None,
        tools: Any = None,
        images: Any = None,
        videos: Any = None,
        audios: Any = None,
        **input_kwargs: Any,
    ) -> Generator[str, None, None]:
        """The answer's text in pieces; joined, they are ``chat``'s ``response_text``. Leaving the loop stops it."""
        call = Call(messages, system, tools, images, videos, audios, input_kwargs)
        yield from self._bridge.stream(partial(self._pipeline.stream_chat, call))

    async def astream_chat(
        self,
        messages: Conversation,
        system: str | None = None,
        tools: Any = None,
        images: Any = None,
        videos: Any = None,
        audios: Any = None,
        **input_kwargs: Any,
    ) -> AsyncGenerator[str, None]:
        """:meth:`stream_chat`, asynchronously. Closing the generator stops the answer."""
        call = Call(messages, system, tools, images, videos, audios, input_kwargs)
        async with aclosing(self._bridge.astream(partial(self._pipeline.stream_chat, call))) as pieces:
            async for text in pieces:
                yield text

    def stream_deltas(
        self,
        messages: Conversation,
        system: str | None = None,
        tools: Any = None,
        images: Any = None,
        videos: Any = None,
        audios: Any = None,
        **input_kwargs: Any,
    ) -> Generator[Delta, None, None]:
        """The answer in pieces that carry everything: tokens, log-probabilities, channel, finish reason, usage."""
        call = Call(messages, system, tools, images, videos, audios, input_kwargs)
        yield from self._bridge.stream(partial(self._pipeline.stream_deltas, call))

    def astream_deltas(
        self,
        messages: Conversation,
        system: str | None = None,
        tools: Any = None,
        images: Any = None,
        videos: Any = None,
        audios: Any = None,
        *,
        accepted: Callable[[], object] = nobody,
        **input_kwargs: Any,
    ) -> AsyncGenerator[Delta, None]:
        """:meth:`stream_deltas`, asynchronously. Closing the generator stops the answer.

        Args:
            accepted: called on the model's event loop when nothing is left that could be refused. What comes now is
                answers, or an error of the engine's.
        """
        call = Call(messages, system, tools, images, videos, audios, input_kwargs, accepted=accepted)
        return self._bridge.astream(partial(self._pipeline.stream_deltas, call))

    # --- prompts without a template -----------------------------------------------------------------------------

    def complete(self, prompt: RawPrompt | Sequence[RawPrompt], **input_kwargs: Any) -> list[Response]:
        """What the model writes behind a text or token ids, taken as they are: no chat template is put around.

        Args:
            prompt: or a list of several of them, which are taken together or not at all. Their answers come one
                prompt's after the other's, and ``index`` counts on.

        Raises:
            RequestError, EngineError: as :meth:`chat`.
        """
        return self._bridge.call(
            self._pipeline.chat(Call((), options=input_kwargs, prompts=raw_prompts(prompt)))
        )

    async def acomplete(self, prompt: RawPrompt | Sequence[RawPrompt], **input_kwargs: Any) -> list[Response]:
        """:meth:`complete`, awaited. Cancelling the await frees the engine's slot."""
        return await self._bridge.acall(
            self._pipeline.chat(Call((), options=input_kwargs, prompts=raw_prompts(prompt)))
        )

    def stream_completion(
        self, prompt: RawPrompt | Sequence[RawPrompt], **input_kwargs: Any
    ) -> Generator[Delta, None, None]:
        """:meth:`complete` in pieces, as :meth:`stream_deltas` gives them."""
        call = Call((), options=input_kwargs, prompts=raw_prompts(prompt))
        yield from self._bridge.stream(partial(self._pipeline.stream_deltas, call))

    def astream_completion(
        self,
        prompt: RawPrompt | Sequence[RawPrompt],
        *,
        accepted: Callable[[], object] = nobody,
        **input_kwargs: Any,
    ) -> AsyncGenerator[Delta, None]:
        """:meth:`stream_completion`, asynchronously, with :meth:`astream_deltas`'s ``accepted``."""
        call = Call((), options=input_kwargs, prompts=raw_prompts(prompt), accepted=accepted)
        return self._bridge.astream(partial(self._pipeline.stream_deltas, call))

    # --- scores ------------------------------------------------------------------------------------------------

    def get_scores(self, batch_input: Sequence[Conversation], **input_kwargs: Any) -> list[float]:
        """A reward model's score for each raw text, or for each conversation rendered by the chat template."""
        return self._bridge.call(self._pipeline.get_scores(batch_input, **input_kwargs))

    async def aget_scores(self, batch_input: Sequence[Conversation], **input_kwargs: Any) -> list[float]:
        """:meth:`get_scores`, awaited."""
        return await self._bridge.acall(self._pipeline.get_scores(batch_input, **input_kwargs))

    def get_rewards(self, batch_input: Sequence[Conversation], **input_kwargs: Any) -> list[Reward]:
        """:meth:`get_scores` with the length of each text."""
        return self._bridge.call(self._pipeline.pooled.get_rewards(batch_input, **input_kwargs))

    async def aget_rewards(self, batch_input: Sequence[Conversation], **input_kwargs: Any) -> list[Reward]:
        """:meth:`get_rewards`, awaited."""
        return await self._bridge.acall(self._pipeline.pooled.get_rewards(batch_input, **input_kwargs))

    # --- embeddings ---------------------------------------------------------------------------------------------

    def get_embeddings(self, batch_input: Sequence[Conversation], **input_kwargs: Any) -> list[Embedding]:
        """A vector for each raw text, or for each conversation rendered by the chat template.

        Args:
            input_kwargs: ``dimensions`` keeps the first so many numbers, which a model trained for it allows
                (Matryoshka); ``normalize`` says whether the vectors have the length 1. Without it they do, unless the
                checkpoint's own ``modules.json`` says otherwise. ``timeout`` bounds the whole call, in seconds.

        Raises:
            RequestError: the model was not loaded with ``stage=embed``, or a text can't be read.
            GenerationError: a vector is not a number.
        """
        return self._bridge.call(self._pipeline.pooled.get_embeddings(batch_input, **input_kwargs))

    async def aget_embeddings(
        self, batch_input: Sequence[Conversation], **input_kwargs: Any
    ) -> list[Embedding]:
        """:meth:`get_embeddings`, awaited."""
        return await self._bridge.acall(self._pipeline.pooled.get_embeddings(batch_input, **input_kwargs))

    # --- adapters ----------------------------------------------------------------------------------------------

    def load_adapter(self, name: str, path: str | os.PathLike[str]) -> None:
        """Loads a LoRA adapter, for requests to choose with ``adapter=name``. Answers go on meanwhile.

        Raises:
            ParameterError: the name is taken, or has spaces in it.
            ModelError: there is no adapter, or it does not fit the model. Everything else stays as it was.
            ArgumentError: the engine was started with too little room for it, or for a lower rank.
            UnsupportedError: the engine can't, or was not started for it; the error says which.
        """
        self._bridge.call(self._pipeline.upkeep.load_adapter(name, path))

    async def aload_adapter(self, name: str, path: str | os.PathLike[str]) -> None:
        """:meth:`load_adapter`, awaited."""
        await self._bridge.acall(self._pipeline.upkeep.load_adapter(name, path))

    def unload_adapter(self, name: str) -> None:
        """Unloads an adapter when the answers that use it have ended. From now on no request can choose it.

        Raises:
            ParameterError: there is no such adapter; the error names those that there are.
        """
        self._bridge.call(self._pipeline.upkeep.unload_adapter(name))

    async def aunload_adapter(self, name: str) -> None:
        """:meth:`unload_adapter`, awaited. Cancelling the await, while answers use it, keeps the adapter."""
        await self._bridge.acall(self._pipeline.upkeep.unload_adapter(name))

    # --- sleep and restart -------------------------------------------------------------------------------------

    def sleep(self, level: int = 1) -> None:
        """Frees the accelerator's memory when those who are in have been served; the weights wait in the host's.

        Whoever asks for something meanwhile gets ``EngineNotReadyError``. A model that sleeps already sleeps on.

        Raises:
            UnsupportedError: the engine can't here; the error says why.
        """
        self._bridge.call(self._pipeline.upkeep.sleep(level))

    async def asleep(self, level: int = 1) -> None:
        """:meth:`sleep`, awaited."""
        await self._bridge.acall(self._pipeline.upkeep.sleep(level))

    def wake(self) -> None:
        """Brings the weights back. A model that is awake stays so."""
        self._bridge.call(self._pipeline.upkeep.wake())

    async def awake(self) -> None:
        """:meth:`wake`, awaited."""
        await self._bridge.acall(self._pipeline.upkeep.wake())

    # --- cache and weights -------------------------------------------------------------------------------------

    def flush_cache(self) -> None:
        """Forgets what was computed for earlier prompts, when those who are in have been served.

        Whoever asks for something meanwhile gets ``EngineNotReadyError``. ``health()`` tells how many tokens of the
        prompts were found in the cache, ``Response.usage`` of a single one.

        Raises:
            UnsupportedError: the engine has none.
        """
        self._bridge.call(self._pipeline.upkeep.flush_cache())

    async def aflush_cache(self) -> None:
        """:meth:`flush_cache`, awaited."""
        await self._bridge.acall(self._pipeline.upkeep.flush_cache())

    def update_weights(self, path: str | os.PathLike[str]) -> None:
        """Takes the weights of another checkpoint of the same model, such as a later one of its training, in place.

        It waits for those who are in; whoever asks meanwhile gets ``EngineNotReadyError``. Tokenizer, template and
        sampling defaults stay. ``restart`` comes back with these weights.

        Raises:
            ModelError: there is no checkpoint, or one of another architecture, or it can't be loaded. The old weights
                answer on.
            RequestError: adapters are loaded, or the model does not chat.
            UnsupportedError: the engine can't; make a new ChatModel.
        """
        self._bridge.call(self._pipeline.upkeep.update_weights(path))

    async def aupdate_weights(self, path: str | os.PathLike[str]) -> None:
        """:meth:`update_weights`, awaited. It goes on if the await is cancelled."""
        await self._bridge.acall(self._pipeline.upkeep.update_weights(path))

    def restart(self, *, progress: Progress | None = None) -> None:
        """Closes the engine, dead or alive, and starts a fresh one from the same arguments behind this model.

        Requests in the old one get ``EngineClosedError``, those that come meanwhile ``EngineNotReadyError``; several
        callers at once share one restart. Adapters that were loaded while it ran are loaded again, and weights that were
        taken from another checkpoint are taken again.

        Raises:
            EngineError: this model was given its engine; or the new one could not start, and the model stays dead
                until another restart.
            ModelError: an adapter or other weights could not be loaded again; the model serves without them.
        """
        self._bridge.call(self._restart_once(progress or _silent))

    async def arestart(self, *, progress: Progress | None = None) -> None:
        """:meth:`restart`, awaited. It goes on if the await is cancelled."""
        await self._bridge.acall(self._restart_once(progress or _silent))

    async def _restart_once(self, report: Progress) -> None:
        if self._given:
            raise EngineError(
                f"this model can't restart the {self.engine.name} engine",
                why="the engine was handed to it as an object, and arguments don't tell how to make another",
                fix="make a new ChatModel with a new engine",
            )
        if self._restarting is None or self._restarting.done():
            self._restarting = asyncio.create_task(self._restart(report))
            self._restarting.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._restarting)

    async def _restart(self, report: Progress) -> None:
        old = self.engine
        self._restart_failed = None
        self._pipeline.admission.refusal = _restarting
        try:
            await old.close()
            await self._start_another(report)
        except Exception as error:
            self.engine = self._closer.engine = old  # it knows the adapters that the next attempt brings back
            self._restart_failed = error
            self._pipeline.admission.refusal = partial(_not_restarted, error)
            raise
        weights = self._pipeline.upkeep.weights
        self._pipeline = self._join(self.engine)
        if weights is not None:
            await self._pipeline.upkeep.take_weights(weights)
        for name, path in old.adapters.items():
            if name not in self.engine.adapters:
                await self._pipeline.adapters.load(name, path)

    async def _start_another(self, report: Progress) -> None:
        engine = await asyncio.to_thread(registry.make, self.arguments)
        engine.tokenizer = self._tokenizer
        self.engine = self._closer.engine = engine
        try:
            await engine.start(report)
        except BaseException:
            await engine.close()
            raise

    # --- end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stops answers, threads and processes, and frees the memory. May be called twice."""
        self._closer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Closer:
    """Closes a model: on ``close()``, at the interpreter's exit, or when the model was forgotten. Once is enough."""

    def __init__(self, bridge: Bridge, engine: BaseEngine, *, owns_bridge: bool) -> None:
        self._bridge = bridge
        self._owns_bridge = owns_bridge
        self.engine = engine

    def __call__(self) -> None:
        atexit.unregister(self)
        if self._bridge.closed:
            return
        if self._owns_bridge:
            self._bridge.close(self.engine.close())
        else:
            self._bridge.call(self.engine.close())

    def forgotten(self) -> None:
        """The garbage collector runs on any thread, even on those that the closing waits for; so it has its own."""
        if not self._bridge.closed:
            threading.Thread(target=self, name="engineroom-close").start()


def _silent(stage: str, share: float | None) -> None:
    pass


def _restarting() -> EngineroomError:
    return EngineNotReadyError("the model is being restarted", fix="try again when health() says ready")


def _not_restarted(error: Exception) -> EngineroomError:
    dead = EngineDeadError("the model could not be restarted", why=str(error), fix="model.restart()")
    dead.__cause__ = error
    return dead


def _load_tokenizer(engine: BaseEngine, arguments: Arguments, report: Progress) -> Tokenizer:
    report("reading the tokenizer", None)
    if engine.checkpoint is None:
        raise EngineError(
            f"the {engine.name} engine has neither a tokenizer nor a checkpoint",
            why="an engine sets one of the two in from_arguments",
        )
    return load_tokenizer(
        engine.checkpoint.path,
        trust_remote_code=arguments.trust_remote_code,
        use_fast=arguments.use_fast_tokenizer,
    )
