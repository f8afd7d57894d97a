"""From two observations to a verdict: what agrees, where they part, and the likely cause. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from engineroom.comparison.distance import Parting, first_difference, parting
from engineroom.comparison.draws import SIGNIFICANCE, Draws, probability
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
        notes: aspect → what of it was not seen, where that is so.
    """

    agreement: dict[Aspect, bool | None]
    differences: tuple[Difference, ...]
    causes: tuple[Cause, ...]
    reasons: tuple[str, ...]
    gap: float | None
    chance: float | None
    notes: dict[Aspect, str]

    @property
    def agrees(self) -> bool:
        return not self.differences


def compare(first: Observation, second: Observation, tolerance: float = TOLERANCE) -> Comparison:
    """Compares two sides that were asked the same conversations.

    If one of them is a server that shows its tokens as text only, the tokens of both are compared as text.
    """
    if (first.spelling is None) != (second.spelling is None):
        first, second = first.spelled(), second.spelled()
    pairs = list(zip(first.seen, second.seen, strict=True))
    prompts = [d for a, b in pairs if (d := _prompt_difference(a, b))]
    same = [(a, b) for a, b in pairs if not a.refusal and not b.refusal and not _prompt_difference(a, b)]
    partings = [(a, b, parting(a, b)) for a, b in same]
    logits = _logit_differences(partings, tolerance)
    greedy = [d for a, b, p in partings if (d := _greedy_difference(a, b, p))]
    changed = _changed_parameters(first.params, second.params)
    chance = _chance(same)
    draws = _draw_difference(chance)
    gaps = [p.gap for _, _, p in partings if p.gap is not None]
    gap = max(gaps, default=None)
    differences = (*prompts, *logits, *greedy, *changed, *draws)
    explained = _causes(first, second, differences, gap, tolerance)
    unseen = _unseen(first, second, pairs, same)
    return Comparison(
        agreement={
            "prompts": _agreement(prompts, bool(pairs) and "prompts" not in unseen),
            "logits": _agreement(logits, bool(gaps)),
            "greedy tokens": _agreement(greedy, bool(same) and "greedy tokens" not in unseen),
            "parameters": _agreement(changed, "parameters" not in unseen),
            "sampled answers": _agreement(draws, chance is not None),
        },
        differences=differences,
        causes=tuple(cause for cause, _ in explained),
        reasons=tuple(reason for _, reason in explained),
        gap=gap,
        chance=chance,
        notes=unseen,
    )


def _agreement(differences: Sequence[Difference], seen: bool) -> bool | None:
    """What differs was seen to; what does not is equal only if all of it was seen."""
    return False if differences else True if seen else None


# --- what differs -----------------------------------------------------------------------------------------------


def _prompt_difference(first: Seen, second: Seen) -> Difference | None:
    where = first.conversation.name
    if first.refusal or second.refusal:
        if (
            first.refusal
            and second.refusal
            and (first.served or second.served or first.refusal == second.refusal)
        ):
            return None  # a server refuses in words of its own
        told = [seen.refusal or "answered" for seen in (first, second)]
        return Difference("prompts", where, f"the first: {told[0]}; the second: {told[1]}")
    a, b = first.prompt, second.prompt
    if a is None or b is None:
        lengths = [_prompt_length(seen) for seen in (first, second)]
        if None in lengths or lengths[0] == lengths[1]:
            return None
        return Difference("prompts", where, f"{lengths[0]} tokens | {lengths[1]} tokens")
    if a.token_ids == b.token_ids:
        return None
    place = first_difference(a.token_ids, b.token_ids)
    if not a.text or not b.text:
        return Difference("prompts", where, f"the prompts part at token {place}")
    if a.text == b.text:
        return Difference(
            "prompts", where, f"the same text becomes other tokens from token {place} on: other tokenizers"
        )
    place = first_difference(a.text, b.text)
    begin = max(0, place - 20)
    shown = " | ".join(repr(text[begin : place + 20]) for text in (a.text, b.text))
    return Difference("prompts", where, f"the texts part at character {place}: {shown}")


def _prompt_length(seen: Seen) -> int | None:
    return len(seen.prompt) if seen.prompt is not None else seen.prompt_length


def _logit_differences(partings: Sequence[tuple[Seen, Seen, Parting]], tolerance: float) -> list[Difference]:
    found: list[Difference] = []
    for seen, _, p in partings:
        if p.gap is not None and p.gap > tolerance:
            first = "" if p.first_gap is None else f"; {p.first_gap:.4f} at the first token"
            what = f"log-probabilities differ by up to {p.gap:.4f} nats{first}"
            found.append(Difference("logits", seen.conversation.name, what))
    return found


def _greedy_difference(first: Seen, second: Seen, p: Parting) -> Difference | None:
    where = first.conversation.name
    if p.place is not None:
        tie = "" if p.lead is None else f"; there the first side's two tokens lie {p.lead:.4f} nats apart"
        return Difference("greedy tokens", where, f"the answers part at token {p.place}{tie}")
    a, b = first.greedy_text, second.greedy_text
    if _tokens_known(first, second) or a is None or b is None or a == b:
        return None
    return Difference(
        "greedy tokens", where, f"the answers' texts part at character {first_difference(a, b)}"
    )


def _tokens_known(first: Seen, second: Seen) -> bool:
    """Each token of both greedy answers can be told from any other."""
    return all(seen.greedy is not None and None not in seen.greedy for seen in (first, second))


def _changed_parameters(first: SamplingParams | None, second: SamplingParams | None) -> list[Difference]:
    if first is None or second is None:
        return []
    names = [n for n in SamplingParams.names() if getattr(first, n) != getattr(second, n) and n != "adapter"]
    return [
        Difference("parameters", "", f"{name}: {getattr(first, name)} | {getattr(second, name)}")
        for name in names
    ]


def _drawn(same: Sequence[tuple[Seen, Seen]]) -> list[tuple[Draws, Draws]]:
    """The draws that can be compared: of both sides, and every token known."""
    pairs = [(a.draws, b.draws) for a, b in same if a.draws and b.draws]
    return [pair for pair in pairs if not any(None in draw for draws in pair for draw in draws)]


def _chance(same: Sequence[tuple[Seen, Seen]]) -> float | None:
    drawn = _drawn(same)
    return probability(drawn) if drawn else None


def _draw_difference(chance: float | None) -> list[Difference]:
    if chance is None or chance > SIGNIFICANCE:
        return []
    return [Difference("sampled answers", "", f"sampled answers differ in distribution (p = {chance:.4f})")]


# --- what was not seen ------------------------------------------------------------------------------------------


def _unseen(
    first: Observation,
    second: Observation,
    pairs: Sequence[tuple[Seen, Seen]],
    same: Sequence[tuple[Seen, Seen]],
) -> dict[Aspect, str]:
    """Aspect → what of it a server does not show. Two models that are run here are seen whole."""
    if not (first.is_served or second.is_served):
        return {}
    found: dict[Aspect, str | None] = {
        "prompts": _unseen_prompts(pairs),
        "logits": _unseen_logits(first, second, same),
        "greedy tokens": _unseen_greedy(same),
        "parameters": "a server does not tell what it answers a request with that names none"
        if first.params is None or second.params is None
        else None,
        "sampled answers": _unseen_draws(same),
    }
    return {aspect: note for aspect, note in found.items() if note}


def _unseen_prompts(pairs: Sequence[tuple[Seen, Seen]]) -> str | None:
    answered = [(a, b) for a, b in pairs if not a.refusal and not b.refusal]
    hidden = [pair for pair in answered if any(seen.prompt is None for seen in pair)]
    if not hidden:
        return None
    counted = all(_prompt_length(seen) is not None for pair in hidden for seen in pair)
    told = "only the number of tokens" if counted else "neither tokens nor their number"
    return f"{told} was seen of {len(hidden)} of {len(pairs)} prompts"


def _unseen_logits(first: Observation, second: Observation, same: Sequence[tuple[Seen, Seen]]) -> str | None:
    hidden = sum(not a.logprobs or not b.logprobs for a, b in same)
    if hidden:
        return f"no log-probabilities of {hidden} of {len(same)} answers"
    return "tokens told apart by their text" if first.spelling is None and second.spelling is None else None


def _unseen_greedy(same: Sequence[tuple[Seen, Seen]]) -> str | None:
    """Texts that agree say little where tokens were not seen: many tokens make one text."""
    hidden = sum(a.greedy is None or b.greedy is None for a, b in same)
    if hidden:
        return f"only the texts of {hidden} of {len(same)} answers were seen"
    halves = [(a, b) for a, b in same if not _tokens_known(a, b) and None in (a.greedy_text, b.greedy_text)]
    return f"half characters in {len(halves)} of {len(same)} answers can't be told apart" if halves else None


def _unseen_draws(same: Sequence[tuple[Seen, Seen]]) -> str | None:
    if not any(a.draws or b.draws for a, b in same):
        return None
    hidden = len(same) - len(_drawn(same))
    return f"not all tokens were seen of {hidden} of {len(same)} conversations' draws" if hidden else None


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
        found.append(("parameters", _draw_reason(first, second)))
    return found


def _draw_reason(first: Observation, second: Observation) -> str:
    if first.params is None or second.params is None:
        return (
            "the server answers a request that names no parameters with others, or applies them differently"
        )
    return "the same parameters, applied to the same probabilities, act differently: an engine's defect"


def _prompt_reason(first: Observation, second: Observation) -> str:
    if first.template is None or second.template is None:
        return "the server renders with a chat template, default system prompt or tokenizer of its own"
    if first.template != second.template:
        return "the chat templates differ; template=FILE.jinja gives both the same"
    return "the same template with other settings or another tokenizer: default_system, enable_thinking, tokenizer.json"


def _weights_or_numerics(
    first: Observation, second: Observation, gap: float | None, tolerance: float
) -> tuple[Cause, str]:
    """Whether the tokens part for what is in the files, or for how it is computed with."""
    dtypes = [_type(side) for side in (first, second)]
    rounding = max(_ROUNDING.get(dtype, _ROUNDING["bfloat16"]) for dtype in dtypes)
    size = (
        f"log-probabilities differ by up to {gap:.4f} nats"
        if gap is not None
        else "no log-probabilities to go by"
    )
    computed = f"{' and '.join(dict.fromkeys(dtypes))} explain{'' if dtypes[0] != dtypes[1] else 's'} up to {rounding:g}"
    if first.weights is None or second.weights is None:
        return _of_a_server(gap, rounding, size, computed)
    same_files = first.weights.are_those_of(second.weights)
    changed = [n for n, value in first.settings.items() if value != second.settings[n]]
    if dtypes[0] != dtypes[1]:
        changed.append("dtype")
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


def _of_a_server(gap: float | None, rounding: float, size: str, computed: str) -> tuple[Cause, str]:
    """What a server computes with is not seen; only how far it lies apart."""
    if gap is None:
        return "weights or adapter", f"or numerics: {size}, the two can't be told apart"
    if gap <= rounding:
        return (
            "numerics",
            f"{size}, which rounding explains ({computed}); what the server runs was not seen",
        )
    return "weights or adapter", f"{size}, and {computed}: the server runs other weights or adapters"


def _type(side: Observation) -> str:
    if side.weights is None:
        return "a server's unknown type"
    return "quantised" if side.settings.get("quantization_bit") else side.weights.dtype or "float32"
