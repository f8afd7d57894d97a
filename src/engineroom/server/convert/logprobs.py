"""Log-probabilities in OpenAI's two forms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engineroom.errors import GenerationError
from engineroom.types import Tokenizer, TokenLogprob

_IMPOSSIBLE = -9999.0
"""JSON has no infinity; vLLM's server writes this."""


class LogprobWriter:
    """
    Args:
        as_ids: tokens are named by their ids, ``token_id:7``.
    """

    def __init__(self, tokenizer: Tokenizer, *, as_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def content(self, entries: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
        """Chat's form: one object for each token."""
        return [
            {**self._token(e.token_id, e.logprob), "top_logprobs": [self._token(i, p) for i, p in e.top]}
            for e in entries
        ]

    def columns(self, entries: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
        """The older form, of ``/v1/completions``: four lists side by side.

        Args:
            offset: characters of the tokens before these.
        """
        offsets: list[int] = []
        for entry in entries:
            offsets.append(offset)
            offset += len(self.text(entry.token_id))
        return {
            "tokens": [self.name(entry.token_id) for entry in entries],
            "token_logprobs": [finite(entry.logprob) for entry in entries],
            "top_logprobs": [{self.name(i): finite(p) for i, p in e.top} if e.top else None for e in entries],
            "text_offset": offsets,
        }

    def prompt(self, entries: Sequence[TokenLogprob | None]) -> list[dict[str, Any] | None]:
        """vLLM's ``prompt_logprobs``: token id → its log-probability, rank and text; null for the first token."""
        return [None if entry is None else self._ranked(entry) for entry in entries]

    def _ranked(self, entry: TokenLogprob) -> dict[str, Any]:
        found = {i: (p, rank) for rank, (i, p) in enumerate(entry.top, 1)}
        found.setdefault(entry.token_id, (entry.logprob, 0))
        return {
            str(i): {"logprob": finite(p), "rank": rank or None, "decoded_token": self.text(i)}
            for i, (p, rank) in found.items()
        }

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self.text(token_id)
        # A token of half a character has no text of its own, so its bytes can't be told from it.
        known = None if "\ufffd" in text else list(text.encode())
        return {"token": self.name(token_id), "logprob": finite(logprob), "bytes": known}

    def name(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self._as_ids else self.text(token_id)

    def text(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id], skip_special_tokens=False)


def finite(logprob: float) -> float:
    """
    Raises:
        GenerationError: it is not a number.
    """
    if math.isnan(logprob):
        raise GenerationError("the model's log-probability is not a number (NaN)")
    return max(logprob, _IMPOSSIBLE)
