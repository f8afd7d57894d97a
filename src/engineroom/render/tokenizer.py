"""The Transformers tokenizer behind our protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from engineroom.errors import ModelLoadError


class TransformersTokenizer:
    """``inner`` is the Hugging Face tokenizer."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    @cached_property
    def vocab_size(self) -> int:
        return max(len(self.inner), 1 + max(self.inner.get_vocab().values(), default=0))

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return () if self.inner.eos_token_id is None else (int(self.inner.eos_token_id),)

    @property
    def bos_token(self) -> str | None:
        return self.inner.bos_token

    @property
    def eos_token(self) -> str | None:
        return self.inner.eos_token

    @property
    def pad_token(self) -> str | None:
        return self.inner.pad_token

    @property
    def chat_template(self) -> str | Mapping[str, str] | None:
        return self.inner.chat_template

    @cached_property
    def added_tokens(self) -> Mapping[str, bool]:
        special = set(self.inner.all_special_tokens)
        added = self.inner.added_tokens_decoder.values()
        return {str(token): bool(token.special) or str(token) in special for token in added}

    def encode(self, text: str) -> list[int]:
        return list(self.inner.encode(text, add_special_tokens=False, verbose=False))

    def encode_plain(self, text: str) -> list[int]:
        return list(self.inner.encode(text, verbose=False))

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return self.inner.decode(
            list(token_ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )


def load_tokenizer(
    path: str | Path, *, trust_remote_code: bool = False, use_fast: bool = True
) -> TransformersTokenizer:
    """Loads the tokenizer of a model folder.

    Raises:
        ModelLoadError: its files are missing or broken.
    """
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer.from_pretrained
    try:
        return TransformersTokenizer(load(str(path), trust_remote_code=trust_remote_code, use_fast=use_fast))
    except Exception as error:  # whatever transformers and tokenizers raise on broken files
        raise ModelLoadError(
            f"the tokenizer of {str(path)!r} can't be loaded",
            why=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
            fix="download or save the model again, its tokenizer files included",
        ) from error
