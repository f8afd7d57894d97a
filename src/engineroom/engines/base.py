"""What an engine is: tokens in, tokens out.

A backend's author writes ``start``, ``generate``, ``score``, ``close`` and a table of capabilities. Chat templates,
detokenisation, stop strings, ``n`` answers, queueing and validation happen above, once, for all engines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from engineroom.call import Call
from engineroom.engines.capabilities import engines_with
from engineroom.engines.pooling import Pooling
from engineroom.errors import EngineClosedError, UnsupportedError
from engineroom.types import Chunk, Prompt, Response, SamplingParams, Support, Tokenizer

if TYPE_CHECKING:
    from engineroom.checkpoint import Checkpoint
    from engineroom.config import Arguments

Progress: TypeAlias = Callable[[str, float | None], None]
"""Called while an engine starts, from any thread: the stage's name, and the share done in [0, 1] or None."""

HealthState: TypeAlias = Literal["starting", "ready", "sleeping", "dead", "closed"]


@dataclass(frozen=True, slots=True)
class Health:
    """How an engine is.

    Attributes:
        running: requests inside the engine now.
        prompt_tokens: of all answers since the engine started, as ``ChatModel`` counts them; equality leaves both counts out.
        cached_tokens: those of them that had been computed for earlier requests.
    """

    state: HealthState
    running: int = 0
    detail: str = ""
    prompt_tokens: int = field(default=0, compare=False)
    cached_tokens: int = field(default=0, compare=False)


class Frontend(Protocol):
    """The joined path render → engine → parse, which the facade hands to the engine that it drives."""

    async def chat(self, call: Call) -> list[Response]: ...

    def stream_chat(self, call: Call) -> AsyncGenerator[str, None]: ...

    async def get_scores(self, batch_input: Any, **kwargs: Any) -> list[float]: ...


class BaseEngine(ABC):
    """Base class of all engines.

    Attributes:
        name: the engine's word in ``infer_backend``.
        capabilities: parameter or feature → how it is supported. What is missing here is unsupported.
        max_concurrency: requests that the engine runs side by side; the default of ``max_concurrent``.
        context_length: tokens of prompt and answer together; None before ``start``.
        model: the library's own model object, where there is one.
        tokenizer: set by the facade before ``start``, unless the engine brings its own.
        checkpoint: the model's folder, where there is one.
        can_generate: False for reward models, which score, and for embedding models.
        can_embed: True for embedding models.
        pooling: how an embedding model makes one vector of many.
        adapters: the LoRA adapters that a request can choose, by name; the engine keeps it current.
        lacks: features that the engine declares unsupported here, though elsewhere it has them → why.
        template: the chat template in use, set by the facade.
        generating_args: the sampling defaults in use, set by the facade.
    """

    name: str
    capabilities: Mapping[str, Support]
    max_concurrency: int = 32
    context_length: int | None = None
    model: Any = None
    tokenizer: Tokenizer | None = None
    checkpoint: Checkpoint | None = None
    can_generate: bool = True
    can_embed: bool = False
    pooling: Pooling = Pooling()
    adapters: Mapping[str, Path] = MappingProxyType({})
    lacks: Mapping[str, str] = MappingProxyType({})
    template: Any = None
    generating_args: Mapping[str, Any] = MappingProxyType({})
    frontend: Frontend | None = None

    @classmethod
    @abstractmethod
    def from_arguments(cls, arguments: Arguments) -> BaseEngine:
        """Makes the engine, cheaply: nothing is loaded before ``start``.

        Raises:
            ArgumentError: the arguments can't be honoured by this engine.
        """

    @abstractmethod
    async def start(self, progress: Progress) -> None:
        """Loads the model. Returns when the first request can be served.

        Raises:
            ModelError: the checkpoint can't be loaded.
            EngineError: the engine can't run here.
        """

    def require(self, feature: str) -> None:
        """
        Raises:
            UnsupportedError: the engine does not have this parameter or feature; it names those that do.
        """
        if self.capabilities.get(feature, "unsupported") == "unsupported":
            reason = self.lacks.get(feature, "")
            others = [name for name in engines_with(feature) if name != self.name and not reason]
            raise UnsupportedError(feature, self.name, others, why=reason)

    async def prepare(self, params: SamplingParams) -> None:  # noqa: B027 - most engines have nothing to do here
        """Called before ``generate``, with the same parameters: whatever only this engine can refuse is refused here.

        Once for all prompts of a request, with those of the first; the others' differ in ``max_new_tokens`` alone.

        Raises:
            RequestError: the engine can't do what they ask.
        """

    @abstractmethod
    def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncIterator[Chunk]:
        """Streams one answer (several, by ``Chunk.index``, only for beam search with ``n`` > 1).

        ``params.stop_token_ids`` holds every id that ends the answer, the model's own end tokens included, and
        ``params.max_new_tokens`` is set and fits the context; ``stop`` strings, ``ignore_eos`` and
        ``skip_special_tokens`` were dealt with above. Closing the iterator frees the request's slot within one step.

        Raises:
            GenerationError: this request failed.
            EngineDeadError: the engine is gone.
        """

    @abstractmethod
    async def score(self, prompts: Sequence[Prompt]) -> list[float]:
        """Reward of each prompt, at its last token."""

    async def embed(self, prompts: Sequence[Prompt]) -> list[tuple[float, ...]]:
        """One vector for each prompt, pooled as ``pooling`` says, and of whatever length: it is normalised above."""
        raise UnsupportedError("embed", self.name)

    async def load_adapter(self, name: str, path: Path) -> None:
        """Loads a LoRA adapter while others answer. ``name`` is free, and stays so if it fails.

        Raises:
            ModelError: there is no adapter, or it does not fit the model.
        """
        raise UnsupportedError("load_adapter", self.name)

    async def unload_adapter(self, name: str) -> None:
        """Unloads an adapter that no request needs any more."""
        raise UnsupportedError("load_adapter", self.name)

    async def sleep(self) -> None:
        """Frees the accelerator's memory and keeps the weights elsewhere. No request is in the engine."""
        raise UnsupportedError("sleep", self.name)

    async def wake(self) -> None:
        """Undoes ``sleep``."""
        raise UnsupportedError("sleep", self.name)

    async def flush_cache(self) -> None:
        """Forgets what was computed for earlier prompts. No request is in the engine."""
        raise UnsupportedError("flush_cache", self.name)

    async def update_weights(self, path: Path) -> None:
        """Takes the weights of another checkpoint of the same architecture and shapes, in place; what was computed with
        the old ones is forgotten. No request is in the engine, and no adapter.

        Raises:
            ModelError: it can't be read. The old weights are in place.
        """
        raise UnsupportedError("update_weights", self.name)

    @abstractmethod
    async def close(self) -> None:
        """Ends every request with an error, frees memory, stops threads and processes. May be called twice."""

    @abstractmethod
    def health(self) -> Health: ...

    # The seed's interface, the same for all engines. The facade joins render, engine and parse; the engine only
    # forwards, so that code written against LLaMA-Factory's ``chat_model.engine`` keeps working.

    async def chat(
        self,
        messages: Any,
        system: str | None = None,
        tools: Any = None,
        images: Any = None,
        videos: Any = None,
        audios: Any = None,
        **input_kwargs: Any,
    ) -> list[Response]:
        return await self._front().chat(Call(messages, system, tools, images, videos, audios, input_kwargs))

    async def stream_chat(
        self,
        messages: Any,
        system: str | None = None,
        tools: Any = None,
        images: Any = None,
        videos: Any = None,
        audios: Any = None,
        **input_kwargs: Any,
    ) -> AsyncGenerator[str, None]:
        call = Call(messages, system, tools, images, videos, audios, input_kwargs)
        async with aclosing(self._front().stream_chat(call)) as pieces:
            async for text in pieces:
                yield text

    async def get_scores(self, batch_input: Any, **input_kwargs: Any) -> list[float]:
        return await self._front().get_scores(batch_input, **input_kwargs)

    def _front(self) -> Frontend:
        if self.frontend is None:
            raise EngineClosedError(
                f"the {self.name} engine is not attached to a model",
                fix="make it through ChatModel(args), or ChatModel(engine=…)",
            )
        return self.frontend
