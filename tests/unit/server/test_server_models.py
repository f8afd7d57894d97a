"""``/v1/models`` as OpenAI's and as Anthropic's clients read it."""

from collections.abc import Generator
from typing import Any, cast

import anthropic
import httpx
import openai
import pytest

from serving import HI, Served, asking, error_of, served

NAMES = ("mine", "other", "third")
CLAUDE = {"anthropic-version": "2023-06-01"}


@pytest.fixture(scope="module")
def server() -> Generator[Served, None, None]:
    with served(["x"], engine={"context_length": 512}, served_model_name=NAMES) as running:
        yield running


@pytest.fixture
def claude(server: Served) -> Generator[anthropic.Anthropic, None, None]:
    with anthropic.Anthropic(base_url=server.url, api_key="-", max_retries=0) as client:
        yield client


def test_anthropics_client_lists_and_retrieves(claude: anthropic.Anthropic) -> None:
    listed = claude.models.list()
    assert [model.id for model in listed.data] == [*NAMES]
    assert (listed.has_more, listed.first_id, listed.last_id) == (False, "mine", "third")
    told = claude.models.retrieve("other")
    assert told == listed.data[1]
    assert (told.type, told.display_name, told.lifecycle) == ("model", "other", "active")
    assert (told.max_input_tokens, told.max_tokens) == (512, 512)
    assert told.created_at.tzinfo is not None
    assert [model.id for model in claude.beta.models.list()] == [*NAMES]


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_anthropics_client_turns_the_pages_both_ways(claude: anthropic.Anthropic, limit: int) -> None:
    """Each page is a request; together they hold each model once."""
    onward = list(claude.models.list(limit=limit).iter_pages())
    assert [model.id for page in onward for model in page.data] == [*NAMES]
    assert len(onward) == -(-len(NAMES) // limit)
    back = list(claude.models.list(limit=limit, before_id="third").iter_pages())
    assert [model.id for page in reversed(back) for model in page.data] == ["mine", "other"]
    assert [model.id for model in claude.models.list(limit=limit, after_id="mine")] == ["other", "third"]


@pytest.mark.parametrize(
    ("lifecycle", "names"), [(["active"], NAMES), (["retired"], ()), (["deprecated", "active"], NAMES)]
)
def test_the_models_are_active(
    claude: anthropic.Anthropic, lifecycle: list[Any], names: tuple[str, ...]
) -> None:
    listed = claude.models.list(lifecycle=lifecycle)
    assert tuple(model.id for model in listed) == names
    assert listed.first_id == (names[0] if names else None)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"after_id": "claude-9"}, "after_id"),
        ({"before_id": "claude-9"}, "before_id"),
        ({"before_id": "mine", "after_id": "mine"}, "before_id"),
        ({"lifecycle[]": "young"}, "lifecycle[]"),
        ({"limt": "1"}, "did you mean limit"),
        ({"page": "2"}, "page"),
    ],
)
def test_a_page_that_is_none_is_refused_by_name(server: Served, query: dict[str, str], named: str) -> None:
    answer = httpx.get(server.url + "/v1/models", params=query, headers=CLAUDE)
    assert answer.status_code == 400
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert named in body["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/mine"])
def test_an_old_version_of_the_api_is_not_spoken(server: Served, path: str) -> None:
    answer = httpx.get(server.url + path, headers={"anthropic-version": "2023-01-01"})
    assert answer.status_code == 400
    assert "anthropic-version" in answer.json()["error"]["message"]


def test_an_unknown_model_is_not_found(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        claude.models.retrieve("claude-9")
    body = cast("dict[str, Any]", unknown.value.body)
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
    assert body["request_id"] == unknown.value.request_id


def test_openais_client_reads_its_own_shape(server: Served) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
        assert [(model.object, model.id) for model in client.models.list()] == [("model", n) for n in NAMES]
        assert client.models.retrieve("other").id == "other"
        with pytest.raises(openai.NotFoundError) as unknown:
            client.models.retrieve("gpt-9")
    assert unknown.value.code == "model_not_found"


def test_pages_are_anthropics() -> None:
    """OpenAI's list has none; and what clients add of their own changes nothing."""
    with asking(["x"]) as ask:
        refused = ask("/v1/models?limit=1")
        taken = ask("/v1/models?client_version=0.9")
    assert (refused.status_code, error_of(refused)["param"]) == (400, "limit")
    assert taken.json()["object"] == "list"


@pytest.mark.parametrize("root_path", ["", "/behind/a/proxy"])
def test_a_slash_at_the_end_of_a_path_changes_nothing(root_path: str) -> None:
    with served(["x"], root_path=root_path) as server:
        for path in (
            "/v1/models",
            "/v1/models/demo",
            "/health",
            "/version",
            "/nothing",
            "/v1/models/nothing",
        ):
            with_slash, without = server.get(f"{root_path}{path}/"), server.get(root_path + path)
            assert with_slash.status_code == without.status_code
            assert with_slash.json() == without.json()
        answer = server.post(f"{root_path}/v1/chat/completions/", json={"messages": HI})
        assert answer.json()["choices"][0]["message"]["content"] == "x"
        assert server.get(f"{root_path}/v1/models//").status_code == 404
        assert "location" not in server.get(f"{root_path}//v1/models/").headers
