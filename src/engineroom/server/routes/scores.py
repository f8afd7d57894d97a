"""Scores of a reward model, and the nearness of texts by an embedding model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from engineroom.errors import RequestError
from engineroom.server.answers import JsonAnswer
from engineroom.server.bodies import JsonRoute
from engineroom.server.convert.scores import (
    as_conversation,
    checked,
    cosine,
    documents_of,
    inputs_of,
    pairs_of,
    ranked,
    sigmoid,
)
from engineroom.server.convert.usage import of_prompts
from engineroom.server.routes.documented import ERRORS
from engineroom.server.service import service_of
from engineroom.server.tickets import ticket_of
from engineroom.server.wire.scores import (
    Classification,
    ClassifyRequest,
    Evaluation,
    EvaluationRequest,
    Ranking,
    RerankRequest,
    Scored,
    ScoreList,
    ScoreRequest,
)

router = APIRouter(tags=["scores"], route_class=JsonRoute)


@router.post("/v1/score/evaluation", response_model=Evaluation, responses=ERRORS)
async def evaluate(body: EvaluationRequest, request: Request) -> Response:
    """LLaMA-Factory's: a reward model's score of each text."""
    if body.model == "model":  # what LLaMA-Factory's trainer calls every reward server's
        body.model = None
    scores = await _rewards(request, body, checked(list(body.messages), "messages"))
    return JsonAnswer(
        {
            "id": f"scoreval-{ticket_of(request).id}",
            "object": "score.evaluation",
            "model": ticket_of(request).model,
            "scores": scores,
        }
    )


@router.post("/score", response_model=ScoreList, responses=ERRORS)
@router.post("/v1/score", response_model=ScoreList, responses=ERRORS, include_in_schema=False)
async def score(body: ScoreRequest, request: Request) -> Response:
    """Scores of texts or conversations, or of pairs of texts."""
    ticket_of(request).subject = "text_2" if body.input is None else "input"
    if body.input is not None:
        scores = await _rewards(request, body, inputs_of(body))
    else:
        scores = await _of_pairs(request, body, pairs_of(body), "text_1")
    items = [{"object": "score", "index": place, "score": value} for place, value in enumerate(scores)]
    return JsonAnswer(_listing(request, "score", items))


@router.post("/classify", response_model=Classification, responses=ERRORS)
async def classify(body: ClassifyRequest, request: Request) -> Response:
    """vLLM's: a reward model has one label, whose probability is the sigmoid of the score."""
    ticket_of(request).subject = "input"
    given = [body.input] if isinstance(body.input, str) else list(body.input)
    scores = await _rewards(request, body, checked(given, "input"))
    if body.use_activation is not False:
        scores = [sigmoid(value) for value in scores]
    items = [
        {"index": place, "label": "LABEL_0", "probs": [value], "num_classes": 1}
        for place, value in enumerate(scores)
    ]
    return JsonAnswer(_listing(request, "classify", items))


@router.post("/v1/rerank", response_model=Ranking, responses=ERRORS)
@router.post("/rerank", response_model=Ranking, responses=ERRORS, include_in_schema=False)
@router.post("/v2/rerank", response_model=Ranking, responses=ERRORS, include_in_schema=False)  # Cohere's
async def rerank(body: RerankRequest, request: Request) -> Response:
    """Documents, the one that answers the query best first."""
    ticket_of(request).subject = "documents"
    texts = documents_of(body)
    scores = await _of_pairs(request, body, [(body.query, text) for text in texts], "query")
    return JsonAnswer(
        {
            "id": f"rerank-{ticket_of(request).id}",
            "model": ticket_of(request).model,
            "usage": of_prompts(ticket_of(request).prompt_tokens),
            "results": ranked(scores, texts, body),
        }
    )


async def _rewards(request: Request, body: Scored, texts: Sequence[Any]) -> list[float]:
    service, ticket = service_of(request), ticket_of(request)
    ticket.model = service.base_of(body.model)
    work = service.model.aget_rewards(texts, timeout=service.timeout(body.timeout))
    rewards = await ticket.attend(request.receive, work)
    ticket.counted(sum(reward.prompt_length for reward in rewards), 0)
    return [reward.score for reward in rewards]


async def _of_pairs(
    request: Request, body: Scored, pairs: Sequence[tuple[str, str]], first: str
) -> list[float]:
    """
    Args:
        first: the field with what is on the left in the pairs.
    """
    service, ticket = service_of(request), ticket_of(request)
    if not service.model.engine.can_embed:
        return await _rewards(request, body, [as_conversation(*pair) for pair in pairs])
    ticket.model = service.base_of(body.model)
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    work = service.model.aget_embeddings(texts, timeout=service.timeout(body.timeout))
    try:
        vectors = dict(zip(texts, await ticket.attend(request.receive, work), strict=True))
    except RequestError as error:
        for place, text in enumerate(texts):
            if error.place == f"batch_input[{place}]":  # a place in a list that nobody sent
                error.moved(error.place, _place_of(text, pairs, first, ticket.subject))
        raise
    ticket.counted(sum(vector.prompt_length for vector in vectors.values()), 0)
    return [cosine(vectors[one], vectors[other]) for one, other in pairs]


def _place_of(text: str, pairs: Sequence[tuple[str, str]], first: str, second: str) -> str:
    """Where in the body a text of pairs stands."""
    place = next((place for place, (_, other) in enumerate(pairs) if other == text), None)
    return first if place is None else f"{second}[{place}]"


def _listing(request: Request, kind: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    ticket = ticket_of(request)
    return {
        "id": f"{kind}-{ticket.id}",
        "object": "list",
        "created": ticket.created,
        "model": ticket.model,
        "data": items,
        "usage": of_prompts(ticket.prompt_tokens),
    }
