"""What ``engineroom api`` prints when the model is there: where it answers, and two ways to try what it can."""

from __future__ import annotations

import json
import shlex
from typing import Any, NamedTuple

_QUESTION = "What is 7 plus 5?"
_CHAT = [{"role": "user", "content": _QUESTION}]


class Try(NamedTuple):
    """
    Attributes:
        path: below ``/v1``, for curl.
        body: what curl sends, beside the model's name.
        imports: what Python needs beside ``os``.
        python: lines, with ``{url}``, ``{key}`` and ``{name}`` as Python's literals.
    """

    path: str
    body: dict[str, Any]
    imports: str
    python: str


_OPENAI = "client = OpenAI(base_url={url}, api_key={key})\n"
_GENERATE = Try(
    "/chat/completions",
    {"messages": _CHAT},
    "from openai import OpenAI",
    _OPENAI + f'print(client.responses.create(model={{name}}, input="{_QUESTION}").output_text)',
)
_EMBED = Try(
    "/embeddings",
    {"input": [_QUESTION, "How much is 7 + 5?"]},
    "from openai import OpenAI",
    _OPENAI + f'print(client.embeddings.create(model={{name}}, input="{_QUESTION}").data[0].embedding)',
)
_SCORE = Try(
    "/score",
    {"input": [[*_CHAT, {"role": "assistant", "content": "It is 12."}]]},
    "import httpx",
    f"""\
headers = {{{{"Authorization": "Bearer " + {{key}}}}}}
body = {{{{"model": {{name}}, "text_1": "{_QUESTION}", "text_2": ["It is 12.", "No idea."]}}}}
print(httpx.post({{url}} + "/score", json=body, headers=headers).json()["data"])""",
)


def greeting(url: str, name: str, *, keyed: bool, can_generate: bool, can_embed: bool) -> str:
    """
    Args:
        url: without ``/v1``.
        name: what the model is called.
        keyed: a key is needed; it is read from ``ENGINEROOM_API_KEY``, and never printed.
        can_generate, can_embed: what the model does; if neither, it scores.
    """
    chosen = _GENERATE if can_generate else _EMBED if can_embed else _SCORE
    authorization = ' \\\n  -H "Authorization: Bearer $ENGINEROOM_API_KEY"' if keyed else ""
    body = shlex.quote(json.dumps({"model": name, **chosen.body}))
    python = chosen.python.format(
        url=json.dumps(f"{url}/v1"),
        name=json.dumps(name),
        key='os.environ["ENGINEROOM_API_KEY"]' if keyed else '"-"',
    )
    told = f"Anthropic's clients go to {url}\n" if can_generate else ""
    imports = "import os\n" if keyed else ""
    return f"""\
{name} answers at {url}/v1

curl {url}/v1{chosen.path}{authorization} -H "Content-Type: application/json" \\
  -d {body}

{imports}{chosen.imports}
{python}

{told}All routes are at {url}/docs{", which takes the key, too" if keyed else ""}
"""
