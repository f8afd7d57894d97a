"""The served OpenAPI document is true: whatever fits it, or just doesn't, gets an answer that fits it, and never a 500."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from engineroom.engines.scripted import Reply
from engineroom.server.app import create_app
from serving import Served, served

pytestmark = pytest.mark.slow

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
SPEC = create_app().openapi()
OPERATIONS = [
    (method, path, mode)
    for path, methods in SPEC["paths"].items()
    for method, operation in methods.items()
    for mode in GenerationMode
    if mode.is_positive or "requestBody" in operation  # there is no wrong way to ask what takes nothing
]
HI = [{"role": "user", "content": "hi"}]
VALID: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": HI}),
    ("/v1/chat/completions", {"messages": HI, "n": 2, "logprobs": True, "top_logprobs": 2, "max_tokens": 2}),
    ("/v1/chat/completions", {"messages": HI, "return_token_ids": True}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/completions", {"prompt": ["a", "b"], "logprobs": 1, "max_tokens": 2}),
    ("/tokenize", {"messages": HI, "return_token_strs": True}),
    ("/tokenize", {"prompt": "hi"}),
    ("/detokenize", {"tokens": [104, 105]}),
    ("/render", {"messages": HI}),
]


@pytest.fixture(scope="module")
def server() -> Generator[Served, None, None]:
    with served([Reply("next", chunk_size=4)], admin_key=("root",)) as running:
        yield running


@pytest.mark.parametrize(("method", "path", "mode"), OPERATIONS)
def test_every_answer_is_as_documented(server: Served, method: str, path: str, mode: GenerationMode) -> None:
    """To what fits the document, and to what does not."""
    operation = schemathesis.openapi.from_dict(SPEC)[path][method.upper()]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=30, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    def holds(case: Any) -> None:
        case.headers["Authorization"] = "Bearer root"
        response = case.call(base_url=server.url)
        # A deadline of no time at all is over: 504 is documented, and no failure of the server's.
        late = response.status_code == 504 and '"code":"timeout"' in response.text
        case.validate_response(response, checks=CHECKS[1:] if late else CHECKS)

    holds()


@pytest.mark.parametrize(("path", "body"), VALID)
def test_a_good_answer_is_as_documented(server: Served, path: str, body: dict[str, Any]) -> None:
    case = schemathesis.openapi.from_dict(SPEC)[path]["POST"].Case(
        body=body, media_type="application/json", headers={"Authorization": "Bearer root"}
    )
    response = case.call_and_validate(base_url=server.url, checks=CHECKS)
    assert response.status_code == 200
