"""``engineroom api``: the OpenAI-compatible server."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engineroom.cli.api_run import serve
from engineroom.cli.command import JsonFlag, settings_of
from engineroom.cli.console import print_json_line
from engineroom.errors import EngineNotInstalledError

if TYPE_CHECKING:
    from engineroom.config import Arguments
    from engineroom.server.settings import Origin

EXAMPLES = """\
engineroom api
engineroom api model_name_or_path=Qwen/Qwen3-4B infer_backend=vllm --port 9000
engineroom api --host 0.0.0.0 --api-key sk-mine --served-model-name my-model
engineroom api --config server.yaml --print-config
"""


def api(
    context: typer.Context,
    host: Annotated[
        str | None, typer.Option("--host", metavar="ADDRESS", help="Address to listen on. [127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", metavar="N", help="Port to listen on; 0 takes a free one. [8000]")
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option("--api-key", metavar="KEY", help="A key that opens the server; again for more."),
    ] = None,
    admin_key: Annotated[
        list[str] | None,
        typer.Option(
            "--admin-key", metavar="KEY", help="A key that also changes the model: adapters, sleep, switch."
        ),
    ] = None,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(
            "--served-model-name",
            metavar="NAME",
            help="The model's name in the API; again for more. [its own]",
        ),
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config", metavar="FILE", help="A YAML or JSON file: these options, and settings of the model."
        ),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show each value and where it came from, and stop.")
    ] = False,
    allow_anonymous: Annotated[
        bool | None, typer.Option("--allow-anonymous", help="Listen for other machines without any key.")
    ] = None,
    root_path: Annotated[
        str | None,
        typer.Option("--root-path", metavar="PATH", help="The path that a proxy takes away in front."),
    ] = None,
    ssl_certfile: Annotated[
        Path | None, typer.Option("--ssl-certfile", metavar="FILE", help="TLS certificate.")
    ] = None,
    ssl_keyfile: Annotated[
        Path | None, typer.Option("--ssl-keyfile", metavar="FILE", help="Its private key.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin", metavar="ORIGIN", help="Whose pages may call the server; again for more. [none]"
        ),
    ] = None,
    max_body: Annotated[
        float | None, typer.Option("--max-body", metavar="MIB", help="Largest body of a request. [32]")
    ] = None,
    request_timeout: Annotated[
        float | None,
        typer.Option("--request-timeout", metavar="SECONDS", help="The most that a request may take."),
    ] = None,
    shutdown_timeout: Annotated[
        float | None,
        typer.Option(
            "--shutdown-timeout", metavar="SECONDS", help="What answers have to end when it stops. [30]"
        ),
    ] = None,
    lora_folder: Annotated[
        Path | None,
        typer.Option("--lora-folder", metavar="FOLDER", help="LoRA adapters that may be loaded over HTTP."),
    ] = None,
    model_folder: Annotated[
        Path | None,
        typer.Option("--model-folder", metavar="FOLDER", help="Models that may be switched to over HTTP."),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option("--log-format", metavar="text|json", help="Form of the log's lines. [text]")
    ] = None,
    log_requests: Annotated[
        bool | None, typer.Option("--log-requests", help="Put people's text into the log, too.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Serve a model over HTTP, as OpenAI's clients expect it.

    It listens on this machine alone unless --host says otherwise, which takes a key. Each option can be set by an
    environment variable, ENGINEROOM_HOST for --host, and by LLaMA-Factory's: API_HOST, API_PORT, API_KEY,
    API_MODEL_NAME, API_VERBOSE, FASTAPI_ROOT_PATH. Options win over variables, those over a --config file.

    With --json the address is told as an object with url and models, on standard output, when the model is ready; and
    --print-config is an object, too.

    Ctrl-C or SIGTERM: nothing new is taken, and answers in progress have --shutdown-timeout to end. Again: at once.
    """
    options = dict(locals())  # of which ``resolve`` takes those that are settings of the server
    _require_libraries()
    from engineroom.cli.loading import print_note
    from engineroom.config import parse_arguments
    from engineroom.server.settings import config_files, resolve, strangers

    files = config_files(config or [])
    values, own, sources = _divided(context, files.value)
    settings, origins = resolve(options, own)
    arguments = parse_arguments(values)
    for name, guess in strangers():
        print_note(f"{name} is set, but no setting of that name exists" + f"; {guess} does" * bool(guess))
    if print_config:
        _print_config([files, *origins, *_of_model(arguments, sources)], as_json=as_json)
        return 0
    return serve(settings, arguments, as_json=as_json)


def _require_libraries() -> None:
    """
    Raises:
        EngineNotInstalledError: the server's libraries are missing.
    """
    for name in ("fastapi", "uvicorn", "httptools", "prometheus_client"):
        if importlib.util.find_spec(name) is None:
            raise EngineNotInstalledError(
                f"the server needs {name}, which is not installed", fix="pip install 'engineroom[api]'"
            )


def _divided(
    context: typer.Context, files: Sequence[Path]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """The settings of the model, those of the server where files hold them, and where the model's came from."""
    from engineroom.config import read_config
    from engineroom.server.settings import ServerSettings

    values: dict[str, Any] = {}
    for file in files:
        values.update(read_config(file))
    words = settings_of(context)
    values.update(words.values())
    own = {name: values.pop(name) for name in ServerSettings.model_fields if name in values}
    typed = {name for name, _ in words.assignments}
    return values, own, {name: "command line" if name in typed else "configuration file" for name in values}


def _of_model(arguments: Arguments, sources: Mapping[str, str]) -> Iterator[Origin]:
    """The settings of the model, as origins."""
    from engineroom.config import MAX_CONCURRENT, max_concurrent
    from engineroom.server.settings import Origin

    for name in type(arguments).model_fields:
        value, source = getattr(arguments, name), sources.get(name, "default")
        if name == "max_concurrent" and value is None and (limit := max_concurrent(arguments)):
            value, source = limit, MAX_CONCURRENT
        yield Origin(name, value, source)


def _print_config(origins: Sequence[Origin], *, as_json: bool) -> None:
    """Each value and its origin, a line each; secrets are counted, not shown."""
    told = {origin.name: (_shown(origin), origin.source) for origin in origins}
    if as_json:
        print_json_line({name: {"value": value, "source": source} for name, (value, source) in told.items()})
        return
    for name, (value, source) in told.items():
        print(f"{name} = {value}  ({source})")


def _shown(origin: Origin) -> Any:
    """A value as JSON can hold it, without secrets."""
    value = origin.value
    if origin.name in ("api_key", "admin_key"):
        return f"{len(value)} key" if len(value) == 1 else f"{len(value)} keys"
    if origin.name == "hf_hub_token" and value:
        return "set"
    if origin.name == "config":
        return [str(file) for file in value]
    return str(value) if isinstance(value, Path) else value
