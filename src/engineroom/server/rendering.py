"""Prompts for routes that tell them."""

from __future__ import annotations

from functools import partial
from typing import Any

from engineroom.call import beside, text_length
from engineroom.chat import ChatModel
from engineroom.types import Prompt


async def rendered(model: ChatModel, messages: Any, tools: Any = None, **switches: Any) -> Prompt:
    return await beside(
        partial(model.render, messages, tools=tools, **switches), text_length((messages, tools))
    )
