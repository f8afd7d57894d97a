"""One answer's chunks to deltas."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engineroom.parse.detokenizer import Detokenizer
from engineroom.parse.reasoning import ReasoningSplitter
from engineroom.parse.stops import StopStrings
from engineroom.types import Channel, Chunk, Delta, FinishReason, Tokenizer, TokenLogprob, Usage


class AnswerParser:
    """Folds the chunks of one answer into deltas. When ``finished``, further chunks must not be pushed.

    Args:
        tokenizer: decodes the ids.
        index: which of the answers this is.
        prompt_tokens: for the usage.
        stop: stop strings; the answer ends before the first.
        end_ids: ids that may end the answer; as its last token they count, but are no part of the text.
        thinking_tags: the model's tags around its thinking, or None.
        inside_thinking: the prompt ends within an open thinking block.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        index: int = 0,
        prompt_tokens: int = 0,
        stop: Sequence[str] = (),
        end_ids: Collection[int] = (),
        skip_special_tokens: bool = True,
        thinking_tags: tuple[str, str] | None = None,
        inside_thinking: bool = False,
    ) -> None:
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
        self._stops = StopStrings(stop)
        self._splitter = ReasoningSplitter(thinking_tags, inside=inside_thinking)
        self._hidden_ends = frozenset(end_ids) if skip_special_tokens else frozenset[int]()
        self._index = index
        self._prompt_tokens = prompt_tokens
        self._count = 0
        self._cached = 0
        self._begun = False
        self.finish_reason: FinishReason | None = None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    def push(self, chunk: Chunk) -> list[Delta]:
        """The deltas of this chunk: one for each channel its text touches, and always at least one."""
        if self._begun and chunk.finish_reason is None and len(chunk.token_ids) == 1:
            pieces = self._splitter.push(self._stops.push(self._detokenizer.push(chunk.token_ids[0])))
            if self._stops.found is None and len(pieces) < 2:
                self._count += 1
                return [self._plain(pieces, chunk)]
            return self._end(pieces, chunk, 1)
        pieces = list[tuple[Channel, str]]()
        used = 0
        for position, token_id in enumerate(chunk.token_ids):
            used += 1
            last = position == len(chunk.token_ids) - 1
            ends = last and chunk.finish_reason == "stop" and token_id in self._hidden_ends
            text = "" if ends else self._detokenizer.push(token_id)
            pieces += self._splitter.push(self._stops.push(text))
            if self._stops.found is not None:
                break
        return self._end(pieces, chunk, used)

    def _plain(self, pieces: list[tuple[Channel, str]], chunk: Chunk) -> Delta:
        """One token in the midst of an answer, as nearly all are."""
        channel, text = pieces[0] if pieces else ("answer", "")
        return Delta(text, self._index, channel, chunk.token_ids, chunk.logprobs, chunk.prompt_logprobs)

    def _end(self, pieces: list[tuple[Channel, str]], chunk: Chunk, used: int) -> list[Delta]:
        if self._stops.found is not None:
            self.finish_reason = "stop"
        self._count += used
        self._cached = max(self._cached, chunk.cached_tokens)
        if not self.finished and chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason
            pieces += self._last_text()
        if self.finished:
            pieces += self._splitter.flush()
        return self._deltas(pieces, chunk, used)

    def _last_text(self) -> list[tuple[Channel, str]]:
        """What detokeniser and stop strings held back. A stop string may still complete in it."""
        text = self._stops.push(self._detokenizer.flush())
        if self._stops.found is not None:
            self.finish_reason = "stop"
        return self._splitter.push(text + self._stops.flush())

    def _deltas(self, pieces: list[tuple[Channel, str]], chunk: Chunk, used: int) -> list[Delta]:
        merged = _merge(pieces) or [("answer", "")]
        first, last = 0, len(merged) - 1
        logprobs: tuple[TokenLogprob, ...] | None = (
            chunk.logprobs[:used] if chunk.logprobs is not None else None
        )
        usage = Usage(self._prompt_tokens, self._count, self._cached) if self.finished else None
        known = None if self._begun else Usage(self._prompt_tokens, 0, self._cached)
        self._begun = True
        return [
            Delta(
                text,
                index=self._index,
                channel=channel,
                token_ids=chunk.token_ids[:used] if place == first else (),
                logprobs=logprobs if place == first else None,
                prompt_logprobs=chunk.prompt_logprobs if place == first else None,
                finish_reason=self.finish_reason if place == last else None,
                usage=usage if place == last else None,
                prompt_usage=known if place == first else None,
                stop_string=self._stops.found if place == last else None,
            )
            for place, (channel, text) in enumerate(merged)
        ]


def _merge(pieces: list[tuple[Channel, str]]) -> list[tuple[Channel, str]]:
    merged: list[tuple[Channel, str]] = []
    for channel, text in pieces:
        if merged and merged[-1][0] == channel:
            merged[-1] = (channel, merged[-1][1] + text)
        else:
            merged.append((channel, text))
    return merged
