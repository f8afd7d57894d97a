"""``/v1/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from engineroom.call import RawPrompt
from engineroom.errors import ParameterError
from engineroom.server.answers import counted
from engineroom.server.bodies import JsonRoute
from engineroom.server.convert.completion_answer import CompletionPieces, CompletionShape, completion
from engineroom.server.convert.logprobs import LogprobWriter
from engineroom.server.convert.sampling import sampling_options, wire_names
from engineroom.server.routes.documented import ERRORS, streamed
from engineroom.server.service import service_of
from engineroom.server.sse import EventStream, written
from engineroom.server.tickets import ticket_of
from engineroom.server.wire.completions import MAX_PROMPTS, Completion, CompletionRequest

STREAMED = streamed(
    "With stream: the data of each event is a text_completion with pieces of text; the last is [DONE]."
)

router = APIRouter(tags=["completions"], route_class=JsonRoute)


@router.post("/v1/completions", response_model=Completion, responses={**ERRORS, **STREAMED})
async def create_completion(body: CompletionRequest, request: Request) -> Response:
    """Goes on with a text or with token ids; with ``stream`` in server-sent events."""
    service, ticket = service_of(request), ticket_of(request)
    model, ticket.subject, ticket.names = service.model, "prompt", wire_names(body)
    ticket.model, adapter = service.chosen(body.model)
    options = sampling_options(body, adapter, service.timeout(body.timeout))
    if body.logprobs is not None:
        options["logprobs"] = body.logprobs
    options.setdefault("max_new_tokens", 16)  # OpenAI's default of this endpoint
    prompts = prompts_of(body)
    ticket.answer_id = f"cmpl-{ticket.id}"
    shape = CompletionShape.of(
        body,
        id=ticket.answer_id,
        created=ticket.created,
        model=ticket.model,
        writer=LogprobWriter(model.tokenizer, as_ids=bool(body.return_tokens_as_token_ids)),
        prompts=len(prompts),
    )
    if body.stream:
        deltas = model.astream_completion(prompts, accepted=ticket.accept, **options)
        pieces = CompletionPieces(shape)
        events = written(deltas, pieces.event, ticket, per_prompt=options.get("n", 1), end=pieces.end)
        return EventStream(events, ticket)
    answers = await ticket.attend(request.receive, model.acomplete(prompts, **options))
    return counted(completion(answers, shape), ticket)


def prompts_of(body: CompletionRequest) -> Sequence[RawPrompt]:
    """The prompts, each a text or token ids.

    Raises:
        ParameterError: there are none, or too many.
    """
    given = body.prompt
    if isinstance(given, str):
        return [given]
    if not given:
        raise ParameterError("prompt is empty", parameter="prompt")
    if isinstance(given[0], int):
        return [cast("list[int]", given)]
    if len(given) > MAX_PROMPTS:
        raise ParameterError(
            f"prompt holds {len(given)} prompts",
            why=f"at most {MAX_PROMPTS} go into one request",
            parameter="prompt",
        )
    return cast("list[RawPrompt]", given)
