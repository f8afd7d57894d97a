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
        "--out", type=Path, default=_DEFAULT_OUT, help="the folder that gets chat/ and reward/"
    )
    parser.add_argument(
        "--steps", type=int, default=8000, help="steps of the chat model (default 8000, about 40 minutes)"
    )
    parser.add_argument(
        "--reward-steps",
        type=int,
        default=800,
        help="steps of the reward model (default 800, about 3 minutes)",
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--only", choices=("chat", "reward"), help="make one of the two; the tokenizer is made anew"
    )
    parser.add_argument("--evaluate", action="store_true", help="only measure what is in --out")
    parser.add_argument("--mistakes", type=int, default=0, help="print so many wrong answers for each skill")
    return parser.parse_args()


def _tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Learned from what is said in the first twenty thousand conversations."""
    said = islice(conversations.training(seed), 20_000)
    return tokenizer.train(text for conversation in said for text in conversation.texts)


def _make_chat(folder: Path, tok: PreTrainedTokenizerFast, steps: int, seed: int) -> None:
    model = models.chat_model(tok)
    print(f"demo: {model.num_parameters():,} parameters, {len(tok)} tokens")
    batches = trainer.curriculum(
        trainer.drill_batches(tok, drills.drills(seed)),
        trainer.conversation_batches(tok, conversations.training(seed), seed),
        steps,
    )
    minutes = trainer.fit(model, (partial(trainer.answer_loss, model, b) for b in batches), steps, "demo")
    print(f"demo: {steps} steps in {minutes:.1f} minutes")
    models.save(model, tok, folder)


def _make_reward(folder: Path, tok: PreTrainedTokenizerFast, steps: int, seed: int) -> None:
    model = models.reward_model(tok)
    print(f"demo-reward: {model.num_parameters():,} parameters")
    minutes = trainer.fit(model, reward.losses(model, tok, seed), steps, "demo-reward", rate=2e-3)
    print(f"demo-reward: {steps} steps in {minutes:.1f} minutes")
    models.save(model, tok, folder)


def _load(family: Any, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    return family.from_pretrained(folder, dtype="auto").eval(), cast(Any, AutoTokenizer).from_pretrained(
        folder
    )


def _measure(out: Path, only: str | None, mistakes: int) -> None:
    if only != "reward":
        model, tok = _load(AutoModelForCausalLM, out / "chat")
        for skill in conversations.SKILLS:
            marked = evaluate.examine(model, tok, skill)
            print(f"held out  {skill:16} {sum(m.right for m in marked) / len(marked):7.1%}", flush=True)
            for wrong in islice((m for m in marked if not m.right), mistakes):
                print(f"          {wrong}")
    if only != "chat":
        model, tok = _load(AutoModelForSequenceClassification, out / "reward")
        print(f"held out  {'reward pairs':16} {reward.pair_accuracy(model, tok):7.1%}")


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    cast(Any, torch).manual_seed(args.seed)
    if not args.evaluate:
        tok = _tokenizer(args.seed)
        if args.only != "reward":
            _make_chat(args.out / "chat", tok, args.steps, args.seed)
        if args.only != "chat":
            _make_reward(args.out / "reward", tok, args.reward_steps, args.seed)
    _measure(args.out, args.only, args.mistakes)


if __name__ == "__main__":
    main()
