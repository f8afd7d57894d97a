"""The Transformers tokenizer behind our protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from engineroom.errors import ModelLoadError


class _AddedToken(Protocol):
    special: bool


class HuggingFaceTokenizer(Protocol):
    """What we use of ``transformers.PreTrainedTokenizerBase``, whose own annotations are incomplete."""

    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def bos_token(self) -> str | None: ...
    @property
    def eos_token(self) -> str | None: ...
    @property
    def pad_token(self) -> str | None: ...
    @property
    def unk_token_id(self) -> int | None: ...
    @property
    def chat_template(self) -> str | Mapping[str, str] | None: ...
    @property
    def all_special_tokens(self) -> Iterable[str]: ...
    @property
    def added_tokens_decoder(self) -> Mapping[int, _AddedToken]: ...
    def __len__(self) -> int: ...
    def get_vocab(self) -> Mapping[str, int]: ...
    def encode(self, text: str, *, add_special_tokens: bool = True, verbose: bool = True) -> list[int]: ...
    def decode(
        self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool
    ) -> str: ...


class TransformersTokenizer:
    """``inner`` is the Hugging Face tokenizer. Thread-safe where that one is the Rust kind."""

    def __init__(self, inner: HuggingFaceTokenizer) -> None:
        self.inner = inner
        special = set(inner.all_special_tokens)
        self._added = {
            str(token): bool(token.special) or str(token) in special
            for token in inner.added_tokens_decoder.values()
        }
        self._texts: dict[tuple[int, bool], str] = {}  # of single tokens: most of what a stream asks for
        self._vocab_size = max(len(inner), 1 + max(inner.get_vocab().values(), default=0))
        # A first call drops the truncation and padding that tokenizer.json may ask for. That changes the tokenizer,
        # which must not happen while another thread is reading it ("Already borrowed", huggingface/tokenizers #537).
        self.encode_plain("")

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return () if self.inner.eos_token_id is None else (self.inner.eos_token_id,)

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

    @property
    def added_tokens(self) -> Mapping[str, bool]:
        return self._added

    def encode(self, text: str) -> list[int]:
        return list(self.inner.encode(text, add_special_tokens=False, verbose=False))

    def encode_plain(self, text: str) -> list[int]:
        return list(self.inner.encode(text, verbose=False))

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        if len(token_ids) != 1:
            return self._decoded(token_ids, skip_special_tokens)
        key = (token_ids[0], skip_special_tokens)
        text = self._texts.get(key)
        if text is None:
            text = self._texts[key] = self._decoded(token_ids, skip_special_tokens)
        return text

    def _decoded(self, token_ids: Sequence[int], skip_special_tokens: bool) -> str:
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

    load = cast("Callable[..., HuggingFaceTokenizer]", AutoTokenizer.from_pretrained)  # pyright: ignore[reportUnknownMemberType]
    try:
        return TransformersTokenizer(load(str(path), trust_remote_code=trust_remote_code, use_fast=use_fast))
    except Exception as error:  # whatever transformers and tokenizers raise on broken files
        raise ModelLoadError(
            f"the tokenizer of {str(path)!r} can't be loaded",
            why=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
            fix="download or save the model again, its tokenizer files included",
        ) from error
