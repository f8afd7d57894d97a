"""The exact prompt that a model will see, from its tokenizer alone: no engine is started, no weights are read."""

from __future__ import annotations

from typing import Any

from engineroom.call import Conversation
from engineroom.checkpoint import Checkpoint
from engineroom.config import Arguments, ArgumentSource, parse_arguments
from engineroom.engines import registry
from engineroom.errors import ParameterError
from engineroom.render import (
    ChatTemplate,
    Renderer,
    load_tokenizer,
    parse_messages,
    parse_tools,
    resolve_template,
)
from engineroom.types import Prompt, Tokenizer


class PromptPreview:
    """Makes the prompts that :class:`engineroom.ChatModel` would make of the same arguments, in a fraction of its time.

    Raises:
        ArgumentError: an argument is unknown, mistyped or out of range.
        ModelError: the model can't be found, or its tokenizer can't be loaded.
        TemplateError: the template named does not exist.

    Attributes:
        template: the chat template in use; ``origin`` says where it came from.
        warning: what the user should know about it, or None.
        context_length: tokens of prompt and answer together, if the checkpoint says.
        is_scored: the model is a reward model: it sees whole conversations, without a prompt for an answer.
    """

    def __init__(self, args: ArgumentSource = None) -> None:
        self.arguments: Arguments = parse_arguments(args)
        self.tokenizer, checkpoint = _tokenizer(self.arguments)
        self.template: ChatTemplate
        self.template, self.warning = resolve_template(self.tokenizer, self.arguments.template)
        self.context_length = self.arguments.model_maxlen or (checkpoint and checkpoint.context_length)
        self.is_scored = checkpoint is not None and checkpoint.kind in (
            "sequence_classification",
            "value_head",
        )
        self._renderer = Renderer(
            self.tokenizer,
            self.template,
            engine_name=self.arguments.infer_backend,
            default_system=self.arguments.default_system,
            enable_thinking=self.arguments.enable_thinking,
        )

    def render(
        self,
        messages: Conversation,
        system: str | None = None,
        tools: Any = None,
        *,
        enable_thinking: bool | None = None,
        continue_final: bool = False,
    ) -> Prompt:
        """The prompt for a conversation.

        Raises:
            RequestError: the conversation is malformed, or the template refuses it.
        """
        conversation = parse_messages(messages, system=system)
        if self.is_scored:
            for name, value in (
                ("tools", tools),
                ("enable_thinking", enable_thinking),
                ("continue_final", continue_final),
            ):
                if value:
                    raise ParameterError(
                        f"{name} means nothing to a reward model",
                        why=f"{self.arguments.model_name_or_path} scores conversations; it does not answer",
                        fix=f"leave {name} out",
                        parameter=name,
                    )
            return self._renderer.render_scored(conversation)
        return self._renderer.render(
            conversation, parse_tools(tools), enable_thinking=enable_thinking, continue_final=continue_final
        )


def _tokenizer(arguments: Arguments) -> tuple[Tokenizer, Checkpoint | None]:
    """The checkpoint's tokenizer. An engine that needs no library, such as the scripted one, brings its own."""
    spec = registry.find(arguments.infer_backend)
    if not spec.packages:
        engine = spec.load().from_arguments(arguments)
        if engine.tokenizer is not None:
            return engine.tokenizer, engine.checkpoint
    checkpoint = Checkpoint.open(arguments)
    tokenizer = load_tokenizer(
        checkpoint.path, trust_remote_code=arguments.trust_remote_code, use_fast=arguments.use_fast_tokenizer
    )
    return tokenizer, checkpoint
