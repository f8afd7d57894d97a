"""``/v1/models``: the model under each of its names, and the LoRA adapters that a request can choose."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request

from engineroom.errors import ParameterError
from engineroom.server.convert.models import check_lifecycles, page
from engineroom.server.http import speaks_anthropic
from engineroom.server.routes.anthropic_version import Version, check_version
from engineroom.server.routes.documented import EITHER_ERRORS
from engineroom.server.service import Service, service_of
from engineroom.server.wire.common import unknown_field
from engineroom.server.wire.models import AnthropicModel, AnthropicModelList, ModelCard, ModelList

router = APIRouter(tags=["models"])

_STARTED = int(time.time())
_PAGING = ("limit", "after_id", "before_id", "lifecycle[]")
_CLIENTS_OWN = ("beta",)
"""Anthropic's client sends it with every call of ``client.beta``; it asks for nothing."""


@router.get("/v1/models", response_model=ModelList | AnthropicModelList, responses=EITHER_ERRORS)
async def list_models(
    request: Request,
    version: Version = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    after_id: str | None = None,
    before_id: str | None = None,
    lifecycle: Annotated[list[str] | None, Query(alias="lifecycle[]")] = None,
) -> ModelList | AnthropicModelList:
    """In Anthropic's shape, and in pages, for those that send anthropic-version; in OpenAI's for others."""
    service = service_of(request)
    if not speaks_anthropic(request.scope):
        _refuse_paging(request)
        return ModelList(data=[_card(service, name) for name in _names(service)])
    check_version(version)
    unknown = next((n for n in request.query_params if n not in (*_PAGING, *_CLIENTS_OWN)), None)
    if unknown is not None:
        raise unknown_field(unknown, _PAGING)
    check_lifecycles(lifecycle or ())
    listed = _names(service) if lifecycle is None or "active" in lifecycle else ()
    names, more = page(listed, limit, after=after_id, before=before_id)
    data = [_anthropic_card(service, name) for name in names]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return AnthropicModelList(data=data, has_more=more, first_id=first, last_id=last)


@router.get("/v1/models/{model:path}", response_model=ModelCard | AnthropicModel, responses=EITHER_ERRORS)
async def retrieve_model(model: str, request: Request, version: Version = None) -> ModelCard | AnthropicModel:
    """In Anthropic's shape for those that send anthropic-version; in OpenAI's for others."""
    check_version(version)
    service = service_of(request)
    service.chosen(model)
    return _anthropic_card(service, model) if speaks_anthropic(request.scope) else _card(service, model)


def _refuse_paging(request: Request) -> None:
    """OpenAI's list has no parameters; what else clients put there (``client_version``) means nothing."""
    for name in _PAGING:
        if name in request.query_params:
            raise ParameterError(
                f"{name} belongs to Anthropic's API; OpenAI's list of models has no pages",
                fix="leave it out, or send the header anthropic-version",
                parameter=name,
            )


def _names(service: Service) -> tuple[str, ...]:
    return (*service.base_names, *service.model.adapters)


def _card(service: Service, name: str) -> ModelCard:
    base = service.base_names
    return ModelCard(
        id=name,
        created=_STARTED,
        max_model_len=service.model.context_length,
        parent=None if name in base else base[0],
    )


def _anthropic_card(service: Service, name: str) -> AnthropicModel:
    length = service.model.context_length
    return AnthropicModel(
        id=name,
        display_name=name,
        created_at=datetime.fromtimestamp(_STARTED, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        max_input_tokens=length,
        max_tokens=length,
    )
