"""Which chat template a model would be prompted with, and what it can do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from engineroom.checkpoint import Checkpoint
from engineroom.doctor.finding import Finding, from_error, problem, warning
from engineroom.doctor.tokenizer import tokenizer_config
from engineroom.errors import TemplateError
from engineroom.families import ToolFormat
from engineroom.render import ChatTemplate, choose_template


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What is known of the template without a tokenizer.

    Attributes:
        origin: ``model``, ``file`` or ``chatml``.
        has_thinking_switch: ``enable_thinking`` turns thinking on and off.
        thinks: the template knows a thinking block.
        tool_format: how calls are written; None if the template has no place for tools.
    """

    origin: str
    name: str
    has_thinking_switch: bool
    thinks: bool
    tool_format: ToolFormat | None


def inspect_template(
    checkpoint: Checkpoint, choice: str | None
) -> tuple[TemplateFacts | None, list[Finding]]:
    """Finds the template that ``template=choice`` means for this model, and tries it on a greeting."""
    findings: list[Finding] = []
    try:
        template, note = choose_template(_own_source(checkpoint, findings), choice)
    except TemplateError as error:
        return None, [*findings, from_error(error)]
    try:
        _try(template, tokenizer_config(checkpoint))
    except TemplateError as error:
        what = f"the chat template does not work: {template.name}"
        return None, [
            *findings,
            problem(what, error.why, "correct it, or name another with template=FILE.jinja"),
        ]
    if note:
        head, _, tail = note.partition("; ")
        findings.append(warning(head, *(part.strip() for part in tail.partition(". ")[::2])))
    facts = TemplateFacts(
        origin=template.origin,
        name=template.name,
        has_thinking_switch=template.supports_thinking,
        thinks=template.thinking_tags is not None,
        tool_format=template.tool_format,
    )
    return facts, findings


def _own_source(checkpoint: Checkpoint, findings: list[Finding]) -> str | Mapping[str, str] | None:
    """Where Transformers looks, in its order: a Jinja file, a JSON file, the tokenizer's config."""
    jinja = checkpoint.path / "chat_template.jinja"
    try:
        if jinja.is_file():
            return jinja.read_text(encoding="utf-8")
        other = checkpoint.path / "chat_template.json"
        if other.is_file():
            return _source(json.loads(other.read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        findings.append(
            problem(
                "the chat template's file can't be read",
                str(error),
                "save it again, or add template=FILE.jinja",
            )
        )
    return _source(tokenizer_config(checkpoint).get("chat_template"))


def _source(value: Any) -> str | Mapping[str, str] | None:
    """One template, or several by name: a list of ``{"name": …, "template": …}``."""
    if isinstance(value, str):
        return value or None
    if not isinstance(value, list):
        return None
    named = [cast("dict[str, Any]", v) for v in cast("list[Any]", value) if isinstance(v, dict)]
    return {str(v["name"]): str(v["template"]) for v in named if "name" in v and "template" in v} or None


def _try(template: ChatTemplate, config: Mapping[str, Any]) -> None:
    """Renders a greeting, so that a template that does not parse is found now.

    Raises:
        TemplateError: it fails.
    """
    tokens = {name: _token(config.get(name)) for name in ("bos_token", "eos_token", "pad_token")}
    greeting = [{"role": "user", "content": "Hello"}]
    template.render(messages=greeting, tools=None, documents=None, add_generation_prompt=True, **tokens)


def _token(value: Any) -> str:
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value).get("content")
    return value if isinstance(value, str) else ""
