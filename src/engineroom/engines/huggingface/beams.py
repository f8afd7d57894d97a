"""Beam search, through Transformers' own ``generate``. It runs whole: other answers wait for it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from engineroom.engines.huggingface.library import Model, integers
from engineroom.engines.huggingface.loaded import LoadedModel
from engineroom.engines.huggingface.sampler import Penalties, Row
from engineroom.engines.huggingface.sequence import Sequence
from engineroom.engines.huggingface.trouble import not_a_number
from engineroom.errors import EngineClosedError
from engineroom.types import Chunk


class _Shape(LogitsProcessor):
    """Our bias and penalties, per beam: a beam's past is its row of ids."""

    def __init__(self, sequence: Sequence) -> None:
        self._params = sequence.params
        self._prompt = sequence.prompt.token_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if bool(torch.isnan(scores).any()):
            raise not_a_number("logits")
        penalties = Penalties.of([self._beam(integers(ids)) for ids in input_ids], scores)
        return scores if penalties is None else penalties(scores)

    def _beam(self, ids: list[int]) -> Row:
        beam = Row(self._params, self._prompt)
        beam.tokens = ids
        return beam


class _Left(StoppingCriteria):
    """Ends the search when its reader has left or the engine closes."""

    def __init__(self, left: Callable[[], bool]) -> None:
        self._left = left

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.full((input_ids.shape[0],), self._left(), dtype=torch.bool, device=input_ids.device)


def search_beams(loaded: LoadedModel, sequence: Sequence, closing: Callable[[], bool]) -> None:
    """Finds the ``n`` best of ``num_beams`` beams and posts one chunk for each, best first."""
    params = sequence.params
    config = GenerationConfig(
        do_sample=False,
        num_beams=params.num_beams,
        num_return_sequences=params.n,
        length_penalty=params.length_penalty,
        max_new_tokens=params.max_new_tokens,
        eos_token_id=list(params.stop_token_ids) or None,
        pad_token_id=loaded.pad_token_id,
        use_cache=loaded.single.cache_argument is not None,
    )
    ids = torch.tensor([sequence.prompt.token_ids], device=loaded.device)
    loaded.adapters.use(params.adapter)
    loaded.rope.forget()
    with _without_defaults(loaded.model):
        output = loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            logits_processor=LogitsProcessorList([_Shape(sequence)]),
            stopping_criteria=StoppingCriteriaList([_Left(lambda: sequence.cancelled or closing())]),
        )
    if closing():
        raise EngineClosedError("the engine was closed", fix="make a new ChatModel")
    for index, row in enumerate(output[:, ids.shape[1] :]):
        sequence.mailbox.post(_beam_chunk(integers(row), params.stop_token_ids, index))


@contextmanager
def _without_defaults(model: Model) -> Generator[None, None, None]:
    """``generate`` fills what is None from the model's own generation config: the end tokens of an answer that should
    ignore them, for one. The defaults that count were taken over long before this.
    """
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _beam_chunk(row: list[int], ends: tuple[int, ...], index: int) -> Chunk:
    """A beam without the padding after its end token."""
    stop = next((place for place, token_id in enumerate(row) if token_id in ends), None)
    if stop is None:
        return Chunk(tuple(row), "length", index=index)
    return Chunk(tuple(row[: stop + 1]), "stop", index=index)
