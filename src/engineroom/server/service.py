"""What the routes share: the model, its names, the settings, and the requests being served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request

from engineroom.errors import EngineNotReadyError, nearest, shown
from engineroom.server.errors import Refusal, RefusedError, invalid
from engineroom.server.settings import ServerSettings
from engineroom.server.switch import Switcher
from engineroom.server.tickets import Tickets, ticket_of

if TYPE_CHECKING:
    from engineroom.bridge import Bridge
    from engineroom.chat import ChatModel
    from engineroom.config import Arguments


class Service:
    """
    Attributes:
        loaded: the model; None while it loads.
        away: the model is taken away, and another will come.
        asked: the model's names that requests have given: clients count on them.
    """

    def __init__(
        self, settings: ServerSettings, model: ChatModel | None = None, bridge: Bridge | None = None
    ) -> None:
        self.settings = settings
        self.loaded = model
        self.away = False
        self.asked: set[str] = set()
        self.tickets = Tickets()
        self.switcher = Switcher(self, bridge)
        self._names: tuple[str, ...] | None = None

    @property
    def model(self) -> ChatModel:
        """
        Raises:
            EngineNotReadyError: it is still being loaded, or another one is.
        """
        if self.away:
            raise EngineNotReadyError("the model is being switched", fix="ask /ready when it is there")
        if self.loaded is None:
            raise EngineNotReadyError("the model is being loaded", fix="ask /ready when it is there")
        return self.loaded

    @property
    def base_names(self) -> tuple[str, ...]:
        """What the model is called here; the first name is the one that answers carry."""
        return self.own_names(self.model.arguments)

    def own_names(self, arguments: Arguments) -> tuple[str, ...]:
        """What a model with these arguments is called, as long as no other names are given."""
        return self._names or self.settings.served_model_name or (own_name(arguments.model_name_or_path),)

    def install(self, model: ChatModel, names: tuple[str, ...] | None) -> None:
        """From now on this model serves.

        Args:
            names: what it is called; None keeps what was configured.
        """
        self.loaded = model
        self._names = names or self._names
        self.asked &= set(self.own_names(model.arguments))

    def chosen(self, name: str | None) -> tuple[str, str | None]:
        """A request's ``model``: the name to answer with, and the LoRA adapter behind it, None for the base.

        Raises:
            RefusedError: 404, there is no such model.
        """
        names = self.base_names
        if name is None:
            return names[0], None
        if name in names:
            self.asked.add(name)
            return name, None
        if name in self.model.adapters:
            return name, name
        known = (*names, *self.model.adapters)
        guess = nearest(name, known)
        told = f"did you mean {guess}?" if guess else f"there are: {', '.join(known)}"
        raise RefusedError(
            Refusal(404, f"there is no model {shown(name)}; {told}", code="model_not_found", param="model")
        )

    def base_of(self, name: str | None) -> str:
        """A request's ``model``, where only the model itself can be meant.

        Raises:
            RefusedError: 404, there is no such model; 400, it is an adapter.
        """
        told, adapter = self.chosen(name)
        if adapter is not None:
            raise invalid(
                f"{shown(name)} is an adapter, which only chats", param="model", code="invalid_value"
            )
        return told

    def timeout(self, asked: float | None) -> float | None:
        """Seconds that a request may take: what it asks for, and no more than the server allows."""
        return min((t for t in (asked, self.settings.request_timeout) if t is not None), default=None)


def own_name(name_or_path: str) -> str:
    """A hub's or shipped model's name as it is; of a folder its last part, for paths are nobody's business."""
    path = Path(name_or_path)
    return path.resolve().name if path.is_absolute() or path.exists() else name_or_path


def service_of(request: Request) -> Service:
    """The service. The request's ticket remembers the model that serves now, which it will be answered by."""
    service: Service = request.app.state.service
    ticket_of(request).uses = service.loaded
    return service
