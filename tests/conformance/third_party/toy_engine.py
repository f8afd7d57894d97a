"""An engine as another package would have it: greedy, without a cache, in a hundred lines. And two that are defective."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar

import torch
from transformers import AutoModelForCausalLM

from engineroom import BaseEngine, Chunk, Health, Prompt, SamplingParams
from engineroom.checkpoint import Checkpoint
from engineroom.errors import EngineClosedError, EngineDeadError, ModelLoadError, UnsupportedError
from engineroom.types import Support


class ToyEngine(BaseEngine):
    name = "toy"
    capabilities: ClassVar[Mapping[str, Support]] = {
        **dict.fromkeys(("chat", "temperature", "max_new_tokens", "max_length", "stop_token_ids"), "native"),
        **dict.fromkeys(("tools", "n", "stop", "ignore_eos", "skip_special_tokens"), "emulated"),
    }
    max_concurrency = 4

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.context_length = checkpoint.context_length
        self._state, self._running = "starting", 0
        self._work: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="toy-engine", daemon=True)

    @classmethod
    def from_arguments(cls, arguments: Any) -> ToyEngine:
        return cls(Checkpoint.open(arguments))

    async def start(self, progress: Any) -> None:
        load = AutoModelForCausalLM.from_pretrained
        model, told = load(self.checkpoint.path, dtype=torch.float32, output_loading_info=True)
        if told["missing_keys"]:
            raise ModelLoadError("the checkpoint lacks weights", why=", ".join(told["missing_keys"]))
        self.model = model.eval()
        self._thread.start()
        self._state = "ready"

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Chunk, None]:
        ids = list(prompt.token_ids)
        self._running += 1
        try:
            for count in range(1, (params.max_new_tokens or 1) + 1):
                token = await self._on_thread(lambda: self._next(ids, params.temperature))
                ids.append(token)
                ended = "stop" if token in params.stop_token_ids else None
                yield Chunk((token,), ended or ("length" if count == params.max_new_tokens else None))
                if ended:
                    return
        finally:
            self._running -= 1

    def _next(self, ids: list[int], temperature: float) -> int:
        with torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits
        if temperature == 0:
            return int(logits[0, -1].argmax())
        return int(torch.multinomial(torch.softmax(logits[0, -1] / temperature, -1), 1))

    async def score(self, prompts: Sequence[Prompt]) -> list[float]:
        raise UnsupportedError("score", self.name)

    async def close(self) -> None:
        if self._state != "dead":
            self._state = "closed"
        with self._wake:
            self._wake.notify()
        if self._thread.ident:
            await asyncio.to_thread(self._thread.join)

    def health(self) -> Health:
        return Health(self._state, self._running)

    def _on_thread(self, step: Callable[[], Any]) -> Any:
        future: Future[Any] = Future()
        with self._wake:
            if self._state != "ready":
                raise self._gone()
            self._work.append((step, future))
            self._wake.notify()
        return asyncio.wrap_future(future)

    def _serve(self) -> None:
        try:
            while self._state in ("starting", "ready"):
                with self._wake:
                    self._wake.wait_for(lambda: self._work or self._state == "closed", timeout=0.1)
                    taken = self._work.pop(0) if self._work else None
                if taken and taken[1].set_running_or_notify_cancel():
                    self._work_now = taken[1]
                    taken[1].set_result(taken[0]())
        except SystemExit:
            self._state = "dead"
        with self._wake:
            left = [future for _, future in self._work] + [getattr(self, "_work_now", Future())]
            self._work.clear()
        for future in left:
            if not future.done():
                future.set_exception(self._gone())

    def _gone(self) -> Exception:
        return EngineDeadError("died") if self._state == "dead" else EngineClosedError("closed")


class LeakyEngine(ToyEngine):
    """Goes on with answers that were left."""

    name = "leaky"

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Chunk, None]:
        chunks: asyncio.Queue[Chunk | Exception] = asyncio.Queue()

        async def run() -> None:
            try:
                async for chunk in ToyEngine.generate(self, prompt, params):
                    chunks.put_nowait(chunk)
            except Exception as error:
                chunks.put_nowait(error)

        self._tasks = [*getattr(self, "_tasks", []), asyncio.create_task(run())]
        while True:
            chunk = await chunks.get()
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk
            if chunk.finish_reason:
                return


class BoastfulEngine(ToyEngine):
    """Declares what it does not do."""

    name = "boastful"
    capabilities: ClassVar[Mapping[str, Support]] = {
        **ToyEngine.capabilities,
        **dict.fromkeys(("seed", "logprobs", "logit_bias"), "native"),
    }
