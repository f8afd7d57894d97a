"""Which sampling parameters a request ends up with: the model's defaults, then the arguments, then the request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engineroom.errors import ArgumentError, ModelLoadError, ParameterError, PromptTooLongError
from engineroom.params import SamplingParams

_FROM_MODEL = (
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "max_new_tokens",
    "num_beams",
    "length_penalty",
)
_UNKNOWN_TO_US = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "diversity_penalty": 0.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "penalty_alpha": 0.0,
    "sequence_bias": None,
    "stop_strings": None,
    "suppress_tokens": None,
    "top_h": None,
    "typical_p": 1.0,
}
"""What Transformers' ``generate`` would do and engineroom does not, with the value that does nothing."""


class SamplingDefaults:
    """Layers of defaults. Where a layer says nothing, the one below holds.

    What the model's ``generation_config.json`` says is taken over; without ``do_sample: true`` in it the default is
    greedy, as with Transformers' ``generate``. Naming a temperature, or any of ``top_p``, ``top_k`` and ``min_p``, asks
    for sampling.

    Raises:
        ArgumentError: the arguments contradict each other.
        ModelLoadError: the model's file holds values that nobody can mean.
    """

    def __init__(self, generation_config: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        self._warm = _warm_temperature(generation_config)
        self.warning = _unknown_to_us(generation_config)
        try:
            self.params = self._layer(_model_defaults(generation_config, self._warm), arguments)
            _check_beams(self.params, arguments)
        except ParameterError as error:
            raise ArgumentError(error.what, why=error.why, fix=error.fix, argument=error.parameter) from error

    def resolve(self, request: Mapping[str, Any]) -> SamplingParams:
        """The parameters of one request.

        Raises:
            ParameterError: an unknown, mistyped or contradicting parameter.
        """
        params = self._layer(self.params, request)
        _check_beams(params, request)
        return params

    def _layer(self, below: SamplingParams, values: Mapping[str, Any]) -> SamplingParams:
        given = {name: value for name, value in values.items() if value is not None}
        asks = given.get("do_sample", any(name in given for name in ("top_p", "top_k", "min_p")))
        if asks is True and "temperature" not in given and below.temperature == 0:
            given["temperature"] = self._warm
        return below.updated(**given)


def _warm_temperature(config: Mapping[str, Any]) -> float:
    """The temperature that the model's author had in mind, should anybody ask for sampling."""
    value: object = config.get("temperature")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 100:
        return float(value)
    return 1.0


def _model_defaults(config: Mapping[str, Any], warm: float) -> SamplingParams:
    """The model's own defaults.

    Raises:
        ModelLoadError: a value is unusable.
    """
    values = {name: config.get(name) for name in _FROM_MODEL}
    if values["max_new_tokens"] is None and isinstance(config.get("max_length"), int):
        values["max_length"] = config["max_length"]
    temperature = config.get("temperature")
    sampled = config.get("do_sample") and temperature != 0
    try:
        if temperature is not None:
            SamplingParams.create(temperature=temperature)
        return SamplingParams.create(temperature=warm if sampled else 0.0, **values)
    except ParameterError as error:
        raise ModelLoadError(
            f"the model's generation_config.json is unusable: {error.what}",
            why=error.why,
            fix="correct that file",
        ) from error


def _unknown_to_us(config: Mapping[str, Any]) -> str | None:
    """What a user should know about the file, or None."""
    names = [
        name
        for name, idle in _UNKNOWN_TO_US.items()
        if config.get(name) is not None and config[name] != idle and config[name] != []
    ]
    if not names:
        return None
    return (
        f"the model's generation_config.json sets {', '.join(names)}, which engineroom does not apply; "
        "answers may differ from those of Transformers' generate"
    )


_IDLE = replace(SamplingParams(), temperature=0.0)


def _check_beams(params: SamplingParams, given: Mapping[str, Any]) -> None:
    """Beam search has rules of its own; what it would ignore, or what only it heeds, is refused where it was given."""
    named = {name for name, value in given.items() if value is not None}
    if params.num_beams == 1:
        if "length_penalty" in named and params.length_penalty != 1.0:
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
        name
        for name in ("temperature", "top_p", "top_k", "min_p", "seed")
        if name in named and getattr(params, name) != getattr(_IDLE, name)
    ]
    sampled += ["do_sample"] if given.get("do_sample") else []
    sampled += ["response_format"] if params.response_format is not None else []
    unscored = [name for name in ("logprobs", "prompt_logprobs") if getattr(params, name) is not None]
    for name in (*sampled, *unscored):
        raise ParameterError(
            f"{name} can't be combined with num_beams={params.num_beams}",
            why="beam search does not sample or keep to formats, and its tokens have no log-probabilities of their own",
            fix=f"leave out {name} or num_beams",
            parameter=name,
        )


_CHARACTERS_PER_TOKEN = 16
_READ_ANYWAY = 2_000_000
"""Characters. A tokenizer takes two seconds for so many, and holds up other streams for 70 ms when it hands the ids over; for
31 MiB it was 43 s and 1.1 s."""


def most_text(context_length: int | None) -> int:
    """Characters of a prompt that are read at all; people's texts have four for each token."""
    return max(_READ_ANYWAY, _CHARACTERS_PER_TOKEN * (context_length or 0))


def check_text(length: int, context_length: int | None) -> None:
    """Before a text is made tokens.

    Args:
        length: characters.

    Raises:
        PromptTooLongError: it would take a long time, only to be found longer than the context.
    """
    if context_length is not None and length > (most := most_text(context_length)):
        raise PromptTooLongError(
            f"the prompt has more than {most:,} characters; the context has {context_length} tokens",
            why=f"{_CHARACTERS_PER_TOKEN} characters for each token of the context, and at least {_READ_ANYWAY:,}, are read",
            fix="shorten the conversation, or use a model with a longer context",
            prompt_length=length // _CHARACTERS_PER_TOKEN,
            context_length=context_length,
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
