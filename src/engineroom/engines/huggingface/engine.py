"""HuggingfaceEngine: the asynchronous side of the inference thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from collections.abc import Sequence as Many

from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments
from engineroom.engines.base import BaseEngine, Health, Progress
from engineroom.engines.capabilities import CAPABILITIES
from engineroom.engines.huggingface.loader import Loader
from engineroom.engines.huggingface.sequence import Mailbox, Sequence
from engineroom.engines.huggingface.thread import InferenceThread, ScoreJob
from engineroom.errors import EngineStartError, ParameterError
from engineroom.types import Chunk, Prompt, SamplingParams, Support


class HuggingfaceEngine(BaseEngine):
    """Runs any causal language model of Transformers, or a reward model, in this process."""

    name = "huggingface"
    capabilities: Mapping[str, Support] = CAPABILITIES["huggingface"]

    def __init__(self, arguments: Arguments, checkpoint: Checkpoint) -> None:
        self.checkpoint: Checkpoint = checkpoint
        self._arguments = arguments
        self._loader = Loader(arguments, checkpoint)
        self.can_generate = self._loader.can_generate
        self._thread: InferenceThread | None = None
        self._adapters: tuple[str, ...] = ()

    @classmethod
    def from_arguments(cls, arguments: Arguments) -> HuggingfaceEngine:
        return cls(arguments, Checkpoint.open(arguments))

    async def start(self, progress: Progress) -> None:
        self._thread = InferenceThread(
            lambda: self._loader.load(progress), use_cache=self._arguments.use_kv_cache
        )
        loaded = await asyncio.wrap_future(self._thread.start())
        self.model = loaded.model
        self.context_length = loaded.context_length
        self._adapters = loaded.adapters

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Chunk, None]:
        if params.adapter is not None and params.adapter not in self._adapters:
            raise ParameterError(
                f"there is no adapter {params.adapter!r}",
                why=f"adapters kept apart: {', '.join(self._adapters) or 'none'}",
                fix="load it with adapter_name_or_path=… adapter_merge=false",
                parameter="adapter",
            )
        sequence = Sequence(prompt, params, Mailbox())
        self._running().submit(sequence)
        ended = 0
        try:
            while ended < (params.n if params.num_beams > 1 else 1):
                item = await sequence.mailbox.take()
                if isinstance(item, Exception):
                    raise item
                assert isinstance(item, Chunk)
                ended += item.finish_reason is not None
                yield item
        finally:
            sequence.cancelled = True

    async def score(self, prompts: Many[Prompt]) -> list[float]:
        job = ScoreJob(list(prompts), Mailbox())
        self._running().submit(job)
        try:
            item = await job.mailbox.take()
        finally:
            job.cancelled = True
        if isinstance(item, Exception):
            raise item
        assert isinstance(item, list)
        return item

    async def close(self) -> None:
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.close)
        self.model = None

    def health(self) -> Health:
        return self._thread.health() if self._thread else Health("starting")

    def _running(self) -> InferenceThread:
        if self._thread is None:
            raise EngineStartError("the huggingface engine was not started", fix="await engine.start() first")
        return self._thread
