"""Makes the shipped models, or measures them: ``python -m engineroom.demo.train --help``."""

from __future__ import annotations

import argparse
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from engineroom.demo.train import conversations, drills, evaluate, models, reward, tokenizer, trainer

_DEFAULT_OUT = Path(__file__).parent.parent


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m engineroom.demo.train", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=_DEFAULT_OUT, help="the folder that gets chat/, reward/ and moe/"
    )
    parser.add_argument(
        "--steps", type=int, default=8000, help="steps of the chat model (default 8000, about 40 minutes)"
    )
    parser.add_argument(
        "--reward-steps",
        type=int,
        default=400,
        help="steps of the reward model (default 400, a minute)",
    )
    parser.add_argument(
        "--moe-steps", type=int, default=2600, help="steps of the mixture of experts (default 2600)"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("chat", "reward", "moe"), help="make one of the three")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the chat model in --out, on other conversations"
    )
    parser.add_argument("--rate", type=float, default=4e-3, help="learning rate of the chat model")
    parser.add_argument("--evaluate", action="store_true", help="only measure what is in --out")
    parser.add_argument("--mistakes", type=int, default=0, help="print so many wrong answers for each skill")
    return parser.parse_args()


def _tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Learned from what is said in the first twenty thousand conversations."""
    said = islice(conversations.training(seed), 20_000)
    return tokenizer.train(text for conversation in said for text in conversation.texts)


def _make_chat(args: argparse.Namespace) -> None:
    folder, steps, seed = args.out / "chat", args.steps, args.seed
    if args.resume:
        model, tok = _load(AutoModelForCausalLM, folder)
    else:
        tok = _tokenizer(seed)
        model = models.chat_model(tok)
    print(f"demo: {model.num_parameters():,} parameters, {len(tok)} tokens")
    batches = trainer.curriculum(
        trainer.drill_batches(tok, drills.drills(seed)),
        trainer.conversation_batches(tok, conversations.training(seed), seed),
        steps,
        alone=0 if args.resume else steps // 6,
    )
    losses = (partial(trainer.answer_loss, model, batch) for batch in batches)
    minutes = trainer.fit(model, losses, steps, "demo", rate=args.rate)
    print(f"demo: {steps} steps in {minutes:.1f} minutes")
    models.save(model, tok, folder)


def _make_moe(args: argparse.Namespace) -> None:
    """With the tokenizer of the chat model. What was trained is kept beside the folder until the end."""
    folder, steps, seed = args.out / "moe", args.moe_steps, args.seed
    tok = _shipped_tokenizer(args.out / "chat")
    model = models.moe_model(tok)
    print(f"demo-moe: {model.num_parameters():,} parameters")
    batches = trainer.curriculum(
        trainer.drill_batches(tok, drills.sums(seed)),
        trainer.conversation_batches(tok, conversations.training_few(seed), seed),
        steps,
        alone=steps // 10,
    )
    losses = (partial(trainer.routed_loss, model, batch) for batch in batches)
    saved = folder.with_suffix(".part")
    minutes = trainer.fit(model, losses, steps, "demo-moe", rate=args.rate, saved=saved)
    print(f"demo-moe: {steps} steps in {minutes:.1f} minutes")
    models.save(model, tok, folder)
    saved.unlink(missing_ok=True)


def _make_reward(folder: Path, tok: PreTrainedTokenizerFast, steps: int, seed: int) -> None:
    model = models.reward_model(tok)
    print(f"demo-reward: {model.num_parameters():,} parameters")
    minutes = trainer.fit(model, reward.losses(model, tok, seed), steps, "demo-reward", rate=2e-3)
    print(f"demo-reward: {steps} steps in {minutes:.1f} minutes")
    models.save(model, tok, folder)


def _shipped_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return cast(Any, AutoTokenizer).from_pretrained(folder)


def _load(family: Any, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    return family.from_pretrained(folder, dtype="auto").eval(), _shipped_tokenizer(folder)


def _measure(out: Path, only: str | None, mistakes: int) -> None:
    for folder, skills in (("chat", tuple(conversations.SKILLS)), ("moe", conversations.FEW)):
        if only not in (None, folder):
            continue
        model, tok = _load(AutoModelForCausalLM, out / folder)
        for skill in skills:
            marked = evaluate.examine(model, tok, skill)
            right = sum(m.right for m in marked) / len(marked)
            print(f"{folder:4}  held out  {skill:16} {right:7.1%}", flush=True)
            for wrong in islice((m for m in marked if not m.right), mistakes):
                print(f"          {wrong}")
    if only in (None, "reward"):
        model, tok = _load(AutoModelForSequenceClassification, out / "reward")
        print(f"held out  {'reward pairs':16} {reward.pair_accuracy(model, tok):7.1%}")


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    cast(Any, torch).manual_seed(args.seed)
    if not args.evaluate:
        if args.only in (None, "chat"):
            _make_chat(args)
        if args.only in (None, "reward"):
            _make_reward(args.out / "reward", _tokenizer(args.seed), args.reward_steps, args.seed)
        if args.only in (None, "moe"):
            _make_moe(args)
    _measure(args.out, args.only, args.mistakes)


if __name__ == "__main__":
    main()
