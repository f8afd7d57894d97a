"""Makes the shipped models, or measures them: ``python -m engineroom.demo.train --help``."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from engineroom.demo.train import conversations, evaluate, models, reward, tokenizer, trainer

_DEFAULT_OUT = Path(__file__).parent.parent


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m engineroom.demo.train", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=_DEFAULT_OUT, help="the folder that gets chat/ and reward/"
    )
    parser.add_argument(
        "--minutes", type=float, default=40, help="wall time to train the chat model for (default 40)"
    )
    parser.add_argument(
        "--reward-minutes", type=float, default=2, help="the same for the reward model (default 2)"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--only", choices=("chat", "reward"), help="make one of the two; the tokenizer is made anew"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the chat model that is in --out")
    parser.add_argument("--evaluate", action="store_true", help="only measure what is in --out")
    return parser.parse_args()


def _tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Learned from what is said in the first twenty thousand conversations."""
    said = islice(conversations.training(seed), 20_000)
    return tokenizer.train(text for conversation in said for text in conversation.texts)


def _make_chat(
    folder: Path, tok: PreTrainedTokenizerFast, minutes: float, seed: int, *, resume: bool = False
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto") if resume else models.chat_model(tok)
    print(f"demo: {model.num_parameters():,} parameters, {len(tok)} tokens")
    batches = trainer.batches(tok, conversations.training(seed), seed)
    losses = (lambda batch=batch: trainer.answer_loss(model, batch) for batch in batches)
    print(f"demo: {trainer.fit(model, losses, trainer.Budget(minutes))} steps in {minutes:g} minutes")
    models.save(model, tok, folder)


def _make_reward(folder: Path, tok: PreTrainedTokenizerFast, minutes: float, seed: int) -> None:
    model = models.reward_model(tok)
    print(f"demo-reward: {model.num_parameters():,} parameters")
    steps = trainer.fit(model, reward.losses(model, tok, seed), trainer.Budget(minutes), rate=2e-3)
    print(f"demo-reward: {steps} steps in {minutes:g} minutes")
    models.save(model, tok, folder)


def _measure(out: Path, only: str | None) -> None:
    if only != "reward":
        tok = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(out / "chat"))
        model = AutoModelForCausalLM.from_pretrained(out / "chat", dtype="auto").eval()
        for skill, part in evaluate.accuracy(model, tok).items():
            print(f"held out  {skill:16} {part:7.1%}")
    if only != "chat":
        tok = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(out / "reward"))
        model = AutoModelForSequenceClassification.from_pretrained(out / "reward", dtype="auto").eval()
        print(f"held out  {'reward pairs':16} {reward.pair_accuracy(model, tok):7.1%}")


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    if not args.evaluate:
        loaded = AutoTokenizer.from_pretrained(args.out / "chat") if args.resume else _tokenizer(args.seed)
        tok = cast(PreTrainedTokenizerFast, loaded)
        if args.only != "reward":
            _make_chat(args.out / "chat", tok, args.minutes, args.seed, resume=args.resume)
        if args.only != "chat":
            _make_reward(args.out / "reward", tok, args.reward_minutes, args.seed)
    _measure(args.out, args.only)


if __name__ == "__main__":
    main()
