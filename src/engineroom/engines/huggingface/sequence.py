"""One answer in the making, on the inference thread."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, TypeAlias

import torch
from torch import Tensor

from engineroom.engines.huggingface.logits import LogitsShaper, TokenSampler, token_logprob
from engineroom.errors import GenerationError
from engineroom.types import Chunk, Prompt, SamplingParams, TokenLogprob

Outcome: TypeAlias = "Chunk | list[float] | Exception"


class Mailbox:
    """Carries results from the inference thread to the event loop that waits for them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Outcome] = asyncio.Queue()

    def post(self, item: Outcome) -> None:
        """Called on the inference thread. A loop that has gone has nobody who waits."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    async def take(self) -> Outcome:
        return await self._items.get()


class Sequence:
    """The state of one answer: its tokens, its cache, its parameters, and where its chunks go.

    ``cancelled`` is set by the reader and read by the inference thread before each step.
    """

    def __init__(self, prompt: Prompt, params: SamplingParams, mailbox: Mailbox) -> None:
        self.prompt = prompt
        self.params = params
        self.mailbox = mailbox
        self.cancelled = False
        self.cache: Any = None
        self.answer: list[int] = []
        self._shaper: LogitsShaper | None = None
        self._sampler: TokenSampler | None = None

    def next_input(self, *, cached: bool) -> tuple[int, ...]:
        """The ids that the next forward pass needs: all of them at first or without a cache, then the last one."""
        if not self.answer:
            return self.prompt.token_ids
        return (self.answer[-1],) if cached else (*self.prompt.token_ids, *self.answer)

    @property
    def wants_prompt_logits(self) -> bool:
        return not self.answer and self.params.prompt_logprobs is not None

    def accept(self, logits: Tensor) -> Chunk:
        """Takes the forward pass's logits, [positions, vocabulary], and makes the next chunk."""
        last = logits[-1].float()
        if bool(torch.isnan(last).any()):
            raise GenerationError(
                "the model's logits are not numbers (NaN)",
                why="the weights or the chosen infer_dtype overflow on this prompt",
                fix="try infer_dtype=float32 or infer_dtype=bfloat16",
            )
        if self._shaper is None or self._sampler is None:
            self._shaper = LogitsShaper(self.params, self.prompt.token_ids, last.device)
            self._sampler = TokenSampler(self.params, last.device)
        prompt_logprobs = self._prompt_logprobs(logits) if self.wants_prompt_logits else None
        token_id = self._sampler(self._shaper(last))
        self._shaper.add(token_id)
        self.answer.append(token_id)
        logprobs = None
        if self.params.logprobs is not None:
            logprobs = (token_logprob(last, token_id, self.params.logprobs),)
        reason = None
        if token_id in self.params.stop_token_ids:
            reason = "stop"
        elif len(self.answer) >= (self.params.max_new_tokens or 1):
            reason = "length"
        return Chunk((token_id,), reason, logprobs=logprobs, prompt_logprobs=prompt_logprobs)

    def _prompt_logprobs(self, logits: Tensor) -> tuple[TokenLogprob | None, ...]:
        ids, top = self.prompt.token_ids, self.params.prompt_logprobs or 0
        rest = (token_logprob(logits[i].float(), ids[i + 1], top) for i in range(len(ids) - 1))
        return (None, *rest)
