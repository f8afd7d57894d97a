"""A small client of OpenAI-compatible servers: chat completions, whole and streamed, and what lies beside them."""

from __future__ import annotations

from engineroom.client.answer import Choice, Completion, NamedToken, Piece, Usage
from engineroom.client.conversation import messages_to_wire, tools_to_wire
from engineroom.client.server import API_KEY_VARIABLE, Server, ServerAddress

__all__ = [
    "API_KEY_VARIABLE", "Choice", "Completion", "NamedToken", "Piece", "Server", "ServerAddress", "Usage",
    "messages_to_wire", "tools_to_wire",
]  # fmt: skip
