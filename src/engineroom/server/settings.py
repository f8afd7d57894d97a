"""What the server can be told, and from where: the command's flags, the environment, a configuration file.

A flag wins over ``ENGINEROOM_NAME``, that over LLaMA-Factory's variable, that over the file, that over the default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from engineroom.errors import ArgumentError, nearest, shown

LLAMA_FACTORY: Mapping[str, str] = {
    "host": "API_HOST",
    "port": "API_PORT",
    "api_key": "API_KEY",
    "served_model_name": "API_MODEL_NAME",
    "log_requests": "API_VERBOSE",
    "root_path": "FASTAPI_ROOT_PATH",
}
"""LLaMA-Factory's environment variables, and what they set here."""


def _split(value: Any) -> Any:
    """One text with commas, as an environment variable has it, or a list."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(cast("Sequence[Any]", value)) if isinstance(value, list) else value


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+")

Names: TypeAlias = Annotated[
    tuple[Annotated[str, StringConstraints(min_length=1)], ...], BeforeValidator(_split)
]
"""None of them is empty: an empty key would be opened by a header with no key in it."""


class ServerSettings(BaseModel):
    """The settings of the server itself. Those of the model are ``engineroom.arguments.Arguments``."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 is every one.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_key: Names = Field((), repr=False, description="Keys that open the server; several are allowed.")
    admin_key: Names = Field(
        (),
        repr=False,
        description="Keys that also load adapters, switch the model, and put it to sleep and wake it.",
    )
    allow_anonymous: bool = Field(
        False, description="Listen on other addresses than this machine's own without any key."
    )
    served_model_name: Names = Field(
        (), description="Names of the model in the API; the first is told. Default: its own."
    )
    root_path: str = Field("", description="Path in front of all routes, where a proxy takes it away.")
    ssl_certfile: Path | None = Field(None, description="TLS certificate, with its chain.")
    ssl_keyfile: Path | None = Field(None, description="The certificate's private key.")
    cors_origin: Names = Field((), description="Origins whose pages may call the server; none by default.")
    max_body: float = Field(32.0, gt=0, le=4096, description="Largest body of a request, MiB.")
    max_header: int = Field(32_768, ge=1024, description="Largest header of a request, bytes.")
    max_depth: int = Field(100, ge=8, le=500, description="Deepest nesting of a request's JSON.")
    request_timeout: float | None = Field(
        None, gt=0, description="Seconds that any request may take, waiting included."
    )
    read_timeout: float = Field(60.0, gt=0, description="Seconds that a client may take to send its request.")
    write_timeout: float = Field(
        60.0, gt=0, description="Seconds without progress after which a slow reader is left."
    )
    stall_timeout: float = Field(
        300.0,
        gt=0,
        description="Seconds without a token, though answers are due, after which /ready says no.",
    )
    shutdown_timeout: float = Field(
        30.0,
        ge=0,
        description="Seconds that answers have to end when the server stops; then they are aborted.",
    )
    lora_folder: Path | None = Field(
        None, description="Folder whose LoRA adapters may be loaded over HTTP; without it none can be."
    )
    model_folder: Path | None = Field(
        None,
        description="Folder whose models may be switched to over HTTP; without it only named ones can be.",
    )
    log_format: Literal["text", "json"] = Field("text", description="Form of the log's lines.")
    log_requests: bool = Field(False, description="Put people's text into the log, too.")

    @property
    def keys(self) -> tuple[str, ...]:
        """All that open the server."""
        return (*self.api_key, *self.admin_key)

    @property
    def scheme(self) -> str:
        return "https" if self.ssl_certfile else "http"

    @property
    def is_exposed(self) -> bool:
        """Can other machines reach it?"""
        if self.host == "localhost":
            return False
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return True


@dataclass(frozen=True, slots=True)
class Origin:
    """A setting's value and where it came from, for ``--print-config``."""

    name: str
    value: Any
    source: str


def resolve(
    flags: Mapping[str, Any], file: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> tuple[ServerSettings, list[Origin]]:
    """The settings in force, and where each came from.

    Args:
        flags: by name; None, and an empty list, is "not given".
        file: what the configuration files say.

    Raises:
        ArgumentError: a value is not allowed; names the source. Or the server would be open to everybody.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in ServerSettings.model_fields:
        for source, value in _candidates(name, flags, file, environ):
            values[name], sources[name] = value, source
            break
    try:
        settings = ServerSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        told = "it" if name in ("api_key", "admin_key") else shown(first.get("input"))
        raise ArgumentError(
            f"{name}: {told} is not allowed ({sources[name]})", why=first["msg"], argument=name
        ) from error
    _check(settings)
    return settings, [
        Origin(name, getattr(settings, name), sources.get(name, "default"))
        for name in ServerSettings.model_fields
    ]


def config_files(flags: Sequence[Path], environ: Mapping[str, str] = os.environ) -> Origin:
    """The configuration files: ``--config``'s, or those that ``ENGINEROOM_CONFIG`` names, with commas between them."""
    if flags:
        return Origin("config", tuple(flags), "--config")
    named = tuple(map(Path, _split(environ.get("ENGINEROOM_CONFIG", ""))))
    return Origin("config", named, "ENGINEROOM_CONFIG" if named else "default")


_OTHERS = ("CONFIG", "HOME", "HISTORY", "DEBUG")
"""Variables that are not the server's, or not one of its settings."""


def strangers(environ: Mapping[str, str] = os.environ) -> list[tuple[str, str | None]]:
    """Variables that look like ours and are not, and what may have been meant."""
    known = {f"ENGINEROOM_{name.upper()}" for name in (*ServerSettings.model_fields, *_OTHERS)}
    found = (name for name in environ if name.startswith("ENGINEROOM_") and not name.endswith("_LOG"))
    return [(name, nearest(name, known)) for name in found if name not in known]


def _candidates(
    name: str, flags: Mapping[str, Any], file: Mapping[str, Any], environ: Mapping[str, str]
) -> list[tuple[str, Any]]:
    """Where a value is given, the strongest place first."""
    found: list[tuple[str, Any]] = []
    flag = flags.get(name)
    if flag is not None and flag != []:
        found.append((f"--{name.replace('_', '-')}", flag))
    for variable in (f"ENGINEROOM_{name.upper()}", LLAMA_FACTORY.get(name)):
        if variable and environ.get(variable):
            found.append((variable, environ[variable]))
    if file.get(name) is not None:
        found.append(("configuration file", file[name]))
    return found


def _check(settings: ServerSettings) -> None:
    for key in (*settings.api_key, *settings.admin_key):
        if not (key.isascii() and key.isprintable() and key == key.strip()):
            raise ArgumentError(
                "an API key holds characters that no HTTP header can",
                why="printable ASCII, without spaces around it",
                argument="api_key",
            )
    if settings.is_exposed and not settings.keys and not settings.allow_anonymous:
        raise ArgumentError(
            f"host={settings.host} without an API key would open the model to every machine that reaches this one",
            fix="add --api-key KEY, or say --allow-anonymous if that is what you want",
            argument="host",
        )
    for origin in settings.cors_origin:
        if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
            raise ArgumentError(
                f"cors_origin={shown(origin)} is no origin",
                why="an origin is scheme, host and port as a browser sends them, without a path; * is every page's",
                fix="for example https://page.example or http://localhost:3000",
                argument="cors_origin",
            )
    for name in ("ssl_certfile", "ssl_keyfile"):
        file: Path | None = getattr(settings, name)
        if file is not None and not file.is_file():
            raise ArgumentError(
                f"there is no file {shown(str(file))} with the TLS certificate or key", argument=name
            )
    if settings.ssl_keyfile and not settings.ssl_certfile:
        raise ArgumentError("ssl_keyfile without ssl_certfile", fix="give both", argument="ssl_keyfile")
    if settings.root_path and not (
        settings.root_path.startswith("/") and not settings.root_path.endswith("/")
    ):
        raise ArgumentError(
            f"root_path={settings.root_path!r} is not allowed",
            why="it begins with a slash and does not end with one",
            argument="root_path",
        )
