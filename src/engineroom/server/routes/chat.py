"""``/v1/chat/completions``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from engineroom.server.answers import counted
from engineroom.server.bodies import JsonRoute
from engineroom.server.convert.chat_answer import ChatPieces, ChatShape, completion
from engineroom.server.convert.conversation import chat_options
from engineroom.server.convert.logprobs import LogprobWriter
from engineroom.server.convert.sampling import wire_names
from engineroom.server.rendering import rendered
from engineroom.server.routes.documented import ERRORS, streamed
from engineroom.server.service import service_of
from engineroom.server.sse import EventStream, written
from engineroom.server.tickets import ticket_of
from engineroom.server.wire.chat import ChatCompletion, ChatRequest

STREAMED = streamed("With stream: the data of each event is a chat.completion.chunk; the last is [DONE].")

router = APIRouter(tags=["chat"], route_class=JsonRoute)


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses={**ERRORS, **STREAMED})
async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
    """Answers a conversation; with ``stream`` in server-sent events, a ``chat.completion.chunk`` each."""
    service, ticket = service_of(request), ticket_of(request)
    model, ticket.names = service.model, wire_names(body)
    ticket.model, adapter = service.chosen(body.model)
    options = chat_options(body, adapter, service.timeout(body.timeout), model.engine.name)
    known_early = body.return_token_ids or body.wants_running_usage
    ticket.answer_id = f"chatcmpl-{ticket.id}"
    shape = ChatShape.of(
        body,
        id=ticket.answer_id,
        created=ticket.created,
        model=ticket.model,
        writer=LogprobWriter(model.tokenizer, as_ids=bool(body.return_tokens_as_token_ids)),
        tags=model.renderer.template.thinking_tags,
        prompt=await ticket.attend(request.receive, rendered(model, body.messages, **_rendering(options)))
        if known_early
        else None,
    )
    if body.stream:
        deltas, pieces = (
            model.astream_deltas(body.messages, accepted=ticket.accept, **options),
            ChatPieces(shape),
        )
        return EventStream(written(deltas, pieces.event, ticket, end=pieces.end), ticket)
    answers = await ticket.attend(request.receive, model.achat(body.messages, **options))
    return counted(completion(answers, shape), ticket)


def _rendering(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("enable_thinking", "continue_final") if name in options}
