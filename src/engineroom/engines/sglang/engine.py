"""SglangEngine: one SGLang server, spoken to in token ids."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, NoReturn

import httpx

from engineroom import machine
from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments
from engineroom.engines.adapter_folder import AdapterFolder, adapter_names
from engineroom.engines.base import Progress
from engineroom.engines.capabilities import CAPABILITIES
from engineroom.engines.process.aside import aside
from engineroom.engines.process.engine import START_LIMIT, ProcessEngine
from engineroom.engines.process.log import EngineLog
from engineroom.engines.sglang import options
from engineroom.engines.sglang.chunks import ChunkReader
from engineroom.engines.sglang.client import Client, Refused
from engineroom.engines.sglang.interpreter import find_interpreter
from engineroom.engines.sglang.pooled import pooled
from engineroom.engines.sglang.sampling import check, check_foreign, generate_request, to_sglang
from engineroom.engines.sglang.server import Server
from engineroom.errors import (
    EngineDeadError,
    EngineError,
    EngineroomError,
    EngineStartError,
    GenerationError,
    MessageError,
    ModelLoadError,
)
from engineroom.types import Chunk, Prompt, SamplingParams, Support

_ECHOES = ("url: /freeze_gc", "Received sigquit", "SIGQUIT received")
"""Exceptions in SGLang's log that tell no cause."""

_DEATH_PATIENCE = 1.0
_ABORT_PATIENCE = 2.0
_IDLE_PATIENCE = 5.0
"""Seconds in which SGLang's scheduler has noticed that the last request has ended."""


class SglangEngine(ProcessEngine):
    """Runs any causal language model of SGLang, a reward model or an embedding model, in SGLang's own server."""

    name = "sglang"
    library = "SGLang"
    capabilities: Mapping[str, Support] = CAPABILITIES["sglang"]

    def __init__(
        self, arguments: Arguments, checkpoint: Checkpoint, *, start_limit: float = START_LIMIT
    ) -> None:
        options.check_arguments(arguments)
        super().__init__(arguments, checkpoint, EngineLog("sglang", _ECHOES), start_limit)
        self._foreign = arguments.sglang_url is not None
        self._gpus = 0 if self._foreign else len(machine.gpus())
        self._python = None if self._foreign else find_interpreter(arguments.sglang_python)
        self.max_concurrency = options.max_requests(arguments, cpu=options.runs_on_cpu(arguments, self._gpus))
        self._always: str | None = None
        self._server: Server | None = None
        self._client: Client | None = None
        self._cumulative = False
        self._aborts: set[asyncio.Task[None]] = set()

    # --- start and end ---------------------------------------------------------------------------------------------

    async def start(self, progress: Progress) -> None:
        """
        Raises:
            ArgumentError: SGLang does not know a server argument.
            ModelLoadError: the weights are corrupt or missing, or an adapter does not fit.
            EngineStartError: it did not come up in time, or failed; SGLang's own first exception is in the message.
        """
        try:
            if self._foreign:
                await self._attach(progress)
            else:
                await self._launch(progress)
            self._take_reward(self.checkpoint.hidden_size)
            for name, folder in zip(adapter_names(self._folders), self._folders, strict=True):
                progress("adding adapters", None)
                await self._load(name, folder)
                if self._arguments.adapter_merge:
                    self._always = name
                else:
                    self.adapters = {**self.adapters, name: folder.path}
        except BaseException as error:
            self._state = "dead"
            await self._stop()
            if isinstance(error, EngineroomError) and not isinstance(error, EngineStartError):
                self.log.discard()
            if isinstance(error, (httpx.HTTPError, Refused)):
                raise EngineStartError(
                    "SGLang could not start",
                    why=self._obituary() or f"{type(error).__name__}: {error}",
                    fix=f"its log is {self.log.path}",
                ) from error
            raise
        self._state = "ready"
        progress("ready", 1.0)

    async def _launch(self, progress: Progress) -> None:
        assert self._python is not None
        from engineroom.engines.huggingface.completeness import check_complete

        self.checkpoint.check_weights()
        await asyncio.to_thread(check_complete, self.checkpoint, self._kind)  # SGLang does not look
        made = options.server_options(
            self._arguments, self.checkpoint, self._kind, self._folders, gpus=self._gpus
        )
        made |= self._further_options()
        made["model_path"] = str(self._model_folder())
        if self.pooling.kind != "last":  # these need every token's hidden state, of one forward pass
            made |= {"disable_radix_cache": True, "chunked_prefill_size": -1}
        settings = {
            "device": made["device"],
            "pooling": self.pooling.kind if self._hides_states else None,
            "zero_score_bias": self._kind == "sequence_classification"
            and not any(tensor.name == "score.bias" for tensor in self.checkpoint.tensors),
        }
        progress("starting SGLang", None)
        self._server = Server(self._python, self.log)
        self._client = await self._server.start(made, settings, self._start_limit)
        self.context_length = options.context_length(self._arguments, self.checkpoint)

    def _further_options(self) -> Mapping[str, Any]:
        """Server arguments of a fork of SGLang."""
        return {}

    async def _attach(self, progress: Progress) -> None:
        """
        Raises:
            EngineStartError: there is no server, or one with another model.
        """
        url = self._arguments.sglang_url or ""
        progress("asking the server", None)
        self._client = Client(url.rstrip("/"), os.environ.get("SGLANG_API_KEY"))
        try:
            told = await self._client.get("/server_info")
            model = await self._client.get("/model_info")
        except (httpx.HTTPError, Refused) as error:
            raise EngineStartError(
                f"there is no SGLang server at {url}",
                why=f"{type(error).__name__}: {error}",
                fix="check the address; SGLANG_API_KEY is sent as its key, if set",
            ) from error
        if not self.can_generate or not model["is_generation"]:
            raise EngineStartError(
                "sglang_url can neither score nor embed",
                why="only a server that engineroom starts gives what the checkpoint's own head is for",
                fix="leave sglang_url out",
            )
        architecture = self.checkpoint.architecture
        if architecture and architecture not in (model.get("architectures") or [architecture]):
            raise EngineStartError(
                f"the server at {url} runs another model than {self.checkpoint.name}",
                why=f"its architecture is {', '.join(model['architectures'])}, and not {architecture}",
                fix="model_name_or_path must name the model that the server runs",
            )
        self._cumulative = not told.get("incremental_streaming_output")
        self.max_concurrency = int(told.get("max_running_requests") or self.max_concurrency)
        longest = int(told["max_req_input_len"])
        self.context_length = min(longest, self.checkpoint.context_length or longest)

    async def _load(self, name: str, folder: AdapterFolder) -> None:
        client = self._ready()
        try:
            await client.post(
                "/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.path.absolute())}
            )
        except Refused as error:
            raise ModelLoadError(
                f"the adapter {str(folder.path)!r} does not fit this model",
                why=str(error),
                fix="name the base model that it was trained on, and check adapter_config.json",
            ) from error

    async def _end(self) -> None:
        if self._server is not None:
            await aside(self._server.kill)
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # --- work ------------------------------------------------------------------------------------------------------

    async def prepare(self, params: SamplingParams) -> None:
        await self._sampling(params)

    async def _sampling(self, params: SamplingParams) -> dict[str, Any]:
        """
        Raises:
            ParameterError: SGLang would refuse a value, or the format can't be kept to.
        """
        check(params)
        if self._foreign:
            check_foreign(params)
        assert self.tokenizer is not None
        ends = {*self.checkpoint.eos_token_ids, *self.tokenizer.eos_token_ids}
        return to_sglang(params, ends, *await self._grammar(params))

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Chunk, None]:
        sampling, adapter = await self._sampling(params), params.adapter or self._always
        client = self._ready()
        self._check_ids(prompt)
        rid = (
            uuid.uuid4().hex
        )  # an abort ends every request whose id begins so: no id may be the beginning of another
        reader = ChunkReader(params, cumulative=self._cumulative)
        ended = False
        self._running += 1
        try:
            body = generate_request(prompt.token_ids, params, sampling, rid, adapter)
            async with aclosing(client.stream("/generate", body)) as events:
                async for event in events:
                    chunk = reader.read(event)
                    ended = "error" in event or event["meta_info"].get("finish_reason") is not None
                    if chunk is not None:
                        yield chunk
                    if chunk is not None and chunk.finish_reason is not None:
                        break
        except Exception as error:
            await self._fail(error)
        finally:
            try:
                if not ended:
                    await self._abort(client, rid)
            finally:
                self._running -= 1

    async def score(self, prompts: Sequence[Prompt]) -> list[float]:
        import torch

        assert self._reward is not None
        return [self._reward.score(torch.tensor(values)) for values in await self._pooled(prompts)]

    async def embed(self, prompts: Sequence[Prompt]) -> list[tuple[float, ...]]:
        return [tuple(values) for values in await self._pooled(prompts)]

    async def _pooled(self, prompts: Sequence[Prompt]) -> list[list[float]]:
        """[prompts, labels or width], all asked for at once. A reward head belongs to the last adapter."""
        client = self._ready()
        for prompt in prompts:
            self._check_ids(prompt)
        adapter = self._always or next(reversed(list(self.adapters)), None)
        return await self._together(
            pooled(client, prompt.token_ids, uuid.uuid4().hex, adapter) for prompt in prompts
        )

    async def load_adapter(self, name: str, path: Path) -> None:
        folder = AdapterFolder.open(path)
        self._check_adapter(folder)
        folder.check_headless()
        try:
            await self._load(name, folder)
        except Exception as error:
            await self._fail(error)
        self.adapters = {**self.adapters, name: folder.path}

    async def unload_adapter(self, name: str) -> None:
        client = self._ready()
        self.adapters = {other: path for other, path in self.adapters.items() if other != name}
        try:
            await client.post("/unload_lora_adapter", {"lora_name": name})
        except Exception as error:
            await self._fail(error)

    async def flush_cache(self) -> None:
        try:
            await self._ready().post(f"/flush_cache?timeout={_IDLE_PATIENCE}", {})
        except Exception as error:
            await self._fail(error)

    async def _load_weights(self, folder: Path) -> None:
        """SGLang flushes its cache with them. What went wrong is told as it is, unless the server is gone."""
        try:
            await self._ready().post("/update_weights_from_disk", {"model_path": str(folder)})
        except Refused:
            raise
        except Exception as error:
            await self._fail(error)

    def _check_ids(self, prompt: Prompt) -> None:
        """One id without an embedding ends SGLang's scheduler, and every request in it."""
        size = self.checkpoint.vocab_size
        if size is not None and max(prompt.token_ids) >= size:
            raise MessageError(
                f"the prompt holds token id {max(prompt.token_ids)}",
                why=f"the model has ids up to {size - 1}",
            )

    async def _abort(self, client: Client, rid: str) -> None:
        """Tells SGLang at once; by itself it waits for two seconds after a caller has gone."""
        if self._state != "ready":
            return
        task = asyncio.create_task(_abort(client, rid), name="sglang-abort")
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)
        await asyncio.shield(task)

    def _is_dead(self) -> bool:
        return self._server is not None and self._server.is_dead()

    def _ready(self) -> Client:
        if self._state == "closed":
            raise self._closed()
        if self._client is None:
            raise self._not_started()
        if self._is_dead():
            raise self._dead()
        return self._client

    async def _fail(self, error: Exception) -> NoReturn:
        """What went wrong between here and the server, as one of our errors."""
        if isinstance(error, EngineroomError):
            raise error
        if isinstance(error, httpx.TransportError) and self._server is not None and self._state == "ready":
            with suppress(TimeoutError):
                await asyncio.wait_for(self._server.died.wait(), _DEATH_PATIENCE)
        if self.health().state == "closed":
            raise self._closed() from error
        if self._is_dead() or (self._foreign and isinstance(error, httpx.TransportError)):
            raise self._dead() from error
        raise GenerationError(
            "SGLang failed on this request",
            why=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}",
            fix=f"its log is {self.log.path}" if not self._foreign else "see the server's log",
        ) from error

    def _dead(self) -> EngineError:
        if self._foreign:
            return EngineDeadError(
                f"the SGLang server at {self._arguments.sglang_url} does not answer any more",
                fix="start it again, then model.restart()",
            )
        return EngineDeadError(
            "SGLang's server died",
            why=self._obituary(),
            fix=f"model.restart(), or make a new ChatModel; SGLang's log is {self.log.path}",
        )

    def _obituary(self) -> str:
        return self._server.obituary() if self._server else ""

    def _lacks_here(self) -> dict[str, str]:
        if self._arguments.sglang_url is not None:
            hooked = "only a server that engineroom starts does it as the contract says; leave sglang_url out"
            others = "the server may have other users; leave sglang_url out"
            return {
                **dict.fromkeys(("repetition_penalty", "score", "embed"), hooked),
                **dict.fromkeys(("flush_cache", "update_weights"), others),
            }
        if not options.has_lora(self._arguments):
            return {"load_adapter": "SGLang makes room for adapters at the start: add enable_lora=true"}
        return {}


async def _abort(client: Client, rid: str) -> None:
    with suppress(
        TimeoutError, httpx.HTTPError, Refused, RuntimeError
    ):  # it is gone, or this client was closed
        async with asyncio.timeout(_ABORT_PATIENCE):
            await client.post("/abort_request", {"rid": rid})
