"""Our sampling parameters as vLLM's. A pure function: nothing here calls the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engineroom.errors import ParameterError
from engineroom.types import SamplingParams

if TYPE_CHECKING:
    import vllm

COLDEST, HOTTEST = 0.01, 2.0
"""Between 0 and 0.01 vLLM raises the temperature to 0.01 by itself; above 2 it refuses the request."""


NEVER = -100.0
"""Added to the logits of tokens that a grammar must not let through; vLLM takes no more."""


def to_vllm(
    params: SamplingParams, grammar: str | None = None, special_ids: Sequence[int] = ()
) -> vllm.SamplingParams:
    """One answer's parameters.

    Args:
        grammar: of ``response_format``, as GBNF.
        special_ids: tokens that no format lets through; to vLLM's grammars they are plain text.

    vLLM's own handling of end tokens, stop strings and text is off: those ids are all in ``stop_token_ids``, and the
    rest is done above the engines. Where ``min_p`` and ``top_p`` are both given, vLLM drops by ``min_p`` first.

    Raises:
        ParameterError: vLLM would refuse a value, or change it without a word.
    """
    from vllm import SamplingParams as VllmParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    check_temperature(params.temperature)
    bias = dict(params.logit_bias)
    if grammar is not None:
        bias |= dict.fromkeys(set(special_ids) - set(params.stop_token_ids), NEVER)
    return VllmParams(
        n=1,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=max(params.top_k, 0),
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=bias or None,
        seed=params.seed,
        max_tokens=params.max_new_tokens,
        stop_token_ids=list(params.stop_token_ids),
        ignore_eos=True,
        logprobs=params.logprobs,
        prompt_logprobs=params.prompt_logprobs,
        structured_outputs=None if grammar is None else StructuredOutputsParams(grammar=grammar),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
    )


def check_temperature(temperature: float) -> None:
    """
    Raises:
        ParameterError: vLLM can't draw at this temperature.
    """
    if temperature == 0 or COLDEST <= temperature <= HOTTEST:
        return
    raise ParameterError(
        f"temperature={temperature:g} is not allowed with the vllm engine",
        why=f"vLLM takes 0, or {COLDEST:g} to {HOTTEST:g}",
        fix="temperature=0 takes the likeliest token"
        if temperature < COLDEST
        else f"temperature={HOTTEST:g}",
        parameter="temperature",
    )
