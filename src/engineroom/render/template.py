"""Chat templates: which one, and how it is run. The environment is the one that Transformers documents for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from jinja2 import TemplateError as JinjaError
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engineroom.checkpoint import passes
from engineroom.errors import TemplateError
from engineroom.families import THINKING_TAGS, ToolFormat, tool_format_of
from engineroom.types import Tokenizer

Origin: TypeAlias = Literal["model", "file", "chatml"]

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


class _GenerationTag(Extension):
    """``{% generation %}…{% endgeneration %}`` marks the assistant's text for training; here it is plain text."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own convention

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template and what can be told from its source."""

    source: str
    origin: Origin
    name: str = ""

    @property
    def supports_tools(self) -> bool:
        return "tools" in self.source

    @property
    def supports_thinking(self) -> bool:
        return "enable_thinking" in self.source

    @property
    def thinking_tags(self) -> tuple[str, str] | None:
        return next((tags for tags in THINKING_TAGS if tags[1] in self.source), None)

    @property
    def tool_format(self) -> ToolFormat | None:
        """How the model writes a call; None if the template has no place for tools."""
        return tool_format_of(self.source)

    @cached_property
    def _compiled(self) -> Any:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception  # pyright: ignore[reportArgumentType]
        environment.globals["strftime_now"] = _strftime_now  # pyright: ignore[reportArgumentType]
        return environment.from_string(self.source)

    def checked(self) -> Self:
        """This template, compiled.

        Raises:
            TemplateError: it does not parse.
        """
        try:
            _ = self._compiled
        except JinjaError as error:
            raise TemplateError(
                f"the chat template {self.name!r} does not parse", why=str(error), fix="correct that file"
            ) from error
        return self

    def render(self, **variables: Any) -> str:
        """Runs the template.

        Raises:
            TemplateError: it does not parse, refuses the conversation, or does what the sandbox forbids.
        """
        try:
            return str(self._compiled.render(**variables))
        except (
            JinjaError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise TemplateError(
                "the chat template failed on this conversation",
                why=f"{type(error).__name__}: {error}",
                fix="change the conversation as the template asks, or name another template=FILE.jinja",
            ) from error


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise JinjaError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def resolve_template(tokenizer: Tokenizer, choice: str | None) -> tuple[ChatTemplate, str | None]:
    """The template to use with this tokenizer, as :func:`choose_template` decides."""
    return choose_template(tokenizer.chat_template, choice)


def choose_template(
    own_source: str | Mapping[str, str] | None, choice: str | None
) -> tuple[ChatTemplate, str | None]:
    """The template to use, and what the user should be told about it.

    Args:
        own_source: the model's own, or several by name, or None if it has none.
        choice: None for the model's own, ``chatml``, or a Jinja file. The name of one of LLaMA-Factory's templates
            means the model's own, with a warning.
    """
    own = _own_template(own_source)
    if choice == "chatml":
        return ChatTemplate(CHATML, "chatml", "chatml"), None
    if choice not in (None, "auto", "default"):
        path = Path(str(choice)).expanduser()
        if passes(path.is_file):
            return _template_file(path), None
        if path.suffix in (".jinja", ".j2", ".txt") or len(path.parts) > 1:
            raise TemplateError(f"template file {str(choice)!r} was not found", fix="check the path")
        if own is None:
            raise TemplateError(
                f"template={choice} is not a file, and the model has no chat template of its own",
                fix="name a Jinja file, or template=chatml",
            )
        return own, (
            f"template={choice}: engineroom has no named templates; the model's own chat template is used. "
            "Name a Jinja file (template=FILE.jinja) to use another."
        )
    if own is not None:
        return own, None
    return ChatTemplate(CHATML, "chatml", "chatml"), (
        "this model has no chat template, so ChatML is used; its answers may suffer. "
        "Name the right one with template=FILE.jinja, or say template=chatml to accept this."
    )


def _template_file(path: Path) -> ChatTemplate:
    try:
        return ChatTemplate(path.read_text(encoding="utf-8"), "file", str(path)).checked()
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"template file {str(path)!r} can't be read", why=str(error)) from error


def _own_template(source: str | Mapping[str, str] | None) -> ChatTemplate | None:
    if isinstance(source, Mapping):
        source = source.get("default") or next(iter(source.values()), None)
    return ChatTemplate(source, "model", "the model's own") if source else None


def template_variables(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], tools: Any
) -> dict[str, Any]:
    """The variables that every chat template may count on."""
    return {
        "messages": messages,
        "tools": tools,
        "documents": None,
        "bos_token": tokenizer.bos_token or "",
        "eos_token": tokenizer.eos_token or "",
        "pad_token": tokenizer.pad_token or "",
    }
