"""One step for all requests that are batched: their tokens through the model in one pass, then a token for each."""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor

from engineroom.engines.huggingface.batch import Span
from engineroom.engines.huggingface.loaded import LoadedModel
from engineroom.engines.huggingface.ragged import RaggedModel
from engineroom.engines.huggingface.sampler import Drawn, Sampler
from engineroom.engines.huggingface.scheduler import Scheduler
from engineroom.engines.huggingface.sequence import (
    Mailbox,
    Outcome,
    Sequence,
    bitmask,
    post_all,
    prefill_chunk,
)
from engineroom.engines.huggingface.trouble import as_engineroom_error
from engineroom.types import Chunk

Work = list[tuple[Sequence, int]]


class Batcher:
    """Runs requests side by side. Used on the inference thread only."""

    def __init__(self, loaded: LoadedModel, ragged: RaggedModel) -> None:
        assert loaded.prefixes is not None
        self._adapters = loaded.adapters
        self._ragged = ragged
        self.scheduler = Scheduler(loaded.prefixes, prefill_chunk(loaded.device))
        self._sampler = Sampler()

    def __len__(self) -> int:
        return len(self.scheduler)

    def add(self, sequence: Sequence) -> None:
        sequence.weights = self._adapters.weights(sequence.params.adapter)
        self.scheduler.add(sequence)

    def step(self) -> None:
        """Takes a step with every request that runs, and posts what comes of it."""
        for sequence in self.scheduler.requests:
            if sequence.cancelled:
                self.scheduler.remove(sequence)
        letters: list[tuple[Mailbox, Outcome]] = []
        planned = sorted(self.scheduler.plan(), key=lambda work: work[0].params.adapter or "")
        ready: list[tuple[Sequence, Tensor]] = []
        for _, part in groupby(planned, key=lambda work: work[0].params.adapter):
            ready += self._read(list(part), letters)
        if ready:
            rows = [row for _, row in ready]
            logits = rows[0] if len(rows) == 1 else torch.cat(rows)
            self._next_tokens([s for s, _ in ready], logits.float(), letters)
        post_all(letters)

    def _read(self, work: Work, letters: list[tuple[Mailbox, Outcome]]) -> list[tuple[Sequence, Tensor]]:
        """A forward pass, with one adapter. The requests whose next token can be drawn, and its logits, [1, vocabulary]."""
        try:
            self._adapters.use(work[0][0].params.adapter)
            logits = self._ragged.logits([_span(*one) for one in work], self.scheduler.cache)
        except torch.AcceleratorError:
            raise  # the device itself has failed: nothing on it works any more
        except Exception as error:
            if len(work) == 1:
                self._fail(work[0][0], error, letters)
                return []
            # One of them may be the cause. Alone, it fails alone; the others' keys and values are written once more.
            return [found for one in work for found in self._read([one], letters)]
        ready: list[tuple[Sequence, Tensor]] = []
        for (sequence, count), rows in zip(work, logits, strict=True):
            sequence.read(count, rows)
            if not sequence.pending:
                ready.append((sequence, rows[-1:]))
        return ready

    def _next_tokens(
        self, sequences: list[Sequence], logits: Tensor, letters: list[tuple[Mailbox, Outcome]]
    ) -> None:
        """Draws a token for each row, [rows, vocabulary]."""
        try:
            drawn = self._sampler(logits, sequences, bitmask(sequences, logits.shape[1]))
        except torch.AcceleratorError:
            raise
        except Exception as error:
            self._sampler = Sampler()
            if len(sequences) == 1:
                self._fail(sequences[0], error, letters)
                return
            for sequence, row in zip(sequences, logits, strict=True):
                self._next_tokens([sequence], row[None], letters)
            return
        for sequence, token in zip(sequences, drawn, strict=True):
            self._accept(sequence, token, letters)

    def _accept(self, sequence: Sequence, drawn: Drawn, letters: list[tuple[Mailbox, Outcome]]) -> None:
        try:
            chunk: Chunk = sequence.accept(drawn)
        except Exception as error:
            self._fail(sequence, error, letters)
            return
        if chunk.finish_reason is not None:
            self.scheduler.remove(sequence)
        letters.append((sequence.mailbox, chunk))

    def _fail(self, sequence: Sequence, error: Exception, letters: list[tuple[Mailbox, Outcome]]) -> None:
        sequence.sound = False
        self.scheduler.remove(sequence)
        letters.append((sequence.mailbox, as_engineroom_error(error)))


def _span(sequence: Sequence, count: int) -> Span:
    assert sequence.extent is not None
    return Span(
        sequence.tokens[sequence.computed : sequence.computed + count],
        sequence.extent.start,
        sequence.extent.capacity,
        sequence.computed,
        every=sequence.wants_prompt_logits,
        final=count == sequence.pending,
    )
