"""The tokenizer's files: whether they are all there, readable, and fit the model's embedding."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, cast

from engineroom.checkpoint import Checkpoint
from engineroom.doctor.finding import Finding, problem, warning
from engineroom.doctor.weights import is_lfs_pointer, lfs_problem

_COMPLETE_SETS = (
    ("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("vocab.txt",), ("spiece.model",),
    ("sentencepiece.bpe.model",), ("tekken.json",),
)  # fmt: skip
"""Any of these makes a tokenizer (the ``vocab_files_names`` of Transformers' tokenizers)."""


def tokenizer_findings(checkpoint: Checkpoint) -> Generator[Finding, None, None]:
    """What is wrong with the tokenizer's files."""
    if not any(all((checkpoint.path / name).is_file() for name in names) for names in _COMPLETE_SETS):
        if not any(checkpoint.path.glob("*.tiktoken")):  # read by code that comes with the model
            yield problem(
                f"{checkpoint.name} has no tokenizer",
                "there is no tokenizer.json, tokenizer.model, vocab.json with merges.txt or the like",
                "download or save the model again, its tokenizer files included",
            )
        return
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (checkpoint.path / name).is_file():
            yield from _unreadable(checkpoint.path / name)
    file = checkpoint.path / "tokenizer.json"
    if file.is_file():
        broken = list(_unreadable(file))
        yield from broken or _too_many_ids(checkpoint, _read(file))


def tokenizer_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """``tokenizer_config.json``; empty if it is missing or broken, which is told elsewhere."""
    file = checkpoint.path / "tokenizer_config.json"
    try:
        return _read(file) if file.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _read(file: Path) -> Mapping[str, Any]:
    value = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it does not hold a JSON object")
    return cast("dict[str, Any]", value)


def _unreadable(file: Path) -> Generator[Finding, None, None]:
    try:
        _read(file)
    except (OSError, ValueError, RecursionError) as error:
        if is_lfs_pointer(file):
            yield lfs_problem(file)
        else:
            yield problem(f"{file.name} can't be read", str(error), "download or save the model again")


def _too_many_ids(checkpoint: Checkpoint, tokenizer: Mapping[str, Any]) -> Generator[Finding, None, None]:
    """An id beyond the embedding would crash the model in the middle of an answer."""
    highest = max(_ids(tokenizer), default=-1)
    if checkpoint.vocab_size is not None and highest >= checkpoint.vocab_size:
        yield warning(
            f"the tokenizer has ids up to {highest}; the model has {checkpoint.vocab_size}",
            "tokens were added to the tokenizer and the model was not resized, or the two do not belong together",
            "use the tokenizer that the model was saved with",
        )


def _ids(tokenizer: Mapping[str, Any]) -> Generator[int, None, None]:
    added = tokenizer.get("added_tokens")
    for token in cast("list[Any]", added) if isinstance(added, list) else []:
        if isinstance(token, dict) and isinstance(number := cast("dict[str, Any]", token).get("id"), int):
            yield number
    model = tokenizer.get("model")
    vocabulary = cast("dict[str, Any]", model).get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield from (i for i in cast("dict[str, Any]", vocabulary).values() if isinstance(i, int))
    elif isinstance(vocabulary, list):  # unigram models: a list of (text, score)
        yield len(cast("list[Any]", vocabulary)) - 1
