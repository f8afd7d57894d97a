"""From a conversation to a prompt: messages, chat templates, special-token safety."""

from engineroom.render.conversation import parse_messages, parse_tools
from engineroom.render.renderer import Renderer
from engineroom.render.template import ChatTemplate, resolve_template
from engineroom.render.tokenizer import TransformersTokenizer, load_tokenizer

__all__ = [
    "ChatTemplate",
    "Renderer",
    "TransformersTokenizer",
    "load_tokenizer",
    "parse_messages",
    "parse_tools",
    "resolve_template",
]
