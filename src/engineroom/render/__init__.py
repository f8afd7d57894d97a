"""From a conversation to a prompt: messages, chat templates, special-token safety."""

from engineroom.render.conversation import parse_messages, parse_tools
from engineroom.render.renderer import Renderer
from engineroom.render.template import ChatTemplate, choose_template, resolve_template
from engineroom.render.tokenizer import TransformersTokenizer, load_tokenizer

__all__ = [
    "ChatTemplate",
    "Renderer",
    "TransformersTokenizer",
    "choose_template",
    "load_tokenizer",
    "parse_messages",
    "parse_tools",
    "resolve_template",
]
