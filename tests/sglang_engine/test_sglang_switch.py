"""From the Transformers engine to SGLang and back, behind a running server."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from engineroom import ChatModel
from engineroom.bridge import Bridge
from serving import CHAT, Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SUM = [{"role": "user", "content": "What is 7 plus 5?"}]
ROOT = {"x-api-key": "root"}


def said(server: Served, messages: list[dict[str, str]]) -> str:
    body = {"messages": messages, "temperature": 0, "max_tokens": 16}
    answer = httpx.post(server.url + CHAT, json=body, headers=ROOT, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def test_a_conversation_goes_on_with_sglang_and_back(settings: dict[str, Any]) -> None:
    bridge = Bridge()
    started_with = {**settings, "infer_backend": "huggingface", "sglang_maxlen": 2048}
    with ChatModel(started_with, bridge=bridge) as model:
        server = Served(model, bridge, {"admin_key": ("root",)})
        try:
            first = said(server, SUM)
            more = [
                *SUM,
                {"role": "assistant", "content": first},
                {"role": "user", "content": "And 2 plus 2?"},
            ]
            then = said(server, more)
            for backend in ("sglang", "huggingface"):
                body = {"arguments": {"infer_backend": backend}}
                switched = httpx.post(server.url + "/switch", json=body, headers=ROOT, timeout=600)
                assert switched.status_code == 200, switched.text
                assert switched.json()["engine"] == backend
                assert (said(server, SUM), said(server, more)) == (first, then)
        finally:
            server.close()
            server.service.model.close()
    bridge.close()
