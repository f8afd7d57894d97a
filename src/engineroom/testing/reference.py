"""The reference: plain forward passes of Transformers in float32, one sequence at a time, no cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

if TYPE_CHECKING:
    from torch import Tensor

Shape: TypeAlias = "Callable[[Tensor, Sequence[int]], Tensor]"
"""What a parameter does to one row of logits, [vocabulary], given the answer's tokens so far."""

TIE = 1e-3
"""Logits nearer to each other than this are a tie: float32 may break it either way."""


class Reference:
    """A checkpoint in Transformers itself.

    Args:
        adapter: a LoRA adapter's folder, to put on the model.
        classifier: load it as a sequence classifier.
    """

    def __init__(self, folder: Path, *, adapter: Path | None = None, classifier: bool = False) -> None:
        import torch
        import transformers

        family = (
            transformers.AutoModelForSequenceClassification
            if classifier
            else transformers.AutoModelForCausalLM
        )
        self.model: Any = cast("Any", family).from_pretrained(folder, dtype=torch.float32).eval()
        if adapter is not None:
            from peft import PeftModel

            self.model = cast("Any", PeftModel).from_pretrained(self.model, str(adapter)).eval()

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """[positions, vocabulary]; [1, labels] of a classifier."""
        return self._run(token_ids).logits[0]

    def hidden(self, token_ids: Sequence[int]) -> Tensor:
        """The last hidden state, behind the final norm: [positions, width]."""
        return self._run(token_ids, output_hidden_states=True).hidden_states[-1][0]

    def _run(self, token_ids: Sequence[int], **options: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self.model(input_ids=torch.tensor([list(token_ids)]), use_cache=False, **options)

    def next_logits(self, token_ids: Sequence[int]) -> Tensor:
        """[vocabulary]: of the token that follows."""
        return self.logits(token_ids)[-1]

    def greedy(self, prompt_ids: Sequence[int], count: int) -> list[int]:
        """The ``count`` tokens that ``generate`` gives, whatever ends an answer."""
        ids = list(prompt_ids)
        for _ in range(count):
            ids.append(int(self.next_logits(ids).argmax()))
        return ids[len(prompt_ids) :]

    def assert_greedy(
        self, prompt_ids: Sequence[int], answer_ids: Sequence[int], shape: Shape | None = None
    ) -> None:
        """Every token of the answer is the likeliest there, of the reference's logits changed by ``shape``.

        This is equality with greedy ``generate`` that survives a tie: the reference reads the answer itself.
        """
        assert answer_ids, "the answer has no tokens"
        rows = self.logits([*prompt_ids, *answer_ids])[len(prompt_ids) - 1 : -1]
        for place, (row, token) in enumerate(zip(rows, answer_ids, strict=True)):
            shaped = shape(row.clone(), answer_ids[:place]) if shape else row
            lead = float(shaped.max() - shaped[token])
            assert lead <= TIE, (
                f"token {place} is {token}; the reference prefers {int(shaped.argmax())} by {lead}"
            )

    def logprobs(self, token_ids: Sequence[int]) -> Tensor:
        """[positions, vocabulary]: row i tells of token i + 1."""
        return self.logits(token_ids).log_softmax(-1)


def floats(row: Tensor) -> list[float]:
    """The numbers of a one-dimensional tensor; ``tolist`` has no type of its own."""
    return cast("list[float]", cast("Any", row).tolist())


def assert_drawn_from(tokens: Sequence[int], probabilities: Tensor) -> None:
    """The tokens could have been drawn from [vocabulary] probabilities.

    None of them is impossible, and their mean log-probability lies within five standard errors of its expectation:
    a distribution that is too sharp or too flat is seen.
    """
    impossible = {token for token in tokens if float(probabilities[token]) == 0.0}
    assert not impossible, f"tokens {sorted(impossible)} can't be drawn"
    possible = probabilities[probabilities > 0]
    logs = possible.log()
    mean = float((possible * logs).sum())
    variance = float((possible * (logs - mean) ** 2).sum())
    drawn = sum(math.log(float(probabilities[token])) for token in tokens) / len(tokens)
    error = math.sqrt(variance / len(tokens))
    assert abs(drawn - mean) <= 5 * error + 1e-6, (
        f"{len(tokens)} tokens have a mean log-probability of {drawn:.3f}; {mean:.3f} ± {error:.3f} was expected"
    )
