"""HuggingfaceEngine: the asynchronous side of the inference thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from collections.abc import Sequence as Many
from pathlib import Path
from typing import TypeVar

from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments
from engineroom.engines.adapter_folder import AdapterFolder
from engineroom.engines.base import BaseEngine, Health, Progress
from engineroom.engines.capabilities import CAPABILITIES
from engineroom.engines.grammar.compiler import FormatCompiler
from engineroom.engines.huggingface import sleeping
from engineroom.engines.huggingface.embedding import embed
from engineroom.engines.huggingface.loaded import LoadedModel
from engineroom.engines.huggingface.loader import Loader
from engineroom.engines.huggingface.sequence import Mailbox, Outcome, Sequence
from engineroom.engines.huggingface.structured import GrammarMatcher
from engineroom.engines.huggingface.thread import Errand, InferenceThread, ScoreJob
from engineroom.engines.pooling import Pooling
from engineroom.errors import EngineClosedError, EngineStartError, PromptTooLongError
from engineroom.types import Chunk, Prompt, SamplingParams, Support

T = TypeVar("T")

_PATIENCE = 20.0
"""Seconds that closing waits for the step, or the stage of loading, in progress. The thread ends behind it all the same."""


class HuggingfaceEngine(BaseEngine):
    """Runs any causal language model of Transformers, or a reward model, in this process."""

    name = "huggingface"
    capabilities: Mapping[str, Support] = CAPABILITIES["huggingface"]
    loader_class = Loader

    def __init__(self, arguments: Arguments, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._loader = self.loader_class(arguments, checkpoint)
        self.can_generate = self._loader.can_generate
        self.can_embed = self._loader.kind == "embedding"
        if self.can_embed:
            self.pooling = Pooling.of(checkpoint)
        self._thread: InferenceThread | None = None
        self._formats: FormatCompiler | None = None

    @classmethod
    def from_arguments(cls, arguments: Arguments) -> HuggingfaceEngine:
        return cls(arguments, Checkpoint.open(arguments))

    async def start(self, progress: Progress) -> None:
        def report(stage: str, share: float | None) -> None:
            if thread.closing:  # a load can be left between its stages
                raise EngineClosedError("the engine was closed while it loaded", fix="make a new ChatModel")
            progress(stage, share)

        self._thread = thread = InferenceThread(lambda: self._loader.load(report))
        loaded = await asyncio.wrap_future(thread.start())
        self.model = loaded.model
        self.context_length = loaded.context_length
        self.adapters = {name: folder.path for name, folder in self._loader.separate_adapters.items()}
        reason = sleeping.why_not(loaded)
        if reason:
            self.lacks = {"sleep": reason}
            self.capabilities = {**self.capabilities, "sleep": "unsupported"}

    async def prepare(self, params: SamplingParams) -> None:
        if params.response_format is not None:
            await self._compiler().compile(params.response_format)

    async def _matcher(self, params: SamplingParams) -> GrammarMatcher | None:
        if params.response_format is None:
            return None
        compiler = self._compiler()
        form = await compiler.compile(params.response_format)
        return await asyncio.to_thread(GrammarMatcher, form, compiler.tokenizer_info, params.stop_token_ids)

    def _compiler(self) -> FormatCompiler:
        if self._formats is None:
            assert self.tokenizer is not None
            assert self.checkpoint is not None
            self._formats = FormatCompiler(
                self.tokenizer,
                self.checkpoint.vocab_size or self.tokenizer.vocab_size,
                self.tokenizer.eos_token_ids,
            )
        return self._formats

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Chunk, None]:
        self._check_length(len(prompt.token_ids), params.max_new_tokens or 1)
        sequence = Sequence(prompt, params, Mailbox(), await self._matcher(params))
        self._running().submit(sequence)
        ended = 0
        try:
            while ended < (params.n if params.num_beams > 1 else 1):
                item = _raised(await sequence.mailbox.take())
                assert isinstance(item, Chunk)
                ended += item.finish_reason is not None
                yield item
        finally:
            sequence.cancelled = True

    def _check_length(self, prompt: int, answer: int) -> None:
        """Above the engine this is checked with a message of its own; a request that can never fit must not enter."""
        if self.context_length is not None and not (0 < prompt <= self.context_length - answer):
            raise PromptTooLongError(
                f"a prompt of {prompt} tokens and an answer of up to {answer} do not fit",
                why=f"the context has {self.context_length} tokens, and a prompt has at least one",
                fix="shorten the prompt, lower max_new_tokens, or raise hf_kv_cache_memory if it limits the context",
                prompt_length=prompt,
                context_length=self.context_length,
            )

    async def score(self, prompts: Many[Prompt]) -> list[float]:
        job = ScoreJob(list(prompts), Mailbox())
        self._running().submit(job)
        try:
            item = _raised(await job.mailbox.take())
        finally:
            job.cancelled = True
        assert isinstance(item, list)
        return item

    async def embed(self, prompts: Many[Prompt]) -> list[tuple[float, ...]]:
        """One forward pass each; between them others take their steps."""
        vectors: list[tuple[float, ...]] = []
        for prompt in prompts:
            ids = prompt.token_ids
            vectors.append(
                await self._on_thread(lambda loaded, ids=ids: embed(loaded, ids, self.pooling.kind))
            )
        return vectors

    async def load_adapter(self, name: str, path: Path) -> None:
        folder = AdapterFolder.open(path)
        assert self.checkpoint is not None
        folder.check_headless()
        folder.check_fits(self.checkpoint)
        await self._on_thread(lambda loaded: loaded.adapters.add(name, folder))
        self.adapters = {**self.adapters, name: folder.path}

    async def unload_adapter(self, name: str) -> None:
        await self._on_thread(lambda loaded: loaded.adapters.remove(name))
        self.adapters = {known: path for known, path in self.adapters.items() if known != name}

    async def sleep(self) -> None:
        await self._on_thread(sleeping.sleep)

    async def wake(self) -> None:
        await self._on_thread(sleeping.wake)

    async def flush_cache(self) -> None:
        await self._on_thread(lambda loaded: loaded.prefixes.clear() if loaded.prefixes is not None else None)

    async def close(self) -> None:
        self.model = None
        if self._formats is not None:
            self._formats.close()
        if self._thread is not None:
            ended = asyncio.wrap_future(self._thread.close())
            await asyncio.wait([ended], timeout=_PATIENCE)
            if ended.done():
                self._thread.join()
                self._loader.close()

    def health(self) -> Health:
        return self._thread.health() if self._thread else Health("starting")

    async def _on_thread(self, do: Callable[[LoadedModel], T]) -> T:
        errand = Errand(do)
        self._running().submit(errand)
        return await asyncio.wrap_future(errand.result)

    def _running(self) -> InferenceThread:
        if self._thread is None:
            raise EngineStartError(
                f"the {self.name} engine was not started", fix="await engine.start() first"
            )
        return self._thread


def _raised(item: Outcome) -> Chunk | list[float]:
    if isinstance(item, Exception):
        raise item
    return item
