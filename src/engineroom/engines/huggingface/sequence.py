"""One answer in the making, on the inference thread."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TypeAlias

from torch import Tensor

from engineroom.engines.huggingface.loaded import Cache, not_a_number
from engineroom.engines.huggingface.logits import LogitsShaper, TokenSampler, token_logprob
from engineroom.engines.huggingface.structured import GrammarMatcher, apply_bitmask, new_bitmask
from engineroom.types import Chunk, FinishReason, Prompt, SamplingParams, TokenLogprob

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


PREFILL_CHUNK = 2048
"""Prompt tokens of one step. Between two steps other answers take theirs, and one that was left is noticed."""

PROMPT_LOGPROBS_CHUNK = 256
"""The same where the logits of every token are wanted: [256, 150,000] in fp32 are 150 MB, of a whole prompt tens of GB."""


class Sequence:
    """The state of one answer: its tokens, its cache, its parameters, and where its chunks go.

    ``cancelled`` is set by the reader and read by the inference thread before each step.
    """

    def __init__(
        self, prompt: Prompt, params: SamplingParams, mailbox: Mailbox, matcher: GrammarMatcher | None = None
    ) -> None:
        self.prompt = prompt
        self.params = params
        self.mailbox = mailbox
        self.matcher = matcher
        self.cancelled = False
        self.cache: Cache | None = None
        self.answer: list[int] = []
        self._read = 0  # prompt tokens that went through the model
        self._prompt_logprobs: list[TokenLogprob | None] = [None]
        self._shaper: LogitsShaper | None = None
        self._sampler: TokenSampler | None = None

    def next_input(self, *, cached: bool, divided: bool) -> tuple[int, ...]:
        """The ids that the next forward pass needs: the prompt, divided or not, then the last id; all without a cache."""
        if not cached:
            return (*self.prompt.token_ids, *self.answer)
        if not self._prefilling:
            return (self.answer[-1],)
        if not divided:
            return self.prompt.token_ids
        size = PROMPT_LOGPROBS_CHUNK if self.wants_prompt_logits else PREFILL_CHUNK
        return self.prompt.token_ids[self._read : self._read + size]

    @property
    def _prefilling(self) -> bool:
        return self._read < len(self.prompt.token_ids)

    @property
    def wants_prompt_logits(self) -> bool:
        return self._prefilling and self.params.prompt_logprobs is not None

    def accept(self, count: int, logits: Tensor) -> Chunk | None:
        """Takes the logits, [positions, vocabulary], of ``count`` tokens' pass. None while the prompt is being read."""
        if self.wants_prompt_logits:
            self._note_prompt(logits)
        self._read = min(self._read + count, len(self.prompt.token_ids))
        return None if self._prefilling else self._next_token(logits[-1].float())

    def release(self) -> None:
        """Frees the memory that the answer took."""
        self.cache = self._shaper = self._sampler = self.matcher = None

    def _next_token(self, logits: Tensor) -> Chunk:
        if not math.isfinite(float(logits.max())):
            raise not_a_number("logits")
        if self._shaper is None or self._sampler is None:
            self._shaper = LogitsShaper(self.params, self.prompt.token_ids, logits.device)
            self._sampler = TokenSampler(self.params, logits.device)
        shaped = self._shaper(logits)
        if self.matcher is not None:
            bitmask = new_bitmask(1, shaped.shape[-1])
            self.matcher.fill(bitmask, 0)
            shaped = apply_bitmask(shaped.unsqueeze(0), bitmask)[0]
        token_id = self._sampler(shaped)
        if self.matcher is not None:
            self.matcher.accept(token_id)
        self._shaper.add(token_id)
        self.answer.append(token_id)
        logprobs = None
        if self.params.logprobs is not None:
            logprobs = (token_logprob(logits, token_id, self.params.logprobs),)
        wants_prompt = len(self.answer) == 1 and self.params.prompt_logprobs is not None
        return Chunk(
            (token_id,),
            self._finish_reason(token_id),
            logprobs=logprobs,
            prompt_logprobs=tuple(self._prompt_logprobs) if wants_prompt else None,
        )

    def _finish_reason(self, token_id: int) -> FinishReason | None:
        if token_id in self.params.stop_token_ids:
            return "stop"
        return "length" if len(self.answer) >= (self.params.max_new_tokens or 1) else None

    def _note_prompt(self, logits: Tensor) -> None:
        """Row i of the logits tells of the prompt's token ``_read + i + 1``; the last token's row is the answer's."""
        following = self.prompt.token_ids[self._read + 1 : self._read + 1 + len(logits)]
        top = self.params.prompt_logprobs or 0
        self._prompt_logprobs += [
            token_logprob(row.float(), token_id, top)
            for row, token_id in zip(logits, following, strict=False)
        ]
