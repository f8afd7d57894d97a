"""One answer in the making, on the inference thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from collections.abc import Sequence as Many
from functools import cached_property
from typing import TypeAlias

import numpy
import torch
from torch import Tensor
from transformers import DynamicCache

from engineroom.engines.huggingface.extents import Extent
from engineroom.engines.huggingface.sampler import Drawn, Row, Sampler, token_logprobs
from engineroom.engines.huggingface.structured import GrammarMatcher, new_bitmask
from engineroom.engines.huggingface.trouble import not_a_number
from engineroom.types import Chunk, FinishReason, Prompt, SamplingParams, TokenLogprob

Outcome: TypeAlias = "Chunk | list[float] | Exception"


class Mailbox:
    """Carries results from the inference thread to the event loop that waits for them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Outcome] = asyncio.Queue()

    def post(self, item: Outcome) -> None:
        """Called on the inference thread. A loop that has gone has nobody who waits."""
        post_all([(self, item)])

    def put(self, item: Outcome) -> None:
        """Called on the event loop."""
        self._items.put_nowait(item)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    async def take(self) -> Outcome:
        return await self._items.get()


def post_all(items: Iterable[tuple[Mailbox, Outcome]]) -> None:
    """Posts a step's results, and wakes each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Mailbox, Outcome]]] = {}
    for mailbox, item in items:
        by_loop.setdefault(mailbox.loop, []).append((mailbox, item))
    for loop, letters in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_deliver, letters)


def _deliver(letters: list[tuple[Mailbox, Outcome]]) -> None:
    for mailbox, item in letters:
        mailbox.put(item)


PREFILL_CHUNKS = {"cpu": 256}
"""Prompt tokens of one step, by kind of device. Between two steps other answers take theirs, and one that was left is
noticed. On a CPU a matrix product is at its best from 128 rows on, and 256 tokens of a prompt take as long as some five
steps of 32 answers."""

_PREFILL_CHUNK = 2048
"""On all other devices."""

PROMPT_LOGPROBS_CHUNK = 256
"""The same where the logits of every token are wanted: [256, 150,000] in fp32 are 150 MB, of a whole prompt tens of GB."""


def prefill_chunk(device: torch.device) -> int:
    return PREFILL_CHUNKS.get(device.type, _PREFILL_CHUNK)


class Sequence(Row):
    """The state of one answer: its tokens, its cache, its parameters, and where its chunks go.

    ``cancelled`` is set by the reader and read by the inference thread before each step.

    Attributes:
        computed: how many of the tokens went through the model; their keys and values are in the cache.
        weights: what computed them: the model alone, or with which adapter.
        extent: where these are, of a request that is batched with others.
        cache: where they are, of one that is not.
        matcher: its place in its grammar, of an answer that has one.
        sampler: draws its tokens, if it is not batched.
        reading: some of it went through the model itself; the rest of ``computed`` came from other requests.
        cached: tokens of the prompt that were computed for other requests.
        sound: what is in the cache has led to numbers, and may serve others.
    """

    def __init__(
        self, prompt: Prompt, params: SamplingParams, mailbox: Mailbox, matcher: GrammarMatcher | None = None
    ) -> None:
        super().__init__(params, prompt.token_ids)
        self.prompt = prompt
        self.mailbox = mailbox
        self.matcher = matcher
        self.cancelled = False
        self.computed = 0
        self.weights: str | None = None
        self.extent: Extent | None = None
        self.cache: DynamicCache | None = None
        self.sampler = Sampler()
        self.reading = False
        self.cached = 0
        self.sound = False
        self._prompt_logprobs: list[TokenLogprob | None] = [None]

    @cached_property
    def prompt_array(self) -> numpy.ndarray:
        """The prompt's ids, to compare with others'."""
        return numpy.fromiter(self.prompt.token_ids, numpy.int64, self.prompt_length)

    @property
    def answered(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def pending(self) -> int:
        """Tokens that have to go through the model before the next one can be drawn."""
        return len(self.tokens) - self.computed

    @property
    def limit(self) -> int:
        """The most tokens that prompt and answer can come to."""
        return self.prompt_length + (self.params.max_new_tokens or 1)

    @property
    def wants_prompt_logits(self) -> bool:
        return self.params.prompt_logprobs is not None and len(self._prompt_logprobs) < self.prompt_length

    def read(self, count: int, logits: Tensor) -> None:
        """Takes the logits, [positions, vocabulary], of ``count`` tokens' pass."""
        if self.wants_prompt_logits:
            self._note_prompt(logits)
        if not self.reading and not self.answered:
            self.cached = self.computed
        self.reading = True
        self.computed += count

    def forget(self) -> None:
        """All its tokens have to go through the model again."""
        self.computed = 0
        self.reading = self.sound = False
        if self.wants_prompt_logits:
            self._prompt_logprobs = [None]

    def release(self) -> None:
        """Frees the memory that the answer took; its range of the KV memory is the scheduler's."""
        self.cache = self.matcher = None

    def accept(self, drawn: Drawn) -> Chunk:
        """Takes the next token.

        Raises:
            GenerationError: there is none, since the logits are no numbers.
        """
        if drawn.token_id is None:
            raise not_a_number("logits")
        if self.matcher is not None:
            self.matcher.accept(drawn.token_id)
        self.sound = True
        self.tokens.append(drawn.token_id)
        wants_prompt = self.answered == 1 and self.params.prompt_logprobs is not None
        return Chunk(
            (drawn.token_id,),
            self._finish_reason(drawn.token_id),
            logprobs=None if drawn.logprob is None else (drawn.logprob,),
            prompt_logprobs=tuple(self._prompt_logprobs) if wants_prompt else None,
            cached_tokens=self.cached if self.answered == 1 else 0,
        )

    def _finish_reason(self, token_id: int) -> FinishReason | None:
        if token_id in self.params.stop_token_ids:
            return "stop"
        return "length" if self.answered >= (self.params.max_new_tokens or 1) else None

    def _note_prompt(self, logits: Tensor) -> None:
        """Row i of the logits tells of the prompt's token ``computed + i + 1``; the last token's row is the answer's."""
        following = self.prompt.token_ids[self.computed + 1 : self.computed + 1 + len(logits)]
        if following:
            top = [self.params.prompt_logprobs or 0] * len(following)
            self._prompt_logprobs += token_logprobs(logits[: len(following)].float(), following, top)


def bitmask(sequences: Many[Sequence], vocabulary: int) -> Tensor | None:
    """The tokens that may come next, by row; None if no answer has a grammar.

    Raises:
        GenerationError: one of them can't go on.
    """
    bound = [(row, s.matcher) for row, s in enumerate(sequences) if s.matcher is not None]
    if not bound:
        return None
    mask = new_bitmask(len(sequences), vocabulary)
    for row, matcher in bound:
        matcher.fill(mask, row)
    return mask
