"""From two observations to a verdict: what agrees, where they part, and the likely cause. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from engineroom.comparison.distance import Parting, first_difference, parting
from engineroom.comparison.draws import SIGNIFICANCE, probability
from engineroom.comparison.observation import Observation, Seen
from engineroom.types import SamplingParams

Cause: TypeAlias = Literal["prompt", "weights or adapter", "parameters", "numerics"]
Aspect: TypeAlias = Literal["prompts", "logits", "greedy tokens", "parameters", "sampled answers"]

TOLERANCE = 0.01
"""Nats by which log-probabilities may differ and be called equal. Two engines in float32 differ by about 0.0001."""

_ROUNDING = {"float32": 0.02, "float16": 0.25, "bfloat16": 1.0, "quantised": 2.0}
"""Nats that rounding to a type explains, with room for deep models; beyond it something else is the matter."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which the two sides differ.

    Attributes:
        where: the conversation, or empty if it is no single one's.
        what: a sentence for people.
    """

    aspect: Aspect
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The verdict.

    Attributes:
        agreement: aspect → True (agree), False (differ), None (could not be compared).
        differences: all that was found, in the order of the conversations.
        causes: the likely causes, the one that explains most first; empty if the sides agree.
        reasons: why each of them is thought to be one, in the same order.
        gap: the largest difference of log-probabilities, nats; None if none could be compared.
        chance: how probable such draws are if nothing differs; None if nothing was drawn.
    """

    agreement: dict[Aspect, bool | None]
    differences: tuple[Difference, ...]
    causes: tuple[Cause, ...]
    reasons: tuple[str, ...]
    gap: float | None
    chance: float | None

    @property
    def agrees(self) -> bool:
        return not self.differences


def compare(first: Observation, second: Observation, tolerance: float = TOLERANCE) -> Comparison:
    """Compares two sides that were asked the same conversations."""
    pairs = list(zip(first.seen, second.seen, strict=True))
    prompts = [d for a, b in pairs if (d := _prompt_difference(a, b))]
    same = [(a, b) for a, b in pairs if a.prompt and b.prompt and a.prompt.token_ids == b.prompt.token_ids]
    partings = [(a.conversation.name, parting(a, b)) for a, b in same]
    logits = _logit_differences(partings, tolerance)
    greedy = [_greedy_difference(name, p) for name, p in partings if p.place is not None]
    changed = _changed_parameters(first.params, second.params)
    chance = _chance(same)
    draws = _draw_difference(chance)
    gaps = [p.gap for _, p in partings if p.gap is not None]
    gap = max(gaps, default=None)
    differences = (*prompts, *logits, *greedy, *changed, *draws)
    explained = _causes(first, second, differences, gap, tolerance)
    return Comparison(
        agreement={
            "prompts": not prompts if pairs else None,
            "logits": not logits if gaps else None,
            "greedy tokens": not greedy if same else None,
            "parameters": not changed,
            "sampled answers": None if chance is None else not draws,
        },
        differences=differences,
        causes=tuple(cause for cause, _ in explained),
        reasons=tuple(reason for _, reason in explained),
        gap=gap,
        chance=chance,
    )


# --- what differs -----------------------------------------------------------------------------------------------


def _prompt_difference(first: Seen, second: Seen) -> Difference | None:
    where = first.conversation.name
    if first.prompt is None or second.prompt is None:
        if first.refusal == second.refusal:
            return None
        told = [seen.refusal or "answered" for seen in (first, second)]
        return Difference("prompts", where, f"the first: {told[0]}; the second: {told[1]}")
    a, b = first.prompt, second.prompt
    if a.token_ids == b.token_ids:
        return None
    if a.text == b.text:
        place = first_difference(a.token_ids, b.token_ids)
        return Difference(
            "prompts", where, f"the same text becomes other tokens from token {place} on: other tokenizers"
        )
    place = first_difference(a.text, b.text)
    begin = max(0, place - 20)
    shown = " | ".join(repr(text[begin : place + 20]) for text in (a.text, b.text))
    return Difference("prompts", where, f"the texts part at character {place}: {shown}")


def _logit_differences(partings: Sequence[tuple[str, Parting]], tolerance: float) -> list[Difference]:
    found: list[Difference] = []
    for name, p in partings:
        if p.gap is not None and p.gap > tolerance:
            first = "" if p.first_gap is None else f"; {p.first_gap:.4f} at the first token"
            found.append(
                Difference("logits", name, f"log-probabilities differ by up to {p.gap:.4f} nats{first}")
            )
    return found


def _greedy_difference(name: str, p: Parting) -> Difference:
    tie = "" if p.lead is None else f"; there the first side's two tokens lie {p.lead:.4f} nats apart"
    return Difference("greedy tokens", name, f"the answers part at token {p.place}{tie}")


def _changed_parameters(first: SamplingParams, second: SamplingParams) -> list[Difference]:
    names = [n for n in SamplingParams.names() if getattr(first, n) != getattr(second, n) and n != "adapter"]
    return [
        Difference("parameters", "", f"{name}: {getattr(first, name)} | {getattr(second, name)}")
        for name in names
    ]


def _chance(same: Sequence[tuple[Seen, Seen]]) -> float | None:
    drawn = [(a.draws, b.draws) for a, b in same if a.draws and b.draws]
    return probability(drawn) if drawn else None


def _draw_difference(chance: float | None) -> list[Difference]:
    if chance is None or chance > SIGNIFICANCE:
        return []
    return [Difference("sampled answers", "", f"sampled answers differ in distribution (p = {chance:.4f})")]


# --- why --------------------------------------------------------------------------------------------------------


def _causes(
    first: Observation,
    second: Observation,
    differences: Sequence[Difference],
    gap: float | None,
    tolerance: float,
) -> list[tuple[Cause, str]]:
    aspects = {d.aspect for d in differences}
    found: list[tuple[Cause, str]] = []
    if "prompts" in aspects:
        found.append(("prompt", _prompt_reason(first, second)))
    if aspects & {"logits", "greedy tokens"}:
        found.append(_weights_or_numerics(first, second, gap, tolerance))
    if "parameters" in aspects:
        names = ", ".join(d.what.partition(":")[0] for d in differences if d.aspect == "parameters")
        found.append(("parameters", f"a request that names none is answered with other values: {names}"))
    elif aspects == {"sampled answers"}:
        found.append(
            (
                "parameters",
                "the same parameters, applied to the same probabilities, act differently: an engine's defect",
            )
        )
    return found


def _prompt_reason(first: Observation, second: Observation) -> str:
    if first.template != second.template:
        return "the chat templates differ; template=FILE.jinja gives both the same"
    return "the same template with other settings or another tokenizer: default_system, enable_thinking, tokenizer.json"


def _weights_or_numerics(
    first: Observation, second: Observation, gap: float | None, tolerance: float
) -> tuple[Cause, str]:
    """Whether the tokens part for what is in the files, or for how it is computed with."""
    same_files = first.weights.are_those_of(second.weights)
    changed = [n for n, value in first.settings.items() if value != second.settings[n]]
    dtypes = [_type(side) for side in (first, second)]
    if dtypes[0] != dtypes[1]:
        changed.append("dtype")
    rounding = max(_ROUNDING.get(dtype, _ROUNDING["bfloat16"]) for dtype in dtypes)
    size = (
        f"log-probabilities differ by up to {gap:.4f} nats"
        if gap is not None
        else "no log-probabilities to go by"
    )
    computed = f"{' and '.join(dict.fromkeys(dtypes))} explain{'' if dtypes[0] != dtypes[1] else 's'} up to {rounding:g}"
    if same_files and (gap is None or gap <= rounding):
        return (
            "numerics",
            f"the same weights, computed differently ({', '.join(changed) or first.engine}); {size}",
        )
    if same_files:
        return (
            "weights or adapter",
            f"the same files, but {size}, and {computed}: one side did not load them all",
        )
    if changed and gap is not None and gap <= rounding:
        return (
            "numerics",
            f"{size}, which rounding explains; the weight files differ too, so compare in float32 to be sure",
        )
    kind = "weight files" if first.weights.model != second.weights.model else "adapters"
    return "weights or adapter", f"the {kind} differ; {size}"


def _type(side: Observation) -> str:
    return "quantised" if side.settings.get("quantization_bit") else side.weights.dtype or "float32"
