"""What ``engineroom api`` prints to try; the tests of the official clients run it."""

import ast
import shlex

import pytest

from engineroom.cli.greeting import greeting

URL = "http://127.0.0.1:8000"


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize(
    ("can", "path"),
    [
        ({"can_generate": True, "can_embed": False}, "/v1/chat/completions"),
        ({"can_generate": False, "can_embed": True}, "/v1/embeddings"),
        ({"can_generate": False, "can_embed": False}, "/v1/score"),
    ],
)
def test_what_it_shows_to_try_is_what_the_model_can(can: dict[str, bool], path: str, keyed: bool) -> None:
    told = greeting(URL, 'it\'s "mine"', keyed=keyed, **can)
    curl, python = told.split("\n\n")[1:3]
    words = shlex.split(curl)
    assert words[:2] == ["curl", URL + path]
    assert ast.literal_eval(words[-1])["model"] == 'it\'s "mine"'
    assert ("Authorization: Bearer $ENGINEROOM_API_KEY" in words) == keyed
    compile(python, "snippet", "exec")
    assert ("os.environ" in python) == keyed
    assert ("/docs, which takes the key" in told) == keyed
