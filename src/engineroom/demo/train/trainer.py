"""The training loop: rows to batches, loss on the answers only, a rate that rises, holds and falls."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from engineroom.demo.train.conversations import Conversation
from engineroom.demo.train.drills import Drill
from engineroom.demo.train.letters import encode
from engineroom.demo.train.optimizer import Muon
from engineroom.demo.train.tokenizer import render

IGNORED = -100
_DRILL_WIDTH = 128
_WARM_UP, _COOL_DOWN = 0.02, 0.5
_BALANCE = 0.01


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids, and as many labels: ``IGNORED`` where nothing is learned."""

    ids: list[int]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, other: Row) -> Row:
        return Row(self.ids + other.ids, self.labels + other.labels)


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids (rows × length, right-padded) and labels."""

    ids: Tensor
    labels: Tensor


def prompt_of(tokenizer: PreTrainedTokenizerFast, conversation: Conversation) -> str:
    """The text that the model sees before it answers."""
    return render(
        tokenizer,
        conversation.messages,
        tools=list(conversation.tools) or None,
        add_generation_prompt=True,
        enable_thinking=conversation.thinking,
    )


def _row(tokenizer: PreTrainedTokenizerFast, given: str, learned: str) -> Row:
    """The two are encoded apart, so that the border between them is where generation starts."""
    prompt, answer = encode(tokenizer, given), encode(tokenizer, learned)
    return Row(prompt + answer, [IGNORED] * len(prompt) + answer)


def conversation_batches(
    tokenizer: PreTrainedTokenizerFast,
    conversations: Iterator[Conversation],
    seed: int,
    tokens: int = 2048,
    pool: int = 768,
) -> Iterator[Batch]:
    """Batches of about ``tokens`` ids. Like lengths go together, so that little is padding."""
    rng = random.Random(seed)
    while True:
        several = (_row(tokenizer, prompt_of(tokenizer, c), f"{c.target}<|im_end|>") for c in conversations)
        groups: list[list[Row]] = [[]]
        for row in sorted(islice(several, pool), key=len):
            if groups[-1] and (len(groups[-1]) + 1) * len(row) > tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from map(_padded, groups)


def drill_batches(
    tokenizer: PreTrainedTokenizerFast, drills: Iterator[Drill], tokens: int = 2048
) -> Iterator[Batch]:
    """Batches of full lines: one drill after another in each row."""
    line, rows = Row([], []), list[Row]()
    for given, learned in drills:
        drill = _row(tokenizer, given, f"{learned}\n")
        if len(line) + len(drill) > _DRILL_WIDTH:
            rows.append(line)
            line = Row([], [])
        line += drill
        if len(rows) * _DRILL_WIDTH >= tokens:
            yield _padded(rows)
            rows = []


def curriculum(
    drills: Iterator[Batch], conversations: Iterator[Batch], steps: int, alone: int
) -> Iterator[Batch]:
    """``alone`` steps of drills; then conversations, with a batch of drills now and then so that they last."""
    for step in range(steps):
        yield next(drills if step < alone or step % 10 == 0 else conversations)


def _padded(rows: list[Row]) -> Batch:
    width = max(map(len, rows))
    ids = [row.ids + [0] * (width - len(row)) for row in rows]
    labels = [row.labels + [IGNORED] * (width - len(row)) for row in rows]
    return Batch(torch.tensor(ids), torch.tensor(labels))


def answer_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy on the answers. The padding is on the right, where causal attention never looks."""
    network = cast(Any, model)
    hidden = network.model(input_ids=batch.ids[:, :-1], use_cache=False).last_hidden_state
    wanted = batch.labels[:, 1:]
    kept = wanted != IGNORED
    return nn.functional.cross_entropy(network.lm_head(hidden[kept]), wanted[kept])


def routed_loss(model: nn.Module, batch: Batch) -> Tensor:
    """``answer_loss`` of a mixture of experts, and Switch Transformer's loss (arXiv 2101.03961) of uneven routing."""
    network = cast(Any, model)
    out = network.model(input_ids=batch.ids[:, :-1], use_cache=False, output_router_logits=True)
    wanted = batch.labels[:, 1:]
    kept = wanted != IGNORED
    answers = nn.functional.cross_entropy(network.lm_head(out.last_hidden_state[kept]), wanted[kept])
    config = network.config
    uneven = load_balancing_loss_func(out.router_logits, config.num_experts, config.num_experts_per_tok)
    return answers + _BALANCE * cast(Tensor, uneven)


def optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, norms, routers and heads."""
    inside = [
        p
        for name, p in model.named_parameters()
        if p.ndim >= 2 and ".layers." in name and not name.endswith(".mlp.gate.weight")
    ]
    taken = {id(parameter) for parameter in inside}
    outside = [p for p in model.parameters() if id(p) not in taken]
    return [Muon(inside, lr=rate), torch.optim.AdamW(outside, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)]


def _rate(done: float) -> float:
    """The factor on the learning rate when the part ``done`` (0–1) of the steps is over."""
    return min(1.0, (done + 1e-3) / _WARM_UP, max(0.01, (1 - done) / _COOL_DOWN))


def _restored(saved: Path | None, model: nn.Module, steppers: list[torch.optim.Optimizer]) -> int:
    """The steps that were taken before, whose outcome is put back."""
    if saved is None or not saved.exists():
        return 0
    step, weights, *states = torch.load(saved)
    model.load_state_dict(weights)
    for stepper, state in zip(steppers, states, strict=True):
        stepper.load_state_dict(state)
    return step


def _save(path: Path, step: int, model: nn.Module, steppers: list[torch.optim.Optimizer]) -> None:
    """Written beside, then renamed: a killed training leaves the last whole file."""
    new = path.with_suffix(".new")
    torch.save([step, model.state_dict(), *(stepper.state_dict() for stepper in steppers)], new)
    new.replace(path)


def fit(
    model: nn.Module,
    losses: Iterator[Callable[[], Tensor]],
    steps: int,
    name: str,
    rate: float = 4e-3,
    saved: Path | None = None,
) -> float:
    """Takes ``steps`` steps, each on the next of ``losses``, and returns the minutes that they took.

    What is in the file ``saved``, written every hundred steps, is not done again.
    """
    steppers = optimizers(model, rate)
    began, smooth = time.monotonic(), 0.0
    first = _restored(saved, model, steppers)
    losses = islice(losses, first, None)
    model.train()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.4f}"), TimeRemainingColumn()) as progress:
        task = progress.add_task(name, total=steps, completed=first, loss=0.0)
        for step in range(first, steps):
            for group in (group for stepper in steppers for group in stepper.param_groups):
                group["lr"] = rate * _rate(step / steps)
            loss = next(losses)()
            cast(Any, loss).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for stepper in steppers:
                stepper.step()
                stepper.zero_grad()
            smooth = loss.item() if step == first else 0.98 * smooth + 0.02 * loss.item()
            progress.update(task, advance=1, loss=smooth)
            if saved and (step + 1) % 100 == 0:
                _save(saved, step + 1, model, steppers)
            if not progress.console.is_terminal and step % (steps // 50 or 1) == 0:
                progress.console.print(f"{name}  step {step:5d} of {steps}  loss {smooth:.4f}")
    model.eval()
    return (time.monotonic() - began) / 60
