"""What one side says: its prompts, its log-probabilities, its greedy tokens, its draws, and what it is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engineroom.chat import ChatModel
from engineroom.comparison.conversations import DEFAULT_CONVERSATIONS, ComparedConversation
from engineroom.comparison.tokens import Step, Token, spell
from engineroom.comparison.weights import Weights, weights_of
from engineroom.errors import RequestError
from engineroom.types import Prompt, Response, SamplingParams

_PLAIN: Mapping[str, Any] = {
    "temperature": 0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "logit_bias": {}, "n": 1, "stop": (), "stop_token_ids": (), "num_beams": 1,
}  # fmt: skip
"""Parameters without any effect: what comes out is the model's own."""

_AT_ONCE = 32
"""Answers asked for at once; engines run at least as many side by side, or let them wait."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How closely to look.

    Attributes:
        tokens: length of the greedy answers.
        top: log-probabilities of so many of the likeliest tokens are compared, at each place.
        samples: answers drawn for each conversation; 0 draws none.
        sample_tokens: length of the drawn answers.
    """

    tokens: int = 32
    top: int = 10
    samples: int = 32
    sample_tokens: int = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """One conversation, as one side answers it.

    Attributes:
        prompt: None if it was refused, or if a server does not show it. ``text`` is empty if only the ids are known.
        prompt_length: tokens of the prompt, for a server that tells no more.
        refusal: why it was refused, if so.
        greedy: None if the answer's tokens were not seen, only its text.
        greedy_text: None if a server shows no more than a part of it.
        logprobs: for each greedy token; empty if the engine has none.
        draws: the first tokens of the answers that were drawn.
        served: it is a server that answers.
    """

    conversation: ComparedConversation
    prompt: Prompt | None = None
    prompt_length: int | None = None
    refusal: str = ""
    greedy: tuple[Token, ...] | None = ()
    greedy_text: str | None = ""
    logprobs: tuple[Step, ...] = ()
    draws: tuple[tuple[Token, ...], ...] = ()
    served: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """One side. What is None was not seen: a server does not show it.

    Attributes:
        name: how it was asked for.
        settings: arguments that change what the model computes with, not what it is asked.
        template: the source of the chat template.
        params: the sampling parameters of a request that names none.
        spelling: the bytes of each token id in the answers, as far as they are a text of their own; None if the
            tokens are known by their bytes to begin with.
        ends: ids of the tokens that end an answer; they are no part of its text.
        notes: what could not be seen and why, in sentences.
    """

    name: str
    engine: str
    weights: Weights | None
    settings: Mapping[str, Any]
    template: str | None
    params: SamplingParams | None
    seen: tuple[Seen, ...]
    spelling: Mapping[int, bytes] | None = None
    ends: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def is_served(self) -> bool:
        """A server's: what it computes with is not known."""
        return self.weights is None

    @property
    def is_greedy(self) -> bool:
        """A request that names no temperature is answered with the likeliest tokens."""
        return self.params is not None and self.params.temperature == 0

    def spelled(self) -> Observation:
        """The same, its tokens known by their bytes."""
        if self.spelling is None:
            return self
        return replace(self, seen=tuple(self._spelled(seen) for seen in self.seen), spelling=None)

    def _spelled(self, seen: Seen) -> Seen:
        return replace(
            seen,
            greedy=None if seen.greedy is None else self._text(seen.greedy),
            logprobs=tuple(step.spelled(self.spelling or {}) for step in seen.logprobs),
            draws=tuple(map(self._text, seen.draws)),
        )

    def _text(self, tokens: tuple[Token, ...]) -> tuple[Token, ...]:
        if tokens and tokens[-1] in self.ends:
            tokens = tokens[:-1]
        return tuple(spell(token, self.spelling or {}) for token in tokens)


NUMERIC_SETTINGS = (
    "infer_backend", "infer_dtype", "device", "device_map", "flash_attn", "quantization_bit", "quantization_type",
    "double_quantization", "rope_scaling", "use_kv_cache", "vllm_config", "sglang_config", "kt_method",
    "kt_weight_path",
)  # fmt: skip
"""Arguments by which the same weights may give other numbers."""


def observe(
    model: ChatModel,
    conversations: Sequence[ComparedConversation] = DEFAULT_CONVERSATIONS,
    depth: Depth | None = None,
    *,
    side: int = 0,
) -> Observation:
    """Asks the model.

    Args:
        side: 0 or 1; the two sides draw with seeds of their own, so that their draws are independent.

    Raises:
        RequestError: it is a reward model.
        EngineError: the engine failed.
    """
    if not model.engine.can_generate:
        raise RequestError(
            f"{model.arguments.model_name_or_path} is a reward model: it does not answer",
            fix="`engineroom score` gives its scores, to be compared side by side",
        )
    depth = depth or Depth()
    arguments = model.arguments
    seen = tuple(_see(model, conversation, depth, side) for conversation in conversations)
    return Observation(
        name=arguments.model_name_or_path,
        engine=model.engine.name,
        weights=weights_of(model),
        settings={name: getattr(arguments, name) for name in NUMERIC_SETTINGS},
        template=model.renderer.template.source,
        params=model.sampling,
        seen=seen,
        spelling=_spelling(model, seen),
        ends=_ends(model),
    )


def _spelling(model: ChatModel, seen: Sequence[Seen]) -> dict[int, bytes]:
    """The bytes of the ids that occur, each decoded alone, as servers do. Half a character has no text of its own."""
    ids = {token for one in seen for token in _tokens(one) if isinstance(token, int)}
    texts = {token: model.tokenizer.decode([token], skip_special_tokens=False) for token in ids}
    return {token: text.encode("utf-8") for token, text in texts.items() if text and "\ufffd" not in text}


def _tokens(seen: Seen) -> Iterator[Token]:
    yield from seen.greedy or ()
    for draw in seen.draws:
        yield from draw
    for step in seen.logprobs:
        yield step.token
        yield from (token for token, _ in step.top)


def _ends(model: ChatModel) -> frozenset[int]:
    checkpoint = model.engine.checkpoint
    return frozenset((*model.tokenizer.eos_token_ids, *(checkpoint.eos_token_ids if checkpoint else ())))


def _see(model: ChatModel, conversation: ComparedConversation, depth: Depth, side: int) -> Seen:
    messages, tools = conversation.messages, conversation.tools
    try:
        prompt = model.render(messages, tools=tools)
        options: dict[str, Any] = {**_plain(model), "max_new_tokens": depth.tokens}
        if _supports(model, "logprobs"):
            options["logprobs"] = depth.top
        answer = model.chat(messages, tools=tools, **options)[0]
    except RequestError as error:  # a template without a place for tools or system prompts, a prompt too long
        return Seen(conversation, refusal=error.what)
    return Seen(
        conversation,
        prompt,
        greedy=answer.token_ids,
        greedy_text=answer.response_text,
        logprobs=_steps(answer),
        draws=_draw(model, conversation, depth, side),
    )


def _steps(answer: Response) -> tuple[Step, ...]:
    return tuple(map(Step.of, answer.logprobs or ()))


def _plain(model: ChatModel) -> dict[str, Any]:
    """Only what differs from the model's defaults is named: an engine need not know the others."""
    return {n: value for n, value in _PLAIN.items() if getattr(model.sampling, n) != value}


def _supports(model: ChatModel, feature: str) -> bool:
    return model.engine.capabilities.get(feature, "unsupported") != "unsupported"


def _draw(
    model: ChatModel, conversation: ComparedConversation, depth: Depth, side: int
) -> tuple[tuple[int, ...], ...]:
    """The beginnings of answers with the side's own parameters; a greedy model is drawn from at temperature 1."""
    if model.sampling.num_beams > 1 or not _supports(model, "temperature"):
        return ()
    options: dict[str, Any] = {"max_new_tokens": depth.sample_tokens}
    if model.sampling.temperature == 0:
        options["temperature"] = 1.0
    draws: list[tuple[int, ...]] = []
    at_once = _AT_ONCE if _supports(model, "n") else 1
    for start in range(0, depth.samples, at_once):
        options["n"] = min(at_once, depth.samples - start)
        if _supports(model, "seed"):
            options["seed"] = side * depth.samples + start
        answers = model.chat(conversation.messages, tools=conversation.tools, **options)
        draws += [answer.token_ids for answer in answers]
    return tuple(draws)
