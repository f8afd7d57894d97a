"""The training loop: batches by length, loss on the answer only, a rate that follows the time left."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from engineroom.demo.train.conversations import Conversation
from engineroom.demo.train.optimizer import Muon

IGNORED = -100
_CONSOLE = Console()


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to train: minutes of wall time, and the parts in which the learning rate rises and falls."""

    minutes: float
    warm_up: float = 0.02
    cool_down: float = 0.45

    def rate(self, done: float) -> float:
        """The factor on the learning rate when the part ``done`` (0–1) of the time is over."""
        return min(1.0, (done + 1e-3) / self.warm_up, max(0.02, (1 - done) / self.cool_down))


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids (rows × length, right-padded) and labels, where everything but the answers is ``IGNORED``."""

    ids: Tensor
    labels: Tensor


def prompt_of(tokenizer: PreTrainedTokenizerFast, conversation: Conversation) -> str:
    """The text that the model sees before it answers."""
    return str(
        tokenizer.apply_chat_template(
            list(conversation.messages),
            tools=list(conversation.tools) or None,
            add_generation_prompt=True,
            enable_thinking=conversation.thinking,
            tokenize=False,
        )
    )


def encoded(tokenizer: PreTrainedTokenizerFast, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Prompt ids and answer ids, apart, so that the border between them is where generation starts."""
    encode = tokenizer.backend_tokenizer.encode
    answer = encode(conversation.target + "<|im_end|>", add_special_tokens=False).ids
    return encode(prompt_of(tokenizer, conversation), add_special_tokens=False).ids, answer


def batches(
    tokenizer: PreTrainedTokenizerFast,
    conversations: Iterator[Conversation],
    seed: int,
    tokens: int = 2048,
    pool: int = 768,
) -> Iterator[Batch]:
    """Batches of about ``tokens`` ids. Like lengths go together, so that little is padding."""
    rng = random.Random(seed)
    while True:
        rows = sorted(
            (encoded(tokenizer, item) for item in islice(conversations, pool)),
            key=lambda row: sum(map(len, row)),
        )
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in rows:
            if groups[-1] and (len(groups[-1]) + 1) * sum(map(len, row)) > tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from (_padded(group) for group in groups)


def _padded(rows: list[tuple[list[int], list[int]]]) -> Batch:
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for i, (prompt, answer) in enumerate(rows):
        ids[i, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[i, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return Batch(ids, labels)


def answer_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy on the answers. The padding is on the right, where causal attention never looks."""
    hidden = model.model(input_ids=batch.ids[:, :-1], use_cache=False).last_hidden_state
    wanted = batch.labels[:, 1:]
    kept = wanted != IGNORED
    return nn.functional.cross_entropy(model.lm_head(hidden[kept]), wanted[kept])


def optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, norms and heads."""
    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    taken = {id(parameter) for parameter in inside}
    outside = [p for p in model.parameters() if id(p) not in taken]
    return [Muon(inside, lr=rate), torch.optim.AdamW(outside, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)]


def fit(model: nn.Module, losses: Iterator[Callable[[], Tensor]], budget: Budget, rate: float = 4e-3) -> int:
    """Trains until the budget is spent, on one of ``losses`` per step, and returns the number of steps."""
    steppers = optimizers(model, rate)
    began, told, steps, smooth = time.monotonic(), 0.0, 0, 0.0
    model.train()
    while (done := (time.monotonic() - began) / (60 * budget.minutes)) < 1:
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = rate * budget.rate(done)
        loss = next(losses)()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        steps += 1
        smooth = loss.item() if steps == 1 else 0.95 * smooth + 0.05 * loss.item()
        if done - told >= 0.02:
            told = done
            _CONSOLE.print(f"{done:5.0%}  step {steps:5d}  loss {smooth:.4f}")
    model.eval()
    return steps
