"""Token counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engineroom.types import Usage


def usage_of(usages: Iterable[Usage], prompts: int = 1) -> dict[str, Any]:
    """Of all answers together; each of the ``prompts`` counts once, however many answers it got.

    ``cached_tokens``, as OpenAI has it, are those of the prompts that were computed for earlier requests.
    """
    known = list(usages)
    each = max(1, len(known) // prompts)
    firsts = known[::each]
    told = tokens(
        sum(usage.prompt_tokens for usage in firsts), sum(usage.completion_tokens for usage in known)
    )
    cached = sum(usage.cached_tokens for usage in firsts)
    return {**told, "prompt_tokens_details": {"cached_tokens": cached}}


def of_prompts(count: int) -> dict[str, int]:
    """Where there is no answer."""
    return {"prompt_tokens": count, "total_tokens": count}


def tokens(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
