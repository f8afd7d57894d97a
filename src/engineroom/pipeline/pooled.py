"""What is made of whole texts, without an answer: rewards and embeddings."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from engineroom.admission import Admission
from engineroom.call import Conversation, beside, text_length
from engineroom.deadline import Deadline
from engineroom.engines.base import BaseEngine
from engineroom.errors import GenerationError, MessageError, ParameterError, RequestError, shown
from engineroom.pipeline.prompts import Prompts
from engineroom.sampling import SamplingDefaults
from engineroom.types import Embedding, Prompt, Reward

T = TypeVar("T")


class Pooled:
    """Scores and embeds, within the places that admission has."""

    def __init__(
        self, prompts: Prompts, engine: BaseEngine, defaults: SamplingDefaults, admission: Admission
    ) -> None:
        self._prompts = prompts
        self._engine = engine
        self._defaults = defaults
        self._admission = admission

    async def get_rewards(self, batch_input: Sequence[Conversation], **kwargs: Any) -> list[Reward]:
        """A reward for each text or conversation. ``timeout`` is understood, and no other parameter.

        Raises:
            RequestTimeoutError: it passed.
        """
        timeout = self._defaults.resolve({"timeout": kwargs.pop("timeout", None)}).timeout
        _check_batch("get_scores", batch_input, kwargs)
        self._engine.require("score")
        if self._engine.can_generate or self._engine.can_embed:
            raise RequestError(
                "the model is not a reward model",
                why="its checkpoint has neither a sequence-classification nor a value head",
                fix="name a reward model, such as model_name_or_path=demo-reward",
            )
        if not batch_input:
            return []

        async def score(prompts: Sequence[Prompt]) -> list[Reward]:
            scores = await self._engine.score(prompts)
            return [Reward(value, len(prompt)) for value, prompt in zip(scores, prompts, strict=True)]

        return await self._batch(batch_input, timeout, score, "scored")

    async def get_embeddings(
        self,
        batch_input: Sequence[Conversation],
        *,
        dimensions: int | None = None,
        normalize: bool | None = None,
        **kwargs: Any,
    ) -> list[Embedding]:
        """A vector for each text or conversation. ``timeout`` is understood, too.

        Raises:
            RequestTimeoutError: it passed.
        """
        timeout = self._defaults.resolve({"timeout": kwargs.pop("timeout", None)}).timeout
        _check_batch("get_embeddings", batch_input, kwargs)
        self._engine.require("embed")
        if not self._engine.can_embed:
            raise RequestError(
                "the model was not loaded as an embedding model",
                fix="load it with stage=embed",
            )
        if normalize is not None and not isinstance(normalize, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ParameterError(
                f"normalize={shown(normalize)} is not allowed", why="true or false", parameter="normalize"
            )
        self._check_dimensions(dimensions)
        if not batch_input:
            return []
        unit = self._engine.pooling.normalize if normalize is None else normalize

        async def embed(prompts: Sequence[Prompt]) -> list[Embedding]:
            vectors = await self._engine.embed(prompts)
            return [
                Embedding(_shaped(vector, dimensions, unit), len(prompt))
                for vector, prompt in zip(vectors, prompts, strict=True)
            ]

        return await self._batch(batch_input, timeout, embed, "embedded")

    async def _batch(
        self,
        batch: Sequence[Conversation],
        seconds: float | None,
        work: Callable[[Sequence[Prompt]], Awaitable[list[T]]],
        done: str,
    ) -> list[T]:
        """What the engine makes of whole texts, in time."""
        if seconds is None:
            return await self._batch_until(None, batch, work, done)
        self._engine.require("timeout")
        deadline = Deadline(seconds)
        return await deadline.wait(self._batch_until(deadline, batch, work, done))

    async def _batch_until(
        self,
        deadline: Deadline | None,
        batch: Sequence[Conversation],
        work: Callable[[Sequence[Prompt]], Awaitable[list[T]]],
        done: str,
    ) -> list[T]:
        with self._admission.place(1):
            prompts = await self._batch_prompts(batch)
            if deadline is not None:
                deadline.stage = "it was waiting for its turn in the engine"
            async with self._admission.slot():
                if deadline is not None:
                    deadline.stage = f"the engine had not {done} all {len(prompts)} of them"
                return await work(prompts)

    async def _batch_prompts(self, batch: Sequence[Conversation]) -> list[Prompt]:
        def render() -> list[Prompt]:
            return [self._prompt(item, place) for place, item in enumerate(batch)]

        return await beside(render, text_length(batch))

    def _prompt(self, item: Any, place: int) -> Prompt:
        try:
            return self._prompts.whole(item)
        except RequestError as error:
            error.within(f"batch_input[{place}]")
            raise

    def _check_dimensions(self, dimensions: Any) -> None:
        if dimensions is None:
            return
        size = self._engine.checkpoint.hidden_size if self._engine.checkpoint else None
        whole = isinstance(dimensions, int) and not isinstance(dimensions, bool)
        if not whole or dimensions < 1 or (size is not None and dimensions > size):
            raise ParameterError(
                f"dimensions={shown(dimensions)} is not allowed",
                why=f"an integer from 1 to {size}" if size else "an integer of at least 1",
                parameter="dimensions",
            )


def _check_batch(method: str, batch_input: Any, unknown: Mapping[str, Any]) -> None:
    for name, value in unknown.items():
        if value is not None:
            raise ParameterError(f"{method} has no parameter {name!r}", fix="leave it out", parameter=name)
    if isinstance(batch_input, str) or not isinstance(batch_input, Sequence):
        raise MessageError(
            f"{method} takes a list of texts or of conversations", fix='wrap it in a list: ["a text"]'
        )


def _shaped(vector: Sequence[float], dimensions: int | None, unit: bool) -> tuple[float, ...]:
    """The first ``dimensions`` numbers (Matryoshka embeddings, Kusupati et al. 2022), then the length 1.

    Raises:
        GenerationError: the vector holds what is not a number.
    """
    if not all(map(math.isfinite, vector)):
        raise GenerationError(
            "the model's embedding is not a number (NaN or infinite)",
            why="the weights are broken, or infer_dtype overflows on this text",
            fix="try infer_dtype=float32 or infer_dtype=bfloat16",
        )
    kept = tuple(vector[:dimensions])
    length = math.hypot(*kept) if unit else 1.0
    return tuple(value / length for value in kept) if length else kept
