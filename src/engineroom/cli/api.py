"""``engineroom api``: the OpenAI-compatible server."""

from __future__ import annotations

import importlib.util
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

import typer

from engineroom.cli.command import JsonFlag, settings_of
from engineroom.cli.console import print_json_line
from engineroom.cli.ending import silence
from engineroom.errors import EngineNotInstalledError

if TYPE_CHECKING:
    from engineroom.config import Arguments
    from engineroom.server.lifecycle import RunningServer
    from engineroom.server.settings import Origin, ServerSettings

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
    flags: dict[str, Any] = {
        name: value
        for name, value in locals().items()
        if name not in ("context", "config", "print_config", "as_json")
    }
    _require_libraries()
    from engineroom.server.settings import resolve

    values, own = _divided(context, config or [])
    settings, origins = resolve(flags, own)
    arguments = _arguments(values)
    if print_config:
        _print_config([*origins, *_of_model(arguments, values)], as_json=as_json)
        return 0
    return _serve(settings, arguments, as_json=as_json)


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


def _divided(context: typer.Context, files: list[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the model, and of the server where files hold them."""
    from engineroom.config import read_config
    from engineroom.server.settings import ServerSettings

    values: dict[str, Any] = {}
    for file in files:
        values.update(read_config(file))
    values.update(settings_of(context).values())
    own = {name: values.pop(name) for name in ServerSettings.model_fields if name in values}
    return values, own


def _arguments(values: Mapping[str, Any]) -> Arguments:
    from engineroom.config import parse_arguments

    return parse_arguments(values)


def _of_model(arguments: Arguments, given: Mapping[str, Any]) -> Iterator[Origin]:
    """The settings of the model, as origins."""
    from engineroom.server.settings import Origin

    for name in type(arguments).model_fields:
        yield Origin(name, getattr(arguments, name), "given" if name in given else "default")


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
    return str(value) if isinstance(value, Path) else value


def _serve(settings: ServerSettings, arguments: Arguments, *, as_json: bool) -> int:
    """Listens first, so that a taken port is known before a model is loaded, and health answers meanwhile."""
    from engineroom.bridge import Bridge
    from engineroom.cli.loading import load_model, print_note
    from engineroom.server.app import create_app
    from engineroom.server.lifecycle import RunningServer
    from engineroom.server.logs import configure_logs
    from engineroom.server.spans import export_spans

    with _lenient_stderr():
        configure_logs(settings)
        if note := export_spans():
            print_note(note)
        bridge = Bridge("engineroom-server")
        try:
            server = RunningServer(create_app(None, settings, bridge), settings)
            serving = bridge.submit(server.serve())
            with _signals(bridge, server), load_model(arguments, bridge) as model:
                server.service.loaded = model
                try:
                    _greet(server, as_json=as_json)
                    serving.result()
                finally:
                    server.service.loaded.close()  # another one than ``model``, if it was switched
        finally:
            bridge.close()
    return 0


class _Lenient:
    """A text stream whose writes never fail."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _lenient_stderr() -> Generator[None, None, None]:
    """A full disk, or a pipe whose reader has gone, costs a server its log, and not its life."""
    stream = sys.stderr
    with redirect_stderr(cast("TextIO", _Lenient(stream))):
        yield
    try:
        stream.flush()
    except OSError:
        silence(stream)


def _greet(server: RunningServer, *, as_json: bool) -> None:
    service = server.service
    if as_json:
        print_json_line({"url": f"{server.url}/v1", "models": list(service.base_names)})
        return
    name = service.base_names[0]
    key = "$ENGINEROOM_API_KEY" if server.settings.keys else ""
    authorization = f' \\\n  -H "Authorization: Bearer {key}"' if key else ""
    imports, python_key = ("import os\n", 'os.environ["ENGINEROOM_API_KEY"]') if key else ("", '"-"')
    print(
        f"""\
{name} answers at {server.url}/v1

curl {server.url}/v1/chat/completions{authorization} -H "Content-Type: application/json" \\
  -d '{{"model": "{name}", "messages": [{{"role": "user", "content": "What is 7 plus 5?"}}]}}'

{imports}from openai import OpenAI
client = OpenAI(base_url="{server.url}/v1", api_key={python_key})
print(client.responses.create(model="{name}", input="What is 7 plus 5?").output_text)

Anthropic's clients go to {server.url}
""",
        file=sys.stderr,
        flush=True,
    )


@contextmanager
def _signals(bridge: Any, server: RunningServer) -> Generator[None, None, None]:
    """The first SIGINT or SIGTERM lets answers end, the second does not. While the model loads, either ends it all."""

    def stop(number: int, frame: object) -> None:
        if server.service.loaded is None:
            raise KeyboardInterrupt
        bridge.call_soon(server.stop)

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
