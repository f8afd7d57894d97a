"""Keeps an answer within its grammar: which tokens may come next, as bits, and the logits of all others at -inf.

A batch has one bitmask, int32 [rows, ceil(vocabulary / 32)], bit ``i % 32`` of word ``i // 32`` for token ``i``. Each row
that has a grammar fills in its own; rows without one keep all ones.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engineroom.errors import GenerationError

if TYPE_CHECKING:
    from engineroom.engines.grammar.compiler import CompiledFormat

_SLOW_STEP = 1.0
"""Seconds. A usual step takes less than a thousandth; a grammar of the kind that gets slower and slower stops here."""


class GrammarMatcher:
    """One answer's place in its grammar. At the grammar's end it lets through the ``stop_token_ids`` and nothing else."""

    def __init__(self, form: CompiledFormat, tokenizer_info: Any, stop_token_ids: Sequence[int]) -> None:
        import xgrammar

        compiled = xgrammar.CompiledGrammar.deserialize_json(form.compiled, tokenizer_info)
        self._matcher = xgrammar.GrammarMatcher(compiled, override_stop_tokens=list(stop_token_ids))

    def fill(self, bitmask: Tensor, row: int) -> None:
        """Writes the tokens that may come next into the row.

        Raises:
            GenerationError: there are none, or the grammar has become too slow.
        """
        began = time.monotonic()
        self._matcher.fill_next_token_bitmask(bitmask, row)
        if time.monotonic() - began > _SLOW_STEP:
            raise GenerationError(
                "the grammar of response_format is too ambiguous",
                why="finding the tokens that may come next took more than a second",
                fix="write it so that each text can be read in one way",
            )
        if not bool(bitmask[row].any()):
            raise GenerationError(
                "the grammar of response_format came to a place without a way on",
                why="no token of this model's vocabulary may come next",
                fix="correct the grammar",
            )

    def accept(self, token_id: int) -> None:
        """Takes note of the answer's next token."""
        self._matcher.accept_token(token_id)


def new_bitmask(rows: int, vocab_size: int) -> Tensor:
    """All tokens allowed; on the CPU, where matchers write."""
    return torch.full((rows, -(-vocab_size // 32)), -1, dtype=torch.int32)


def apply_bitmask(logits: Tensor, bitmask: Tensor) -> Tensor:
    """[rows, vocabulary] logits, those of tokens that are not allowed at -inf; the input is left as it was."""
    bits = torch.arange(32, dtype=torch.int32, device=logits.device)
    allowed = (bitmask.to(logits.device).unsqueeze(-1) >> bits) & 1
    return logits.masked_fill(allowed.flatten(1)[:, : logits.shape[-1]] == 0, -torch.inf)
