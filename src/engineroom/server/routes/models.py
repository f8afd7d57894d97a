"""``/v1/models``: the model under each of its names, and the LoRA adapters that a request can choose."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request

from engineroom.server.routes.documented import ERRORS
from engineroom.server.service import Service, service_of
from engineroom.server.wire.models import ModelCard, ModelList

router = APIRouter(tags=["models"])

_STARTED = int(time.time())


@router.get("/v1/models", response_model=ModelList, responses=ERRORS)
async def list_models(request: Request) -> ModelList:
    return ModelList(data=_cards(service_of(request)))


@router.get("/v1/models/{model:path}", response_model=ModelCard, responses=ERRORS)
async def retrieve_model(model: str, request: Request) -> ModelCard:
    service = service_of(request)
    name, _ = service.chosen(model)
    return next(card for card in _cards(service) if card.id == name)


def _cards(service: Service) -> list[ModelCard]:
    length = service.model.context_length
    base = service.base_names
    return [ModelCard(id=name, created=_STARTED, max_model_len=length) for name in base] + [
        ModelCard(id=name, created=_STARTED, max_model_len=length, parent=base[0])
        for name in service.model.adapters
    ]
