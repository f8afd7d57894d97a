"""What a side says that is a server: as much of it as OpenAI's protocol, or vLLM's additions to it, let through.

Greedy answers are asked for with temperature 0 and with log-probabilities; draws with what the server itself has as
defaults. Ids of tokens come from vLLM's fields; a server without them is compared by the tokens' text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engineroom.client import Choice, Completion, Server, messages_to_wire, tools_to_wire
from engineroom.comparison.conversations import DEFAULT_CONVERSATIONS, ComparedConversation
from engineroom.comparison.observation import Depth, Observation, Seen
from engineroom.comparison.tokens import Step, Token
from engineroom.errors import RequestError, ServerError
from engineroom.render import parse_messages, parse_tools
from engineroom.types import Prompt

_IDS: Mapping[str, Any] = {"return_token_ids": True, "return_tokens_as_token_ids": True}
"""vLLM's fields: the ids of prompt and answer, and ids for the tokens that have log-probabilities."""

_PLAIN: Mapping[str, Any] = {
    "temperature": 0.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "n": 1
}  # fmt: skip
_PLAIN_EXTRAS: Mapping[str, Any] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""What a server may have from the model's generation_config.json, and OpenAI has no field for."""

_AT_ONCE = 32


async def observe_server(
    server: Server,
    conversations: Sequence[ComparedConversation] = DEFAULT_CONVERSATIONS,
    depth: Depth | None = None,
    *,
    ids: bool = True,
    temperature: float | None = None,
) -> Observation:
    """Asks a server.

    Args:
        ids: ask for token ids; without, tokens are known by their text, as to a server that has no ids to give.
        temperature: to draw with; None leaves it to the server.

    Raises:
        ServerError: it can't be reached, or fails.
    """
    witness = _Witness(server, depth or Depth(), ids, temperature)
    await witness.try_out()
    seen = [await witness.see(conversation) for conversation in conversations]
    return Observation(
        name=server.model,
        engine=server.address.url,
        weights=None,
        settings={},
        template=None,
        params=None,
        seen=tuple(seen),
        spelling={} if witness.ids else None,
        notes=tuple(witness.notes),
    )


class _Witness:
    """Asks the questions, and keeps in mind what the server lets through.

    Attributes:
        ids: the server gives token ids.
        notes: what it refuses, in its own words.
    """

    def __init__(self, server: Server, depth: Depth, ids: bool, temperature: float | None) -> None:
        self.ids = ids
        self.notes: list[str] = []
        self._server = server
        self._depth = depth
        self._logprobs = True
        self._drawn_with = {} if temperature is None else {"temperature": temperature}

    async def try_out(self) -> None:
        """A question that any server answers, to tell later a refusal of the conversation from one of the fields.

        Raises:
            ServerError: it refuses this one too.
        """
        hello = [{"role": "user", "content": "Hi"}]
        try:
            answer = await self._greedy(hello, [], tokens=1)
        except ServerError as error:
            if not error.refuses_request:
                raise
            self._logprobs = False
            answer = await self._greedy(hello, [], tokens=1)
            self.notes.append(f"it gives no log-probabilities: {error.what}")
        choice = _only_choice(answer)
        named = [token for chosen in choice.tokens for token in (chosen, *chosen.top_logprobs)]
        self.ids = (
            self.ids and choice.token_ids is not None and all(token.token_id is not None for token in named)
        )

    async def see(self, conversation: ComparedConversation) -> Seen:
        try:
            messages = messages_to_wire(parse_messages(conversation.messages))
            tools = tools_to_wire(parse_tools(conversation.tools))
            answer = await self._greedy(messages, tools, tokens=self._depth.tokens)
            draws = await self._draw(messages, tools)
        except RequestError as error:
            return Seen(conversation, refusal=error.what, served=True)
        except ServerError as error:
            if not error.refuses_request:
                raise
            return Seen(conversation, refusal=error.what, served=True)
        choice = _only_choice(answer)
        return Seen(
            conversation,
            prompt=await self._prompt(answer, messages, tools),
            prompt_length=answer.usage and answer.usage.prompt_tokens,
            greedy=self._tokens(choice),
            greedy_text=None if choice.message.thought else choice.text,
            logprobs=self._steps(choice),
            draws=draws,
            served=True,
        )

    async def _greedy(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], tokens: int
    ) -> Completion:
        fields: dict[str, Any] = {**_PLAIN, "max_tokens": tokens}
        if self._logprobs:
            fields |= {"logprobs": True, "top_logprobs": self._depth.top}
        return await self._ask(messages, tools, fields, _PLAIN_EXTRAS)

    async def _ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        fields: Mapping[str, Any],
        extras: Mapping[str, Any],
    ) -> Completion:
        with_tools = {"tools": list(tools)} if tools else {}
        with_ids: Mapping[str, Any] = _IDS if self.ids else {}
        return await self._server.complete(messages, {**extras, **with_ids}, **fields, **with_tools)

    async def _prompt(
        self,
        answer: Completion,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
    ) -> Prompt | None:
        """The prompt's ids: those that came with the answer, or those that the server makes of the messages apart."""
        token_ids = answer.prompt_token_ids or await self._server.tokenize(messages, tools)
        counted = answer.usage and answer.usage.prompt_tokens
        if token_ids is None or counted not in (None, len(token_ids)):
            return None  # what it tells apart is not what it answered
        return Prompt(token_ids, await self._server.detokenize(token_ids))

    async def _draw(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[tuple[Token, ...], ...]:
        """The beginnings of answers with the server's own parameters.

        No seed is named: of servers that give all ``n`` answers one seed, the answers would all be one.
        """
        if not (self.ids or self._logprobs):
            return ()
        draws: list[tuple[Token, ...]] = []
        at_once = _AT_ONCE
        while len(draws) < self._depth.samples:
            fields: dict[str, Any] = {
                "max_tokens": self._depth.sample_tokens,
                "n": min(at_once, self._depth.samples - len(draws)),
                **({} if self.ids else {"logprobs": True}),
                **self._drawn_with,
            }
            choices = (await self._ask(messages, tools, fields, {})).choices
            told = [tokens for choice in choices if (tokens := self._tokens(choice)) is not None]
            if len(told) < len(choices) or not choices:
                return ()
            draws += told
            at_once = len(choices)  # some give one answer, whatever n says
        return tuple(draws)

    def _tokens(self, choice: Choice) -> tuple[Token, ...] | None:
        if self.ids:
            return choice.token_ids
        if not choice.tokens:
            return () if not choice.text and not choice.message.thought else None
        spelled = tuple(token.spelling for token in choice.tokens)
        return spelled[:-1] if _has_end(choice) else spelled

    def _steps(self, choice: Choice) -> tuple[Step, ...]:
        def known(token: Any) -> Token:
            return token.token_id if self.ids else token.spelling

        return tuple(
            Step.told(
                known(chosen),
                chosen.logprob,
                [(known(token), token.logprob) for token in chosen.top_logprobs],
            )
            for chosen in choice.tokens
        )


def _has_end(choice: Choice) -> bool:
    """Whether the last token is the one that ended the answer: some servers list it, and it is no part of the text."""
    if choice.finish_reason != "stop":
        return False
    *before, last = (token.token for token in choice.tokens)
    text = choice.message.thought + choice.text
    return not last or ("".join(before) == text and "\ufffd" not in text) or not text.endswith(last)


def _only_choice(answer: Completion) -> Choice:
    """
    Raises:
        ServerError: there is no answer in the answer.
    """
    if not answer.choices:
        raise ServerError("the server's answer has no choices")
    return answer.choices[0]
