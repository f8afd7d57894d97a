"""VllmEngine: one vLLM engine process, spoken to in token ids."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments
from engineroom.engines.adapter_folder import AdapterFolder, adapter_names
from engineroom.engines.base import Progress
from engineroom.engines.capabilities import CAPABILITIES
from engineroom.engines.process.aside import aside
from engineroom.engines.process.engine import START_LIMIT, ProcessEngine
from engineroom.engines.vllm import library
from engineroom.engines.vllm.adapters import Adapters, check_rank
from engineroom.engines.vllm.chunks import to_chunk
from engineroom.engines.vllm.log import vllm_log
from engineroom.engines.vllm.options import (
    Platform,
    adapter_room,
    check_arguments,
    engine_options,
    has_lora,
    head_size,
    max_sequences,
)
from engineroom.engines.vllm.pooled import PoolingTask, pooled
from engineroom.engines.vllm.sampling import check_temperature, to_vllm
from engineroom.errors import (
    ArgumentError,
    EngineDeadError,
    EngineError,
    EngineroomError,
    EngineStartError,
    GenerationError,
    ModelLoadError,
    ParameterError,
)
from engineroom.types import Chunk, Prompt, SamplingParams, Support

if TYPE_CHECKING:
    import vllm
    from torch import Tensor
    from vllm.v1.engine.async_llm import AsyncLLM


class VllmEngine(ProcessEngine):
    """Runs any causal language model of vLLM, a reward model or an embedding model, in vLLM's own process."""

    name = "vllm"
    library = "vLLM"
    capabilities: Mapping[str, Support] = CAPABILITIES["vllm"]

    def __init__(
        self, arguments: Arguments, checkpoint: Checkpoint, *, start_limit: float = START_LIMIT
    ) -> None:
        library.check_version()
        check_arguments(arguments)
        super().__init__(arguments, checkpoint, vllm_log(), start_limit)
        self.max_concurrency = max_sequences(arguments, cpu=library.is_cpu_build())
        self._room = adapter_room(arguments)
        self._adapters = Adapters()
        self._launch: library.Launch | None = None
        self._engine: AsyncLLM | None = None
        self._numbers = itertools.count()

    # --- start and end ---------------------------------------------------------------------------------------------

    async def start(self, progress: Progress) -> None:
        """
        Raises:
            ArgumentError: vLLM does not know, or can't honour, an engine argument.
            ModelLoadError: the weights are corrupt or missing, or of a shape that vLLM's kernels don't take.
            EngineStartError: it did not come up in time, or failed; vLLM's own first exception is in the message.
        """
        self.checkpoint.check_weights()
        progress("starting vLLM", None)
        self._launch = launch = library.Launch(self.log)
        starting = asyncio.create_task(
            asyncio.to_thread(launch.run, self._options, self._start_limit), name="vllm-start"
        )
        starting.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may end unheard
        try:
            done, _ = await asyncio.wait([starting], timeout=self._start_limit)
        except BaseException:
            await self._give_up(launch, starting)
            raise
        if not done:
            await self._give_up(launch, starting)
            raise EngineStartError(
                f"vLLM was not ready within {self._start_limit:g} seconds",
                why=f"its last words: {self.log.last_words() or 'none'}",
                fix=f"its log is {self.log.path}",
            )
        try:
            self._engine = starting.result()
            await self._get_ready(self._engine, progress)
        except Exception as error:
            self._state = "dead"
            await self._stop()
            self._fail_start(error)
        self._state = "ready"
        progress("ready", 1.0)

    def _options(self, platform: Platform) -> Mapping[str, Any]:
        from engineroom.engines.huggingface.completeness import check_complete

        size = head_size(self.checkpoint)
        if platform.head_sizes and size is not None and size not in platform.head_sizes:
            raise ModelLoadError(
                f"{self.checkpoint.name} has attention heads of size {size}, which vLLM does not run on a CPU",
                why=f"sizes that it runs: {', '.join(map(str, platform.head_sizes))}",
                fix="use infer_backend=huggingface",
            )
        # vLLM 0.32 exempts every linear layer from its own check, and runs with whatever was in the memory.
        check_complete(self.checkpoint, self._kind)
        options = engine_options(self._arguments, self.checkpoint, self._kind, platform)
        options["model"] = str(self._model_folder())
        if self._hides_states:
            return {**options, "convert": "embed", "pooler_config": self.pooling.kind}
        return options

    async def _get_ready(self, engine: AsyncLLM, progress: Progress) -> None:
        await (
            engine.get_supported_tasks()
        )  # the first answer of the engine's process; begins to listen for its death
        self.context_length = engine.model_config.max_model_len
        for name, folder in zip(adapter_names(self._folders), self._folders, strict=True):
            progress("adding adapters", None)
            request = self._adapters.numbered(name, folder)
            await self._add(engine, request)
            if self._arguments.adapter_merge:
                self._adapters.always = request
            else:
                self._adapters.put(name, request)
        self.adapters = self._adapters.folders
        self._take_reward(engine.model_config.get_hidden_size())

    async def _add(self, engine: AsyncLLM, adapter: Any) -> None:
        try:
            await engine.add_lora(adapter)
        except Exception as error:
            if library.is_dead(engine):
                raise
            raise ModelLoadError(
                f"the adapter {adapter.lora_path!r} does not fit this model",
                why=_shortened(error),
                fix="name the base model that it was trained on, and check adapter_config.json",
            ) from error

    def _fail_start(self, error: Exception) -> NoReturn:
        if isinstance(error, EngineroomError):
            self.log.discard()
            raise error
        words = self.log.last_words() if self._launch and self._launch.pids else ""
        raise EngineStartError(
            "vLLM could not start",
            why=words or f"{type(error).__name__}: {_shortened(error)}",
            fix=f"its log is {self.log.path}",
        ) from error

    async def _give_up(self, launch: library.Launch, starting: asyncio.Task[AsyncLLM]) -> None:
        """Ends a start in progress. The thread ends when the process that it waits for is gone."""
        self._state = "dead"
        await aside(launch.cancel)
        with suppress(Exception):
            self._engine = await asyncio.wait_for(asyncio.shield(starting), timeout=20)
        await self._stop()

    async def _end(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None and self._launch is not None:
            library.end_requests(engine)
            await aside(partial(library.shut_down, engine, self._launch))
            library.release(engine)
        elif self._launch is not None:
            await aside(self._launch.cancel)

    # --- work ------------------------------------------------------------------------------------------------------

    async def prepare(self, params: SamplingParams) -> None:
        await self._request(params)

    async def _request(self, params: SamplingParams) -> vllm.SamplingParams:
        """
        Raises:
            ParameterError: vLLM would refuse a value, or the format can't be kept to.
        """
        check_temperature(params.temperature)
        if params.response_format is not None and params.logprobs is not None:
            raise ParameterError(
                "logprobs can't be combined with response_format by the vllm engine",
                why="vLLM would give them among the tokens that the format lets through, not the model's own",
                fix="leave one of the two out, or use infer_backend=huggingface",
                parameter="logprobs",
            )
        return to_vllm(params, *await self._grammar(params))

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Chunk, None]:
        request = await self._request(params)
        adapter = self._adapters.choose(params.adapter)
        engine = self._ready()
        from vllm.inputs.engine import tokens_input

        self._running += 1
        try:
            outputs = engine.generate(
                tokens_input(list(prompt.token_ids)), request, self._new_id(), lora_request=adapter
            )
            async with aclosing(outputs):
                async for output in outputs:
                    chunk = to_chunk(output, prompt, params)
                    if chunk is not None:
                        yield chunk
        except Exception as error:
            await self._fail(error)
        finally:
            self._running -= 1

    async def score(self, prompts: Sequence[Prompt]) -> list[float]:
        reward = self._reward
        assert reward is not None
        task = "embed" if reward.head else "classify"
        return [reward.score(values) for values in await self._pooled(prompts, task)]

    async def embed(self, prompts: Sequence[Prompt]) -> list[tuple[float, ...]]:
        return [tuple(cast("Any", vector).tolist()) for vector in await self._pooled(prompts, "embed")]

    async def _pooled(self, prompts: Sequence[Prompt], task: PoolingTask) -> list[Tensor]:
        engine, adapter = self._ready(), self._adapters.last()
        return await self._together(
            pooled(engine, prompt.token_ids, self._new_id(), task, adapter) for prompt in prompts
        )

    # --- adapters and sleep ----------------------------------------------------------------------------------------

    async def load_adapter(self, name: str, path: Path) -> None:
        engine = self._ready()
        if len(self.adapters) >= self._room:
            raise ArgumentError(
                f"there is no room for the adapter {name!r}",
                why=f"vLLM reserved room for {self._room} adapters at the start, and all of it is taken",
                fix=f'unload one, or start with vllm_config={{"max_loras": {self._room * 2}}}',
                argument="vllm_config",
            )
        folder = AdapterFolder.open(path)
        self._check_adapter(folder)
        request = self._adapters.numbered(name, folder)
        try:
            await self._add(engine, request)
        except Exception as error:
            await self._fail(error)
        self._adapters.put(name, request)
        self.adapters = self._adapters.folders

    async def unload_adapter(self, name: str) -> None:
        engine = self._ready()
        try:
            await engine.remove_lora(self._adapters.take(name).lora_int_id)
        except Exception as error:
            await self._fail(error)
        finally:
            self.adapters = self._adapters.folders

    async def sleep(self) -> None:
        try:
            await self._ready().sleep(level=1)
        except Exception as error:
            await self._fail(error)

    async def wake(self) -> None:
        try:
            await self._ready().wake_up()
        except Exception as error:
            await self._fail(error)

    async def flush_cache(self) -> None:
        try:
            flushed = await self._ready().reset_prefix_cache()
        except Exception as error:
            await self._fail(error)
        if not flushed:
            raise EngineError("vLLM did not flush its cache", why="a request is in it still", fix="try again")

    async def _load_weights(self, folder: Path) -> None:
        engine = cast("Any", self._ready())
        try:
            await engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        except Exception as error:
            if self._state == "closed" or self._is_dead():
                await self._fail(error)
            raise
        await self.flush_cache()

    def _new_id(self) -> str:
        return f"engineroom-{next(self._numbers)}"

    def _is_dead(self) -> bool:
        return self._engine is not None and library.is_dead(self._engine)

    def _ready(self) -> AsyncLLM:
        if self._state == "closed":
            raise self._closed()
        if self._engine is None:
            raise self._not_started()
        if self._is_dead():
            raise self._dead()
        return self._engine

    async def _fail(self, error: Exception) -> NoReturn:
        from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError
        from vllm.v1.engine.exceptions import EngineGenerateError

        if isinstance(error, EngineroomError):
            raise error
        if self._state == "closed":
            raise self._closed() from error
        if isinstance(error, VllmDeadError) or self._is_dead():
            raise self._dead() from error
        cause = error.__cause__ if isinstance(error, EngineGenerateError) and error.__cause__ else error
        raise GenerationError(
            "vLLM failed on this request", why=_shortened(cause), fix=f"its log is {self.log.path}"
        ) from error

    def _dead(self) -> EngineError:
        return EngineDeadError(
            "vLLM's engine process died",
            why=self._obituary(),
            fix=f"model.restart(); vLLM's log is {self.log.path}",
        )

    def _obituary(self) -> str:
        codes = self._launch.exit_codes() if self._launch else []
        ends = [f"killed by {signal.Signals(-code).name}" for code in codes if code < 0]
        return "; ".join(ends) or self.log.last_words() or "it said nothing"

    def _lacks_here(self) -> dict[str, str]:
        """Or it would have to be built for another device."""
        arguments = self._arguments
        reasons: dict[str, str] = {}
        if not has_lora(arguments) or adapter_room(arguments) <= len(arguments.adapter_name_or_path):
            reasons["load_adapter"] = "vLLM reserves the room for adapters at the start: add enable_lora=true"
        if library.is_cpu_build():
            reasons["sleep"] = "vLLM's build for the CPU has no accelerator whose memory could be freed"
        elif not (arguments.vllm_config or {}).get("enable_sleep_mode"):
            reasons["sleep"] = 'vLLM has to be started for it: vllm_config={"enable_sleep_mode": true}'
        return reasons

    def _check_adapter(self, folder: AdapterFolder) -> None:
        super()._check_adapter(folder)
        check_rank(folder, self._arguments.vllm_max_lora_rank)


def _shortened(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
