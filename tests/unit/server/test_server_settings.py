"""Where the server's settings come from, and which of them are refused."""

import io
import logging
from typing import Any

import pytest

from engineroom.errors import ArgumentError
from engineroom.server.logs import logs_to_stderr
from engineroom.server.settings import ServerSettings, resolve


def test_a_flag_wins_over_the_environment_and_that_over_a_file() -> None:
    environ = {
        "ENGINEROOM_PORT": "2",
        "API_PORT": "3",
        "API_MODEL_NAME": "theirs",
        "FASTAPI_ROOT_PATH": "/api",
    }
    settings, origins = resolve({"port": 1, "api_key": []}, {"port": 4, "max_body": 8}, environ)
    assert (settings.port, settings.served_model_name, settings.root_path, settings.max_body) == (
        1,
        ("theirs",),
        "/api",
        8,
    )
    sources = {origin.name: origin.source for origin in origins}
    assert sources["port"] == "--port"
    assert sources["served_model_name"] == "API_MODEL_NAME"
    assert sources["max_body"] == "configuration file"
    assert sources["host"] == "default"
    assert resolve({}, {"port": 4}, environ)[0].port == 2
    assert resolve({}, {"port": 4}, {"API_PORT": "3"})[0].port == 3
    assert resolve({}, {"port": 4}, {})[0].port == 4


def test_llama_factorys_environment_is_read() -> None:
    environ = {"API_HOST": "0.0.0.0", "API_PORT": "9000", "API_KEY": "sk-a,sk-b", "API_VERBOSE": "1"}
    settings, _ = resolve({}, {}, environ)
    assert (settings.host, settings.port, settings.api_key, settings.log_requests) == (
        "0.0.0.0",
        9000,
        ("sk-a", "sk-b"),
        True,
    )
    assert "sk-a" not in repr(settings)


@pytest.mark.parametrize(
    ("flags", "argument"),
    [
        ({"host": "0.0.0.0"}, "host"),
        ({"host": "::"}, "host"),
        ({"host": "192.168.1.1"}, "host"),
        ({"host": "example.com"}, "host"),
        ({"port": 70_000}, "port"),
        ({"log_format": "xml"}, "log_format"),
        ({"api_key": ["ké"]}, "api_key"),
        ({"cors_origin": ["page.example"]}, "cors_origin"),
        ({"cors_origin": ["https://page.example/"]}, "cors_origin"),
        ({"ssl_keyfile": __file__}, "ssl_keyfile"),
        ({"ssl_certfile": "none.pem"}, "ssl_certfile"),
        ({"root_path": "api/"}, "root_path"),
        ({"max_body": 0}, "max_body"),
    ],
)
def test_refusals_name_the_setting(flags: dict[str, Any], argument: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        resolve(flags, {}, {})
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    "flags",
    [
        {"host": "127.0.0.1"},
        {"host": "::1"},
        {"host": "localhost"},
        {"host": "0.0.0.0", "api_key": ["sk"]},
        {"host": "0.0.0.0", "allow_anonymous": True},
        {"cors_origin": ["*"]},
        {"cors_origin": ["http://localhost:3000", "https://page.example", "null"]},
    ],
)
def test_the_server_is_open_only_to_this_machine_or_in_words(flags: dict[str, Any]) -> None:
    resolve(flags, {}, {})


def test_a_bad_key_is_not_shown() -> None:
    with pytest.raises(ArgumentError) as caught:
        resolve({}, {"api_key": {"sk-secret": 1}}, {})
    assert "sk-secret" not in str(caught.value)


def test_after_a_run_the_log_goes_where_it_went_before(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("engineroom.server")
    before = (list(logger.handlers), logger.level, logger.propagate)
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with logs_to_stderr(ServerSettings()):
        logger.info("within")
    assert "within" in stream.getvalue()
    assert (list(logger.handlers), logger.level, logger.propagate) == before
