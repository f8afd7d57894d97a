"""Scores: LLaMA-Factory's ``/v1/score/evaluation``, vLLM's ``/score`` and ``/classify``, Cohere's and Jina's ``/v1/rerank``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from engineroom.server.wire.common import LABEL, Answer, Harmless, PromptUsage, Wire

_NOT_CUT = "texts are never cut"


class Scored(Wire):
    model: str | None = None
    timeout: float | None = Field(None, gt=0, le=10_000_000, description="Seconds for the whole request.")
    user: str | None = Field(None, description=LABEL)

    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "truncate_prompt_tokens": (_NOT_CUT, ()),
        "max_length": (_NOT_CUT, ()),
        "priority": ("requests are served in their order", (0,)),
        "mm_processor_kwargs": ("media are not supported yet", ({},)),
    }


class EvaluationRequest(Scored):
    """Texts for a reward model."""

    messages: list[str]


class Evaluation(Answer):
    id: str
    object: Literal["score.evaluation"]
    model: str
    scores: list[float]


class ScoreRequest(Scored):
    """``input``: texts or conversations for a reward model. ``text_1`` and ``text_2``: pairs, one to one or one to many;
    a reward model sees a question and its answer, an embedding model compares the two by their cosine."""

    input: str | list[str] | list[list[dict[str, Any]]] | None = None
    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None


class ScoreItem(Answer):
    object: Literal["score"]
    index: int
    score: float


class ScoreList(Answer):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ScoreItem]
    usage: PromptUsage


class ClassifyRequest(Scored):
    """Texts for a reward model, whose score is told as the probability of its one label."""

    input: str | list[str]
    use_activation: bool | None = Field(None, description="False gives the score itself, not its sigmoid.")


class ClassItem(Answer):
    index: int
    label: str
    probs: list[float]
    num_classes: int


class Classification(Answer):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ClassItem]
    usage: PromptUsage


class RerankRequest(Scored):
    """Documents to put into the order in which they answer a query."""

    query: str
    documents: list[str | dict[str, str]] = Field(min_length=1, max_length=2048)
    top_n: int | None = Field(
        None, ge=0, description="So many of the best; without it, or with vLLM's 0, all."
    )
    return_documents: bool | None = None

    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        **Scored.refused,
        "max_tokens_per_doc": (_NOT_CUT, (0,)),
        "max_chunks_per_doc": (_NOT_CUT, ()),
        "rank_fields": ("a document is one text", ()),
        "overlap_tokens": (_NOT_CUT, ()),
    }


class RerankItem(Answer):
    index: int
    relevance_score: float
    document: dict[str, str] | None = None


class Ranking(Answer):
    id: str
    model: str
    usage: PromptUsage
    results: list[RerankItem]
