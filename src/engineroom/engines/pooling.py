"""How an embedding model makes one vector of the hidden states of many tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from engineroom.checkpoint import Checkpoint, read_json, read_json_list
from engineroom.errors import ModelLoadError

PoolingKind: TypeAlias = Literal["last", "mean", "cls"]

_KINDS: Mapping[str, PoolingKind] = {"lasttoken": "last", "mean": "mean", "cls": "cls"}
"""sentence-transformers' word for it → ours."""

_TEXT_CONFIG = "sentence_*_config.json"
"""``sentence_bert_config.json`` and its kin: what sentence-transformers does to a text."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """
    Attributes:
        kind: which tokens' hidden states, behind the final norm: the ``last`` one's, the first one's (``cls``), or
            the ``mean`` of all.
        normalize: the vector gets the length 1, unless a request says otherwise.
        max_tokens: the longest text; None is the model's context.
    """

    kind: PoolingKind = "last"
    normalize: bool = True
    max_tokens: int | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Pooling:
        """As ``modules.json`` of sentence-transformers says; without one, the last token's, normalised.

        Raises:
            ModelLoadError: the checkpoint asks for something that would be left out.
        """
        file = checkpoint.path / "modules.json"
        if checkpoint.text_config.get("is_causal") is False:
            raise _refused(checkpoint, "tokens that see those after them (is_causal is false)")
        if not file.is_file():
            return cls()
        kind, normalize = "last", False
        for entry in cast("list[Mapping[str, Any]]", read_json_list(file)):
            name = str(entry.get("type", "")).rpartition(".")[2]
            if name == "Pooling":
                kind = _kind(checkpoint, str(entry.get("path", "")))
            elif name == "Normalize":
                normalize = True
            elif name != "Transformer":
                raise _refused(checkpoint, f"a module {name}")
        _refuse_default_prompt(checkpoint)
        return cls(kind, normalize, _max_tokens(checkpoint))


def _kind(checkpoint: Checkpoint, folder: str) -> PoolingKind:
    config = read_json(checkpoint.path / folder / "config.json")
    word = config.get("pooling_mode")  # of sentence-transformers 5.2 and later; switches before
    words = [word] if isinstance(word, str) else [k for k, v in config.items() if _is_switch(k) and v is True]
    names = [
        text.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens") for text in words
    ]
    if len(names) != 1 or names[0] not in _KINDS:
        raise _refused(checkpoint, f"pooling by {' and '.join(names) or 'nothing'}")
    return _KINDS[names[0]]


def _is_switch(key: str) -> bool:
    return key.startswith("pooling_mode_")


def _max_tokens(checkpoint: Checkpoint) -> int | None:
    for file in checkpoint.path.glob(_TEXT_CONFIG):
        config = read_json(file)
        if config.get("do_lower_case"):
            raise _refused(checkpoint, "texts in lower case")
        limit = config.get("max_seq_length")
        if isinstance(limit, int):
            return limit
    return None


def is_of_sentence_transformers(file: Path) -> bool:
    return file.name == "modules.json" or file.match(_TEXT_CONFIG)


def _refuse_default_prompt(checkpoint: Checkpoint) -> None:
    file = checkpoint.path / "config_sentence_transformers.json"
    name = read_json(file).get("default_prompt_name") if file.is_file() else None
    if name is not None:
        raise _refused(checkpoint, f"a default prompt ({name!r}) before each text")


def _refused(checkpoint: Checkpoint, what: str) -> ModelLoadError:
    return ModelLoadError(
        f"{checkpoint.name} asks for {what}, which engineroom does not do",
        why="embeddings are the last, the first or the mean hidden state of a causal model, normalised or not",
        fix="use sentence-transformers for this model",
    )
