"""What the engines whose library runs in a process of its own have in common: vLLM and SGLang."""

from __future__ import annotations

import asyncio
import tempfile
from abc import abstractmethod
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self, TypeVar

from engineroom.checkpoint import Checkpoint, CheckpointKind
from engineroom.config import Arguments
from engineroom.engines.adapter_folder import AdapterFolder, open_adapters
from engineroom.engines.base import BaseEngine, Health, HealthState
from engineroom.engines.grammar.compiler import FormatCompiler
from engineroom.engines.plain import causal_alone
from engineroom.engines.pooling import Pooling
from engineroom.engines.process.log import EngineLog
from engineroom.engines.process.lora import check_merge, check_plain_lora
from engineroom.engines.reward import Reward
from engineroom.errors import EngineClosedError, EngineDeadError, EngineStartError, ModelLoadError
from engineroom.types import SamplingParams

T = TypeVar("T")

START_LIMIT = 600.0
"""Seconds in which the library has to be ready; large models are read for minutes."""


class ProcessEngine(BaseEngine):
    """Reads from checkpoint and arguments what is to be run, and knows how its process is.

    Attributes:
        library: the library's name in a sentence.
        log: what the library says; a file that goes with a clean end, and stays after a failure.
    """

    library: ClassVar[str]
    checkpoint: Checkpoint

    def __init__(
        self, arguments: Arguments, checkpoint: Checkpoint, log: EngineLog, start_limit: float = START_LIMIT
    ) -> None:
        from engineroom.engines.huggingface.loader import Loader

        self.checkpoint = checkpoint  # pyright: ignore[reportIncompatibleVariableOverride]
        self.log = log
        self._arguments = arguments
        self._start_limit = start_limit
        loader = Loader(arguments, checkpoint)
        self._kind: CheckpointKind = loader.kind
        self._value_head_file = loader.value_head_file if loader.kind == "value_head" else None
        self.can_generate = self._kind == "causal"
        self.can_embed = self._kind == "embedding"
        self.pooling = Pooling.of(checkpoint) if self.can_embed else Pooling()
        self._folders = open_adapters(arguments.adapter_name_or_path, arguments.adapter_folder)
        check_merge(self._folders, self.name, self.library, merge=arguments.adapter_merge)
        for folder in self._folders:
            self._check_adapter(folder)
        self.lacks = {**self._lacks_here(), **self._lacks()}
        self.capabilities = {**self.capabilities, **dict.fromkeys(self.lacks, "unsupported")}
        self._reward: Reward | None = None
        self._plain: tempfile.TemporaryDirectory[str] | None = None
        self._formats: FormatCompiler | None = None
        self._weights = checkpoint.path
        self._state: HealthState = "starting"
        self._running = 0

    @classmethod
    def from_arguments(cls, arguments: Arguments) -> Self:
        return cls(arguments, Checkpoint.open(arguments))  # type: ignore[call-arg]

    # --- what each library has of its own --------------------------------------------------------------------------

    @abstractmethod
    def _lacks_here(self) -> dict[str, str]:
        """What the library could do, and this one can't, since it would have to be started for it → why."""

    @abstractmethod
    def _is_dead(self) -> bool:
        """Has its process ended?"""

    @abstractmethod
    def _obituary(self) -> str:
        """Why, as far as can be told."""

    @abstractmethod
    async def _end(self) -> None:
        """Ends the process and frees what belongs to it. May be called twice."""

    @abstractmethod
    async def _load_weights(self, folder: Path) -> None:
        """Puts a checkpoint's weights in the place of those that are there, whatever they are now, and flushes the cache.

        Raises:
            EngineDeadError, EngineClosedError: it is gone.
            Exception: any other is the library's, on these weights.
        """

    @abstractmethod
    async def _fail(self, error: Exception) -> NoReturn:
        """The library's exception as one of ours."""
        raise NotImplementedError

    # --- what they share -------------------------------------------------------------------------------------------

    def _lacks(self) -> dict[str, str]:
        if not (self._arguments.adapter_merge and self._arguments.adapter_name_or_path):
            return {}
        always = "the adapter of the start is applied to every request"
        return {
            "load_adapter": f"{always}, and {self.library} applies one to each; start with adapter_merge=false",
            "update_weights": f"{always}, and was trained on the weights of the start",
        }

    def _check_adapter(self, folder: AdapterFolder) -> None:
        """
        Raises:
            ModelLoadError: the library does not run it.
        """
        check_plain_lora(folder, self.checkpoint, self.library)

    @property
    def _hides_states(self) -> bool:
        """It is asked for hidden states, which are pooled by the library."""
        return self._kind in ("value_head", "embedding")

    def _model_folder(self) -> Path:
        """The folder that the library is to load: without what it would stumble over."""
        if not self.can_embed and self.checkpoint.value_head_file is None:
            return self.checkpoint.path
        self._plain = tempfile.TemporaryDirectory(prefix=f"engineroom-{self.name}-")
        return causal_alone(self.checkpoint, Path(self._plain.name))

    def _take_reward(self, hidden_size: int | None) -> None:
        """
        Args:
            hidden_size: numbers of a token's hidden state, which a value head takes.
        """
        if not self.can_generate and not self.can_embed:
            self._reward = Reward.of(self.checkpoint, self._value_head_file, hidden_size or 0)

    async def _grammar(self, params: SamplingParams) -> tuple[str | None, Sequence[int]]:
        """``response_format`` as GBNF, and the special tokens, which it lets through nowhere.

        Raises:
            ParameterError: it can't be kept to.
        """
        if params.response_format is None:
            return None, ()
        if self._formats is None:
            assert self.tokenizer is not None
            size = self.checkpoint.vocab_size or self.tokenizer.vocab_size
            self._formats = FormatCompiler(self.tokenizer, size, self.tokenizer.eos_token_ids)
        form = await self._formats.compile(params.response_format)
        return form.text, self._formats.special_ids

    async def _together(self, work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """All at once, as one request. The first failure ends the others.

        Raises:
            EngineError: as ``_fail`` tells it.
        """
        self._running += 1
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one) for one in work]
        except ExceptionGroup as errors:
            await self._fail(errors.exceptions[0])
        finally:
            self._running -= 1
        return [task.result() for task in tasks]

    async def update_weights(self, path: Path) -> None:
        try:
            await self._load_weights(path)
        except (EngineDeadError, EngineClosedError):
            raise
        except Exception as error:  # some of them may have been taken
            await self._load_weights(self._weights)
            raise ModelLoadError(
                f"{self.library} can't load the weights in {str(path)!r}",
                why=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}",
                fix=f"engineroom doctor {path}",
            ) from error
        self._weights = path

    def health(self) -> Health:
        if self._state == "ready" and self._is_dead():
            return Health("dead", self._running, self._obituary())
        return Health(self._state, self._running)

    async def close(self) -> None:
        if self._state == "closed":
            return
        clean, self._state = self._state == "ready" and not self._is_dead(), "closed"
        await self._stop()
        if clean:
            self.log.discard()

    async def _stop(self) -> None:
        if self._formats is not None:
            self._formats.close()
        if self._plain is not None:
            self._plain.cleanup()
        await self._end()

    def _closed(self) -> EngineClosedError:
        return EngineClosedError("the engine was closed", fix="make a new ChatModel")

    def _not_started(self) -> EngineStartError:
        return EngineStartError(f"the {self.name} engine was not started", fix="await engine.start() first")
