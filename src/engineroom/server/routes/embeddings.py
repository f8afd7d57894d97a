"""``/v1/embeddings``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from engineroom.server.answers import JsonAnswer
from engineroom.server.bodies import JsonRoute
from engineroom.server.convert.embeddings import embedding_list, inputs_of
from engineroom.server.routes.documented import ERRORS
from engineroom.server.service import service_of
from engineroom.server.tickets import ticket_of
from engineroom.server.wire.embeddings import EmbeddingList, EmbeddingRequest

router = APIRouter(tags=["embeddings"], route_class=JsonRoute)


@router.post("/v1/embeddings", response_model=EmbeddingList, responses=ERRORS)
async def create_embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """A vector for each text. The model must have been loaded with ``stage=embed``, or be made for it."""
    service, ticket = service_of(request), ticket_of(request)
    model, ticket.subject = service.model, "input"
    ticket.model = service.base_of(body.model)
    vectors = await ticket.attend(
        request.receive,
        model.aget_embeddings(
            inputs_of(body),
            dimensions=body.dimensions,
            normalize=body.normalize,
            timeout=service.timeout(body.timeout),
        ),
    )
    written = embedding_list(vectors, ticket.model, as_base64=body.encoding_format == "base64")
    ticket.counted(written["usage"]["prompt_tokens"], 0)
    return JsonAnswer(written)
