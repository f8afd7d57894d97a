"""What somebody says, as the prompt that the engine sees; refused before the engine is touched, if it could not read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from engineroom.call import Call, RawPrompt, text_length
from engineroom.engines.base import BaseEngine
from engineroom.errors import MessageError, ParameterError, shown
from engineroom.render import Renderer, parse_messages, parse_tools
from engineroom.sampling import check_text, most_text, token_limit
from engineroom.types import Prompt, SamplingParams, Tokenizer

_DEFAULTS = SamplingParams()


class Prompts:
    """Makes the prompts of one model.

    Attributes:
        vocab_size: every token id is below it.
    """

    def __init__(self, renderer: Renderer, engine: BaseEngine, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._renderer = renderer
        self._engine = engine
        self._tokenizer = tokenizer

    def conversation(self, call: Call) -> Prompt:
        """The prompt of a chat.

        Raises:
            RequestError: the conversation is malformed, too long, or the template refuses it.
        """
        for name, value in call.rendering.items():
            if not isinstance(value, bool):
                raise ParameterError(
                    f"{name}={shown(value)} is not allowed", why="true or false", parameter=name
                )
        self._check_text((call.messages, call.system))
        messages = parse_messages(
            call.messages, system=call.system, images=call.images, videos=call.videos, audios=call.audios
        )
        return self._renderer.render(messages, parse_tools(call.tools), **call.rendering)

    def raw(self, prompt: RawPrompt) -> Prompt:
        """A prompt as it is.

        Raises:
            RequestError: it has no tokens, too many, or such as the model does not have.
        """
        if isinstance(prompt, str):
            self._check_text(prompt)
            return self._renderer.render_raw(prompt)
        if self._engine.context_length is not None:  # first: a million ids take a while to be looked at
            token_limit(_DEFAULTS, len(prompt), self._engine.context_length)
        ids = tuple(prompt)
        if not _are_integers(ids):
            raise MessageError("a prompt is a text or token ids", fix="send one of the two")
        wrong = next((i for i in ids and (min(ids), max(ids)) if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise MessageError(
                f"the model has no token id {shown(wrong)}", why=f"ids go from 0 to {self.vocab_size - 1}"
            )
        return Prompt(ids, self._tokenizer.decode(ids, skip_special_tokens=False))

    def whole(self, item: Any) -> Prompt:
        """A prompt to be judged as it stands: of a conversation, or of a text or ids without a template.

        Raises:
            RequestError: as ``conversation`` and ``raw``.
        """
        if isinstance(item, str) or _is_ids(item):
            prompt = self.raw(item)
        else:
            self._check_text(item)
            prompt = self._renderer.render_scored(parse_messages(item))
        self.check_ids(prompt)
        limits = (self._engine.context_length, self._engine.pooling.max_tokens)
        limit = min((limit for limit in limits if limit is not None), default=None)
        if limit is not None:
            token_limit(_DEFAULTS, len(prompt) - 1, limit)
        return prompt

    def check_ids(self, prompt: Prompt) -> None:
        """An id without an embedding would fail the whole device on CUDA, not only its request.

        Raises:
            MessageError: there is one, or there are no ids.
        """
        if not prompt.token_ids:
            raise MessageError("the prompt has no tokens", fix="send some text")
        highest = max(prompt.token_ids)
        if highest >= self.vocab_size:
            raise MessageError(
                f"the tokenizer made token id {highest}, and the model has ids up to {self.vocab_size - 1}",
                why="the tokenizer has tokens that the model was not resized for",
                fix="save the model again with resized embeddings, or leave that token out of the text",
            )

    def _check_text(self, text: Any) -> None:
        """Of a prompt or a conversation: is it worth the time that a tokenizer takes?"""
        context = self._engine.context_length
        check_text(text_length(text, enough=most_text(context)), context)


def _is_ids(item: Any) -> bool:
    """A text as token ids, rather than a conversation."""
    if not isinstance(item, (list, tuple)):
        return False
    items = cast("Sequence[Any]", item)
    return bool(items) and _are_integers(items)


def _are_integers(items: Sequence[Any]) -> bool:
    return {int}.issuperset(map(type, items))
