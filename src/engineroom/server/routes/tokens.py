"""``/tokenize``, ``/detokenize`` and ``/render``: what a model would see, without asking it."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from engineroom.call import beside
from engineroom.chat import ChatModel
from engineroom.errors import ParameterError
from engineroom.sampling import check_text
from engineroom.server.answers import JsonAnswer
from engineroom.server.bodies import JsonRoute
from engineroom.server.convert.conversation import template_switches
from engineroom.server.rendering import rendered
from engineroom.server.routes.documented import ERRORS
from engineroom.server.service import service_of
from engineroom.server.tickets import ticket_of
from engineroom.server.wire.tokens import (
    Detokenized,
    DetokenizeRequest,
    Rendered,
    Rendering,
    Tokenized,
    TokenizeRequest,
)
from engineroom.types import Prompt

router = APIRouter(tags=["tokens"], route_class=JsonRoute)


@router.post("/tokenize", response_model=Tokenized, responses=ERRORS)
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """The token ids of a text or of a rendered conversation."""
    service = service_of(request)
    model = service.model
    service.chosen(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise ParameterError("give prompt or messages", parameter="prompt")
    if body.prompt is not None:
        _check_unicode(body.prompt)
        ids = await ticket_of(request).attend(request.receive, _ids_of(model, body))
    elif body.add_special_tokens:
        raise ParameterError(
            "add_special_tokens belongs to prompt, not to messages",
            why="the chat template makes all of them",
            parameter="add_special_tokens",
        )
    else:
        ids = list((await _rendered(model, body, request)).token_ids)
    told: dict[str, Any] = {"count": len(ids), "max_model_len": model.context_length, "tokens": ids}
    if body.return_token_strs:
        each = beside(partial(_each, model, ids), len(ids))
        told["token_strs"] = await ticket_of(request).attend(request.receive, each)
    return JsonAnswer(told)


@router.post("/detokenize", response_model=Detokenized, responses=ERRORS)
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """The text of token ids, special tokens included."""
    service = service_of(request)
    service.chosen(body.model)
    tokenizer = service.model.tokenizer
    ends = (min(body.tokens), max(body.tokens)) if body.tokens else ()
    wrong = next((i for i in ends if not 0 <= i < tokenizer.vocab_size), None)
    if wrong is not None:
        raise ParameterError(
            f"tokens holds id {wrong}", why=f"ids go from 0 to {tokenizer.vocab_size - 1}", parameter="tokens"
        )
    decode = partial(tokenizer.decode, body.tokens, skip_special_tokens=False)
    return JsonAnswer({"prompt": await beside(decode, len(body.tokens))})


@router.post("/render", response_model=Rendered, responses=ERRORS)
async def render(body: Rendering, request: Request) -> Response:
    """The exact prompt of a conversation, as text and token ids."""
    service = service_of(request)
    service.chosen(body.model)
    if body.messages is None:
        raise ParameterError("messages is missing", parameter="messages")
    prompt = await _rendered(service.model, body, request)
    return JsonAnswer({"prompt": prompt.text, "token_ids": prompt.token_ids, "count": len(prompt)})


async def _rendered(model: ChatModel, body: Rendering, request: Request) -> Prompt:
    switches = template_switches(
        body.chat_template_kwargs, body.continue_final_message, body.add_generation_prompt
    )
    work = rendered(model, body.messages, body.tools or None, **switches)
    return await ticket_of(request).attend(request.receive, work)


async def _ids_of(model: ChatModel, body: TokenizeRequest) -> list[int]:
    for name in ("tools", "chat_template_kwargs", "continue_final_message", "add_generation_prompt"):
        if getattr(body, name):
            raise ParameterError(f"{name} belongs to messages, not to prompt", parameter=name)
    text = body.prompt or ""
    check_text(len(text), model.context_length)
    encode = model.tokenizer.encode if body.add_special_tokens is False else model.tokenizer.encode_plain
    return await beside(partial(encode, text), len(text))


def _each(model: ChatModel, ids: list[int]) -> list[str]:
    return [model.tokenizer.decode([i], skip_special_tokens=False) for i in ids]


def _check_unicode(text: str) -> None:
    """
    Raises:
        ParameterError: no tokenizer can read it, and each fails in its own way.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ParameterError("prompt holds half a character", why=str(error), parameter="prompt") from error
