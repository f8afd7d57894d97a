"""The inference thread: it alone touches the model.

Answers arrive at any time, each with its own parameters. The loop takes one step for each of them in turn: a forward
pass and a token. So nobody waits for another's whole answer, an answer that is left frees its slot before its next
step, and an exception goes to the answer that raised it and to no other.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

from engineroom.engines.base import Health, HealthState
from engineroom.engines.huggingface.beams import search_beams
from engineroom.engines.huggingface.loader import LoadedModel
from engineroom.engines.huggingface.sequence import Mailbox, Sequence
from engineroom.errors import EngineClosedError, EngineDeadError, EngineroomError, GenerationError
from engineroom.types import Prompt


class ScoreJob:
    """Prompts to score, one forward pass each."""

    def __init__(self, prompts: list[Prompt], mailbox: Mailbox) -> None:
        self.waiting = prompts[::-1]
        self.mailbox = mailbox
        self.cancelled = False
        self.scores: list[float] = []


class InferenceThread:
    """Owns the model from loading to freeing. ``submit`` may be called from any thread."""

    def __init__(self, load: Callable[[], LoadedModel], *, use_cache: bool) -> None:
        self._load = load
        self._use_cache = use_cache
        self._arrivals: queue.SimpleQueue[Sequence | ScoreJob | None] = queue.SimpleQueue()
        self._live: list[Sequence | ScoreJob] = []
        self._closing = threading.Event()
        self._state: HealthState = "starting"
        self._detail = ""
        self._lock = threading.Lock()
        self._loaded: Future[LoadedModel] = Future()
        self._thread = threading.Thread(target=self._run, name="engineroom-inference", daemon=True)

    def start(self) -> Future[LoadedModel]:
        """Begins to load; the future holds the model or the error."""
        self._thread.start()
        return self._loaded

    def submit(self, work: Sequence | ScoreJob) -> None:
        with self._lock:
            if self._state != "ready":
                raise self._gone()
            self._arrivals.put(work)

    def health(self) -> Health:
        return Health(self._state, len(self._live), self._detail)

    def close(self) -> None:
        """Stops after the step in progress and waits for the thread. Called from another thread."""
        with self._lock:
            if self._state in ("starting", "ready"):
                self._state = "closed"
        self._closing.set()
        self._arrivals.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _gone(self) -> EngineroomError:
        if self._state == "dead":
            return EngineDeadError("the inference thread died", why=self._detail, fix="make a new ChatModel")
        return EngineClosedError("the engine was closed", fix="make a new ChatModel")

    def _run(self) -> None:
        try:
            loaded = self._load()
        except BaseException as error:
            self._state, self._detail = "dead", str(error)
            self._loaded.set_exception(error)
            return
        with self._lock:
            if not self._closing.is_set():
                self._state = "ready"
        self._loaded.set_result(loaded)
        try:
            with torch.inference_mode():
                self._loop(loaded)
        except BaseException as error:
            self._state, self._detail = "dead", f"{type(error).__name__}: {error}"
        finally:
            self._end_all()

    def _loop(self, loaded: LoadedModel) -> None:
        while not self._closing.is_set():
            self._admit()
            for work in list(self._live):
                if self._closing.is_set():
                    return
                if work.cancelled or not self._step(loaded, work):
                    self._live.remove(work)

    def _admit(self) -> None:
        """Takes in what has arrived; sleeps only if there is nothing to do."""
        while True:
            try:
                work = self._arrivals.get(block=not self._live)
            except queue.Empty:
                return
            if work is None:
                return
            self._live.append(work)

    def _step(self, loaded: LoadedModel, work: Sequence | ScoreJob) -> bool:
        """One step of one piece of work. False when it is done."""
        try:
            if isinstance(work, ScoreJob):
                return _score_one(loaded, work)
            if work.params.num_beams > 1:
                search_beams(loaded, work, self._closing.is_set)
                return False
            return self._next_token(loaded, work)
        except Exception as error:
            work.mailbox.post(_as_engineroom_error(error))
            return False

    def _next_token(self, loaded: LoadedModel, sequence: Sequence) -> bool:
        ids = torch.tensor([sequence.next_input(cached=self._use_cache)], device=loaded.device)
        if self._use_cache and sequence.cache is None:
            sequence.cache = loaded.new_cache()
        arguments: dict[str, Any] = {"use_cache": self._use_cache, "past_key_values": sequence.cache}
        if loaded.keeps_logits:
            arguments["logits_to_keep"] = 0 if sequence.wants_prompt_logits else 1
        with loaded.adapter(sequence.params.adapter):
            output = loaded.model(input_ids=ids, **arguments)
        chunk = sequence.accept(output.logits[0])
        sequence.mailbox.post(chunk)
        return chunk.finish_reason is None

    def _end_all(self) -> None:
        """Nobody may be left waiting."""
        with self._lock:
            while not self._arrivals.empty():
                work = self._arrivals.get()
                if work is not None:
                    self._live.append(work)
        for work in self._live:
            work.mailbox.post(self._gone())
        self._live.clear()


def _score_one(loaded: LoadedModel, job: ScoreJob) -> bool:
    prompt = job.waiting.pop()
    job.scores.append(loaded.score(torch.tensor([prompt.token_ids], device=loaded.device)))
    if job.waiting:
        return True
    job.mailbox.post(job.scores)
    return False


def _as_engineroom_error(error: Exception) -> Exception:
    if isinstance(error, EngineroomError):
        return error
    wrapped = GenerationError(
        "the model failed on this request", why=f"{type(error).__name__}: {error}", fix="other requests go on"
    )
    wrapped.__cause__ = error
    return wrapped
