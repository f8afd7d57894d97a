"""What one side says: its prompts, its log-probabilities, its greedy tokens, its draws, and what it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engineroom.chat import ChatModel
from engineroom.comparison.conversations import DEFAULT_CONVERSATIONS, ComparedConversation
from engineroom.comparison.weights import Weights, weights_of
from engineroom.errors import RequestError
from engineroom.types import Prompt, SamplingParams, TokenLogprob

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
        prompt: None if it was refused.
        refusal: why, if so.
        logprobs: for each greedy token; empty if the engine has none.
        draws: the first tokens of the answers that were drawn.
    """

    conversation: ComparedConversation
    prompt: Prompt | None = None
    refusal: str = ""
    greedy: tuple[int, ...] = ()
    greedy_text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    draws: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """One side.

    Attributes:
        name: how it was asked for.
        settings: arguments that change what the model computes with, not what it is asked.
        template: the source of the chat template.
        params: the sampling parameters of a request that names none.
    """

    name: str
    engine: str
    weights: Weights
    settings: Mapping[str, Any]
    template: str
    params: SamplingParams
    seen: tuple[Seen, ...]


NUMERIC_SETTINGS = (
    "infer_backend", "infer_dtype", "device", "device_map", "flash_attn", "quantization_bit", "quantization_type",
    "double_quantization", "rope_scaling", "use_kv_cache", "vllm_config", "sglang_config", "kt_method",
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
    return Observation(
        name=arguments.model_name_or_path,
        engine=model.engine.name,
        weights=weights_of(model),
        settings={name: getattr(arguments, name) for name in NUMERIC_SETTINGS},
        template=model.renderer.template.source,
        params=model.sampling,
        seen=tuple(_see(model, conversation, depth, side) for conversation in conversations),
    )


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
        logprobs=answer.logprobs or (),
        draws=_draw(model, conversation, depth, side),
    )


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
    options: dict[str, Any] = {"max_new_tokens": depth.sample_tokens, "ignore_eos": True}
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
