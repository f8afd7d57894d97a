"""Token counts."""

from __future__ import annotations

from collections.abc import Iterable

from engineroom.types import Usage


def usage_of(usages: Iterable[Usage], prompts: int = 1) -> dict[str, int]:
    """Of all answers together; each of the ``prompts`` counts once, however many answers it got."""
    known = list(usages)
    each = max(1, len(known) // prompts)
    prompt = sum(usage.prompt_tokens for usage in known[::each])
    return tokens(prompt, sum(usage.completion_tokens for usage in known))


def tokens(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
