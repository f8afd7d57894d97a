"""LoRA adapters come and go while the server runs. Needs an admin key."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request

from engineroom.errors import ModelError, ModelNotFoundError, ParameterError
from engineroom.server.auth import require_admin
from engineroom.server.bodies import JsonRoute
from engineroom.server.remote_arguments import inside
from engineroom.server.routes.documented import ERRORS
from engineroom.server.service import Service, service_of
from engineroom.server.tickets import log
from engineroom.server.wire.adapters import AdapterList, LoadAdapterRequest, UnloadAdapterRequest

router = APIRouter(tags=["admin"], route_class=JsonRoute)


@router.post("/v1/load_lora_adapter", response_model=AdapterList, responses=ERRORS)
async def load_lora_adapter(body: LoadAdapterRequest, request: Request) -> AdapterList:
    """Loads an adapter; answers go on meanwhile. From then on ``model`` can name it."""
    require_admin(request)
    service = service_of(request)
    if body.lora_name in service.base_names:
        raise ParameterError(f"{body.lora_name} is the model's own name", parameter="lora_name")
    folder = _folder(service, body.lora_path)
    try:
        await service.model.aload_adapter(body.lora_name, folder)
    except ModelNotFoundError as error:
        log.warning("an adapter was not found", exc_info=error)
        raise _no_adapter() from None
    return _adapters(service)


@router.post("/v1/unload_lora_adapter", response_model=AdapterList, responses=ERRORS)
async def unload_lora_adapter(body: UnloadAdapterRequest, request: Request) -> AdapterList:
    """Unloads an adapter when the answers that use it have ended."""
    require_admin(request)
    service = service_of(request)
    await service.model.aunload_adapter(body.lora_name)
    return _adapters(service)


def _folder(service: Service, path: str) -> Path:
    """The adapter's real folder. Outside of the allowed one, whether something is there is not told."""
    allowed = service.settings.lora_folder
    if allowed is None:
        raise ParameterError(
            "this server loads no adapters", fix="start it with --lora-folder FOLDER", parameter="lora_path"
        )
    folder = inside(allowed, path)
    if folder is None or not (folder / "adapter_config.json").is_file():
        raise _no_adapter()
    return folder


def _no_adapter() -> ModelError:
    return ModelError("there is no adapter at this lora_path below the server's lora_folder")


def _adapters(service: Service) -> AdapterList:
    return AdapterList(adapters=sorted(service.model.adapters))
