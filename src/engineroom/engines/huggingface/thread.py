"""The inference thread: it alone touches the model.

Requests arrive at any time, each with its own parameters. In each turn the loop takes one step with all of them that
can be batched (``batcher.py``), and then one with each of the others: a text to score, a beam search, or an answer by a
model that takes one request at a time. So nobody waits for another's whole answer, one that is left frees its slot
before its next step, and an exception goes to the request that raised it and to no other.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeAlias, TypeVar

import torch

from engineroom.engines.base import Health, HealthState
from engineroom.engines.huggingface import sequence as limits
from engineroom.engines.huggingface.allocator import give_back
from engineroom.engines.huggingface.batcher import Batcher
from engineroom.engines.huggingface.beams import search_beams
from engineroom.engines.huggingface.loaded import LoadedModel
from engineroom.engines.huggingface.sequence import (
    Mailbox,
    Sequence,
    bitmask,
    prefill_chunk,
)
from engineroom.engines.huggingface.trouble import as_engineroom_error
from engineroom.errors import EngineClosedError, EngineDeadError, EngineroomError, EngineStartError
from engineroom.types import Prompt


class ScoreJob:
    """Prompts to score, one forward pass each."""

    def __init__(self, prompts: list[Prompt], mailbox: Mailbox) -> None:
        self.waiting = prompts[::-1]
        self.mailbox = mailbox
        self.cancelled = False
        self.scores: list[float] = []

    def release(self) -> None:
        self.waiting.clear()


T = TypeVar("T")


class Errand(Generic[T]):
    """Anything else to do with the model, between two steps. ``result`` holds what came of it."""

    def __init__(self, do: Callable[[LoadedModel], T]) -> None:
        self._do: Callable[[LoadedModel], T] | None = do
        self.result = Future[T]()
        self.mailbox = _ErrorsOnly(self.result)

    @property
    def cancelled(self) -> bool:
        """Its caller left before it began."""
        return not self.result.running() and not self.result.set_running_or_notify_cancel()

    def run(self, loaded: LoadedModel) -> None:
        assert self._do is not None
        self.result.set_result(self._do(loaded))

    def release(self) -> None:
        self._do = None


class _ErrorsOnly:
    """A mailbox for whoever waits for a future."""

    def __init__(self, result: Future[Any]) -> None:
        self._result = result

    def post(self, item: Exception) -> None:
        if not self._result.done():
            self._result.set_exception(item)


Work: TypeAlias = Sequence | ScoreJob | Errand[Any]


class InferenceThread:
    """Owns the model from loading to freeing. ``submit`` may be called from any thread."""

    def __init__(self, load: Callable[[], LoadedModel]) -> None:
        self._load = load
        self._arrivals: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._live: list[Work] = []  # what takes its steps alone
        self._batcher: Batcher | None = None
        self._closing = threading.Event()
        self._state: HealthState = "starting"
        self._detail = ""
        self._lock = threading.Lock()
        self._loaded = _uncancellable(Future[LoadedModel]())
        self._ended = _uncancellable(Future[None]())
        self._thread = threading.Thread(target=self._run, name="engineroom-inference", daemon=True)

    def start(self) -> Future[LoadedModel]:
        """Begins to load; the future holds the model or the error."""
        loaded = self._loaded  # the thread lets go of it when it ends, which may be at once
        self._thread.start()
        return loaded

    def submit(self, work: Work) -> None:
        with self._lock:
            if self._state != "ready":
                raise self._gone()
            self._arrivals.put(work)

    def health(self) -> Health:
        batched = self._batcher
        running = len(self._live) + (len(batched) if batched is not None else 0)
        return Health(self._state, running, self._detail)

    @property
    def closing(self) -> bool:
        return self._closing.is_set()

    def close(self) -> Future[None]:
        """Asks the thread to end after the step in progress; the future is done when it has ended, model freed."""
        with self._lock:
            if self._state in ("starting", "ready"):
                self._state = "closed"
        self._closing.set()
        self._arrivals.put(None)
        if self._thread.ident is None:
            self._end()
        return self._ended

    def join(self) -> None:
        """Waits for the last instructions of a thread that has ended by its future's account."""
        if self._thread.ident is not None:
            self._thread.join()

    def _gone(self) -> EngineroomError:
        if self._state == "dead":
            return EngineDeadError("the inference thread died", why=self._detail, fix="model.restart()")
        return EngineClosedError("the engine was closed", fix="make a new ChatModel")

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            with self._lock:
                if self._state != "closed":
                    self._state, self._detail = "dead", f"{type(error).__name__}: {error}"
        finally:
            self._end()

    def _serve(self) -> None:
        try:
            loaded = self._load()
        except Exception as error:
            self._loaded.set_exception(error)
            raise
        except BaseException as error:
            # SystemExit or an interrupt, raised in a callback, is not one for the loop that waits.
            stopped = EngineStartError("loading was stopped", why=f"{type(error).__name__}: {error}")
            self._loaded.set_exception(stopped)
            raise
        if not isinstance(loaded.ragged, str):
            self._batcher = Batcher(loaded, loaded.ragged)
        with self._lock:
            if not self._closing.is_set():
                self._state = "ready"
                self._detail = loaded.detail
        self._loaded.set_result(loaded)
        with torch.inference_mode():
            while not self._closing.is_set():
                self._admit()
                if self._batcher is not None:
                    self._batcher.step()
                self._step_each(loaded)

    def _step_each(self, loaded: LoadedModel) -> None:
        for work in tuple(self._live):
            if self._closing.is_set():
                return
            if work.cancelled or not self._step(loaded, work):
                self._live.remove(work)
                work.release()

    def _admit(self) -> None:
        """Takes in what has arrived; sleeps only if there is nothing to do."""
        while True:
            try:
                work = self._arrivals.get(block=not self._live and not self._batcher)
            except queue.Empty:
                return
            if work is None:
                return
            if self._batcher is not None and isinstance(work, Sequence) and work.params.num_beams == 1:
                self._batcher.add(work)
            else:
                self._live.append(work)

    def _step(self, loaded: LoadedModel, work: Work) -> bool:
        """One step of one piece of work. False when it is done."""
        try:
            if isinstance(work, Errand):
                work.run(loaded)
                return False
            if isinstance(work, ScoreJob):
                return _score_one(loaded, work)
            if work.params.num_beams > 1:
                search_beams(loaded, work, self._closing.is_set)
                return False
            return _next_token(loaded, work)
        except torch.AcceleratorError:
            raise  # the device itself has failed (CUDA's "illegal memory access"): nothing on it works any more
        except Exception as error:
            work.mailbox.post(as_engineroom_error(error))
            return False

    def _end(self) -> None:
        """Nobody may be left waiting."""
        with self._lock:
            while not self._arrivals.empty():
                work = self._arrivals.get()
                if work is not None:
                    self._live.append(work)
        batched = self._batcher.scheduler.requests if self._batcher is not None else []
        for work in (*self._live, *batched):
            work.mailbox.post(self._gone())
            work.release()
        self._live.clear()
        self._batcher = None
        self._loaded = _uncancellable(Future[LoadedModel]())  # the old one holds the weights
        give_back()
        if not self._ended.done():
            self._ended.set_result(None)


def _uncancellable(future: Future[T]) -> Future[T]:
    """A future that those who wait for it can't cancel under the thread that sets it."""
    future.set_running_or_notify_cancel()
    return future


def _next_token(loaded: LoadedModel, sequence: Sequence) -> bool:
    """A step of one that is not batched. False when its answer is complete."""
    single = loaded.single
    if sequence.cache is None:
        sequence.cache = single.new_cache()
    if sequence.cache is None:
        sequence.computed = 0  # all tokens, each time
    every = sequence.wants_prompt_logits
    chunk = limits.PROMPT_LOGPROBS_CHUNK if every else prefill_chunk(loaded.device)
    divided = sequence.cache is not None and single.divides_prompts
    count = min(sequence.pending, chunk) if divided else sequence.pending
    ids = sequence.tokens[sequence.computed : sequence.computed + count]
    loaded.adapters.use(sequence.params.adapter)
    loaded.rope.forget()
    logits = single.logits(ids, past=sequence.computed, cache=sequence.cache, every=every)
    sequence.read(count, logits)
    if sequence.pending:
        return True
    drawn = sequence.sampler(logits[-1:].float(), [sequence], bitmask([sequence], logits.shape[1]))
    answer = sequence.accept(drawn[0])
    sequence.mailbox.post(answer)
    return answer.finish_reason is None


def _score_one(loaded: LoadedModel, job: ScoreJob) -> bool:
    job.scores.append(loaded.score(job.waiting.pop().token_ids))
    if job.waiting:
        return True
    job.mailbox.post(job.scores)
    return False
