"""Which sampling parameters a request ends up with: the model's defaults, then the arguments, then the request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engineroom.errors import ModelLoadError, ParameterError, PromptTooLongError
from engineroom.types import SamplingParams

_FROM_MODEL = (
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "max_new_tokens",
    "num_beams",
    "length_penalty",
)


class SamplingDefaults:
    """Layers of defaults. Where a layer says nothing, the one below holds.

    The model's ``generation_config.json`` is read as Transformers' ``generate`` reads it: without ``do_sample: true``
    the default is greedy. Naming a temperature, or any of ``top_p``, ``top_k`` and ``min_p``, asks for sampling.
    """

    def __init__(self, generation_config: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        self._warm = float(generation_config.get("temperature") or 1.0)
        self.params = self.layer(_model_defaults(generation_config, self._warm), arguments)

    def resolve(self, request: Mapping[str, Any]) -> SamplingParams:
        """The parameters of one request.

        Raises:
            ParameterError: an unknown, mistyped or contradicting parameter.
        """
        params = self.layer(self.params, request)
        _check_beams(params, request)
        return params

    def layer(self, below: SamplingParams, values: Mapping[str, Any]) -> SamplingParams:
        given = {name: value for name, value in values.items() if value is not None}
        asks = given.get("do_sample", any(name in given for name in ("top_p", "top_k", "min_p")))
        if asks is True and "temperature" not in given and below.temperature == 0:
            given["temperature"] = self._warm
        return below.updated(**given)


def _model_defaults(config: Mapping[str, Any], warm: float) -> SamplingParams:
    values = {name: config.get(name) for name in _FROM_MODEL}
    if values["max_new_tokens"] is None and isinstance(config.get("max_length"), int):
        values["max_length"] = config["max_length"]
    try:
        return SamplingParams.create(temperature=warm if config.get("do_sample") else 0.0, **values)
    except ParameterError as error:
        raise ModelLoadError(
            f"the model's generation_config.json is unusable: {error.what}",
            why=error.why,
            fix="correct that file",
        ) from error


def _check_beams(params: SamplingParams, request: Mapping[str, Any]) -> None:
    """Beam search has rules of its own; what it would ignore is refused."""
    if params.num_beams == 1:
        if params.length_penalty != 1.0:
            raise ParameterError(
                f"length_penalty={params.length_penalty} has no effect without beam search",
                fix="add num_beams=4, or leave length_penalty out",
                parameter="length_penalty",
            )
        return
    if params.n > params.num_beams:
        raise ParameterError(
            f"n={params.n} is more than num_beams={params.num_beams}",
            why="beam search returns its n best beams",
            parameter="n",
        )
    sampled = [
        name for name in ("temperature", "top_p", "top_k", "min_p", "seed", "do_sample") if request.get(name)
    ]
    unscored = [name for name in ("logprobs", "prompt_logprobs") if getattr(params, name) is not None]
    for name in (*sampled, *unscored):
        raise ParameterError(
            f"{name} can't be combined with num_beams={params.num_beams}",
            why="beam search does not sample, and its tokens have no log-probabilities of their own",
            fix=f"leave out {name} or num_beams",
            parameter=name,
        )


def token_limit(params: SamplingParams, prompt_length: int, context_length: int) -> int:
    """How many tokens the answer may have: what was asked for, or what the context leaves.

    Raises:
        PromptTooLongError: nothing is left.
    """
    room = context_length - prompt_length
    if room <= 0:
        raise PromptTooLongError(
            f"the prompt has {prompt_length} tokens; the context has {context_length}",
            why="prompt and answer share the context, so the prompt must be shorter than it",
            fix="shorten the conversation, or use a model with a longer context",
            prompt_length=prompt_length,
            context_length=context_length,
        )
    if params.max_new_tokens is not None:
        return min(params.max_new_tokens, room)
    if params.max_length is None:
        return room
    if params.max_length <= prompt_length:
        raise PromptTooLongError(
            f"the prompt has {prompt_length} tokens; max_length={params.max_length} leaves none for an answer",
            why="max_length counts prompt and answer together",
            fix="raise max_length, or give max_new_tokens instead",
            prompt_length=prompt_length,
            context_length=params.max_length,
        )
    return min(params.max_length - prompt_length, room)
