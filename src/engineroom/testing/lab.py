"""The models that the suite asks: each is started when first needed, once, and closed at the end of the class."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from engineroom import demo
from engineroom.chat import ChatModel
from engineroom.checkpoint import Checkpoint
from engineroom.testing import models
from engineroom.testing.machinery import until
from engineroom.testing.reference import Reference
from engineroom.types import Chunk, Prompt, Response, SamplingParams

ENDLESS: Mapping[str, Any] = {"temperature": 0, "ignore_eos": True}
"""Goes on to the limit, and always to the same tokens."""


@dataclass
class Calls:
    """Every call of the engine's ``generate``. ``entered`` is called on the model's loop, before the engine's own."""

    count: int = 0
    chunks: int = 0
    entered: Callable[[], object] = lambda: None

    def watch(self, generate: Callable[[Prompt, SamplingParams], AsyncIterator[Chunk]]) -> Any:
        async def watched(prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Chunk, None]:
            self.count += 1
            self.entered()
            stream: Any = generate(prompt, params)
            try:
                async for chunk in stream:
                    self.chunks += 1
                    yield chunk
            finally:
                await stream.aclose()

        return watched


@dataclass
class Subject:
    """A model on the engine under test, the same checkpoint in Transformers, and what reached the engine."""

    model: ChatModel
    folder: Path
    calls: Calls = field(default_factory=Calls)

    def __post_init__(self) -> None:
        setattr(self.model.engine, "generate", self.calls.watch(self.model.engine.generate))  # noqa: B010

    @cached_property
    def reference(self) -> Reference:
        return Reference(
            self.folder, classifier=Checkpoint("", self.folder).kind == "sequence_classification"
        )

    def supports(self, feature: str) -> bool:
        return self.model.engine.capabilities.get(feature, "unsupported") != "unsupported"

    def ask(self, prompt: Any = models.STORY, **options: Any) -> Response:
        """One answer."""
        return self.model.chat(prompt, **options)[0]

    def ids(self, prompt: Any = models.STORY, **options: Any) -> list[int]:
        return list(self.ask(prompt, **options).token_ids)

    def greedy(self, prompt: Any = models.STORY, count: int = 16, **options: Any) -> list[int]:
        """The first tokens of the greedy answer, past any end."""
        return self.ids(prompt, max_new_tokens=count, **ENDLESS, **options)

    def prompt_ids(self, prompt: Any = models.STORY) -> tuple[int, ...]:
        return self.model.render(prompt).token_ids

    def until_idle(self, within: float) -> float:
        """Waits until no request is in the engine; the seconds that it took."""
        return until(lambda: self.model.health().running == 0, within, "the engine has no request left")

    async def until_accepted(self, answers: int) -> None:
        """Waits until so many answers are running or waiting. Nothing public tells who waits."""
        admission: Any = self.model._pipeline.admission  # pyright: ignore[reportPrivateUsage]
        while admission.accepted < answers:
            await asyncio.sleep(0.001)

    def assert_answers_well(self) -> None:
        """The next request succeeds, and rightly."""
        assert self.model.health().state == "ready"
        self.reference.assert_greedy(self.prompt_ids(), self.greedy(count=4))


class Lab:
    """Starts models on one engine.

    Args:
        backend: the engine's word in ``infer_backend``.
        arguments: settings of every model.
        home: an empty folder for checkpoints.
        sparse: every model is a mixture of experts.
    """

    def __init__(
        self, backend: str, arguments: Mapping[str, Any], home: Path, *, sparse: bool = False
    ) -> None:
        self.backend = backend
        self.arguments = {"infer_dtype": "float32", **arguments, "infer_backend": backend}
        self.home = home
        self.sparse = sparse
        self._open = ExitStack()

    def start(self, model: Path | str, **arguments: Any) -> ChatModel:
        """A model for the caller to close."""
        return ChatModel({**self.arguments, "model_name_or_path": str(model), **arguments})

    def subject(self, folder: Path, **arguments: Any) -> Subject:
        """A model that is closed with the lab."""
        return Subject(self._open.enter_context(self.start(folder, **arguments)), folder)

    def close(self) -> None:
        self._open.close()

    # --- checkpoints -----------------------------------------------------------------------------------------------

    @cached_property
    def tiny_folder(self) -> Path:
        return models.causal(self.home / "tiny", sparse=self.sparse)

    @cached_property
    def adapters(self) -> dict[str, Path]:
        """Two LoRA adapters of the tiny model, by the names that they get when they are kept apart."""
        names = ("first", "second")
        return {n: models.lora(self.tiny_folder, self.home / n, seed=place) for place, n in enumerate(names)}

    # --- models ----------------------------------------------------------------------------------------------------

    @cached_property
    def tiny(self) -> Subject:
        """A random model with a long context, and with two adapters kept apart if the engine has adapters."""
        from engineroom.engines import registry

        capabilities = registry.find(self.backend).load().capabilities
        if capabilities.get("adapter", "unsupported") == "unsupported":
            return self.subject(self.tiny_folder)
        names = ",".join(map(str, self.adapters.values()))
        room = {"enable_lora": True} if capabilities.get("load_adapter") == "native" else {}
        return self.subject(self.tiny_folder, adapter_name_or_path=names, adapter_merge=False, **room)

    @cached_property
    def narrow(self) -> Subject:
        """The tiny model, with room for one answer that runs and one that waits."""
        return self.subject(self.tiny_folder, max_concurrent=1, max_queue=1)

    @cached_property
    def demo(self) -> Subject:
        """The shipped model, without its own parameters: an engine need not have them all."""
        return self.subject(self._shipped, temperature=1.0, top_p=1.0)

    @cached_property
    def reward(self) -> Subject:
        """The shipped reward model, a sequence classifier; of a sparse kind none is shipped, and a random one is made."""
        return self.subject(
            models.sparse_classifier(self.home / "reward") if self.sparse else _shipped("demo-reward")
        )

    @cached_property
    def tiny_embedder(self) -> Subject:
        """The tiny model, whose hidden states are asked for."""
        return self.subject(self.tiny_folder, stage="embed")

    @cached_property
    def demo_embedder(self) -> Subject:
        """The shipped model, likewise."""
        return self.subject(self._shipped, stage="embed")

    @cached_property
    def late_adapter(self) -> Path:
        """A third adapter of the tiny model, which nobody loads at the start."""
        return models.lora(self.tiny_folder, self.home / "late", seed=3)

    @cached_property
    def adapter_of_another(self) -> Path:
        """An adapter of a model of another width."""
        return models.lora(self.wide, self.home / "of-another", seed=4)

    @cached_property
    def wide(self) -> Path:
        """A model of another width."""
        return models.causal(self.home / "wide", sparse=self.sparse, hidden_size=512)

    @cached_property
    def retrained(self) -> Path:
        """The tiny model with other weights."""
        return models.causal(self.home / "retrained", sparse=self.sparse, seed=8)

    @cached_property
    def value_head(self) -> Subject:
        """A reward model whose head lies beside a causal model."""
        return self.subject(models.with_value_head(self.tiny_folder, self.home / "value-head"))

    @property
    def _shipped(self) -> Path:
        return _shipped("demo-moe" if self.sparse else "demo")


def _shipped(name: str) -> Path:
    path = demo.resolve(name)
    assert path is not None
    return path
