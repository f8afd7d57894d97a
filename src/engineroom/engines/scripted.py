"""A real engine with a script instead of weights: no torch, deterministic, public for anybody's tests.

>>> from engineroom import ChatModel, ScriptedEngine
>>> with ChatModel(engine=ScriptedEngine(["Hello!"])) as model:
...     model.chat("hi")[0].response_text
'Hello!'

Tokens are bytes, so that a character of several bytes spans several tokens, as with real tokenizers.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from engineroom.engines.base import BaseEngine, Health, HealthState, Progress
from engineroom.engines.capabilities import CAPABILITIES
from engineroom.errors import EngineClosedError, EngineDeadError, GenerationError
from engineroom.types import Chunk, FinishReason, Prompt, SamplingParams, Support, TokenLogprob

if TYPE_CHECKING:
    from engineroom.config import Arguments

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_PLAIN_ADDED = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_KEPT = 1000
_IM_END = 256 + _SPECIAL.index("<|im_end|>")

_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


class ByteTokenizer:
    """Ids 0–255 are bytes; above them come ChatML's special tokens and the usual thinking and tool tags."""

    added_tokens: Mapping[str, bool] = MappingProxyType(
        {**dict.fromkeys(_SPECIAL, True), **dict.fromkeys(_PLAIN_ADDED, False)}
    )
    vocab_size = 256 + len(_SPECIAL) + len(_PLAIN_ADDED)
    eos_token_ids = (_IM_END, 256)
    bos_token: str | None = None
    eos_token: str | None = "<|im_end|>"
    pad_token: str | None = "<|endoftext|>"

    def __init__(self, chat_template: str | None = _TEMPLATE) -> None:
        self.chat_template = chat_template
        self._ids = {text: 256 + place for place, text in enumerate((*_SPECIAL, *_PLAIN_ADDED))}
        self._texts = {token_id: text for text, token_id in self._ids.items()}
        self._added = re.compile(f"({'|'.join(map(re.escape, self._ids))})")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in self._added.split(text):
            if piece in self._ids:
                ids.append(self._ids[piece])
            else:
                ids += piece.encode("utf-8", errors="surrogatepass")
        return ids

    def encode_plain(self, text: str) -> list[int]:
        return self.encode(text)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        try:
            return bytes(token_ids).decode("utf-8", errors="replace")
        except ValueError:  # not all are bytes
            pieces = bytearray()
        for token_id in token_ids:
            if token_id < 256:
                pieces.append(token_id)
            elif not (skip_special_tokens and self.added_tokens[self._texts[token_id]]):
                pieces += self._texts[token_id].encode()
        return pieces.decode("utf-8", errors="replace")


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer.

    Attributes:
        text: what to say; an end token follows unless the token limit comes first.
        pause_at: number of tokens after which the engine waits for ``resume`` before it goes on.
        resume: the event that ends the pause.
        paused: set when the pause begins, so that a test can wait for it.
        error: raised instead of the end.
        die: the engine dies instead of ending.
        chunk_size: tokens per chunk.
    """

    text: str = ""
    pause_at: int | None = None
    resume: threading.Event = field(default_factory=threading.Event)
    paused: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    die: bool = False
    chunk_size: int = 1


Script: TypeAlias = "Iterable[str | Reply] | Callable[[Prompt, SamplingParams], str | Reply]"


class ScriptedEngine(BaseEngine):
    """Answers from a script: texts in turn (the last one again and again), or a function of prompt and parameters.

    Without a script it says the last user message again. With a ``scorer`` it is a reward model, and does not chat.
    ``requests`` keeps what was asked last, at least a thousand, ``cancelled`` counts answers that were left before their end.
    """

    name = "scripted"
    capabilities: Mapping[str, Support] = CAPABILITIES["scripted"]

    def __init__(
        self,
        script: Script | None = None,
        *,
        scorer: Callable[[Prompt], float] | None = None,
        context_length: int = 4096,
        max_concurrency: int = 256,
        chat_template: str | None = _TEMPLATE,
    ) -> None:
        self._bytes = self.tokenizer = ByteTokenizer(chat_template)
        self.context_length = context_length
        self.max_concurrency = max_concurrency
        self.generating_args = {}
        self.can_generate = scorer is None
        self.requests: list[tuple[Prompt, SamplingParams]] = []
        self.cancelled = 0
        self._answer = _player(script)
        self._score: Callable[[Prompt], float] = scorer or (lambda prompt: float(len(prompt)))
        self._state: HealthState = "starting"
        self._running = 0

    @classmethod
    def from_arguments(cls, arguments: Arguments) -> ScriptedEngine:
        return cls(context_length=arguments.model_maxlen or 4096)

    async def start(self, progress: Progress) -> None:
        progress("reading the script", 1.0)
        self._state = "ready"

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Chunk, None]:
        self._check_alive()
        self._keep(prompt, params)
        scripted = self._answer(prompt, params)
        reply = scripted if isinstance(scripted, Reply) else Reply(scripted)
        ids = [*self._bytes.encode(reply.text), _IM_END]
        limit = params.max_new_tokens or len(ids)
        stop = next((place for place, i in enumerate(ids, 1) if i in params.stop_token_ids), 0)  # 0: nowhere
        end = min(limit, stop or len(ids))
        done = 0
        reason: FinishReason | None = None
        left = True
        self._running += 1
        try:
            while reason is None:
                if done:
                    await asyncio.sleep(0)
                if reply.pause_at is not None and done >= reply.pause_at:
                    await self._pause(reply)
                self._check_alive()
                taken = tuple(ids[done : min(done + reply.chunk_size, end)])
                done += len(taken)
                if done in (stop, len(ids)) and (reply.error or reply.die):
                    self._fail(reply)
                reason = "stop" if done == stop or not taken else "length" if done == limit else None
                left = reason is None
                yield Chunk(taken, reason, None if params.logprobs is None else self._logprobs(taken, params))
        except Exception:
            left = False
            raise
        finally:
            self._running -= 1
            self.cancelled += left

    def _keep(self, prompt: Prompt, params: SamplingParams) -> None:
        """A server on this engine may live long."""
        self.requests.append((prompt, params))
        if len(self.requests) == 2 * _KEPT:
            del self.requests[:_KEPT]

    @staticmethod
    async def _pause(reply: Reply) -> None:
        if not reply.resume.is_set():
            reply.paused.set()
        while not reply.resume.is_set():
            await asyncio.sleep(0.001)

    def _fail(self, reply: Reply) -> None:
        if reply.die:
            self._state = "dead"
            raise EngineDeadError("the scripted engine died", fix="model.restart()")
        raise GenerationError("the scripted engine failed on this request") from reply.error

    @staticmethod
    def _logprobs(ids: Sequence[int], params: SamplingParams) -> tuple[TokenLogprob, ...]:
        """A script is certain: every token has probability 1."""
        return tuple(TokenLogprob(i, 0.0, ((i, 0.0),) if params.logprobs else ()) for i in ids)

    async def score(self, prompts: Sequence[Prompt]) -> list[float]:
        self._check_alive()
        return [self._score(prompt) for prompt in prompts]

    async def close(self) -> None:
        self._state = "closed"

    def health(self) -> Health:
        return Health(self._state, self._running)

    def _check_alive(self) -> None:
        if self._state == "dead":
            raise EngineDeadError("the scripted engine is dead", fix="model.restart()")
        if self._state == "closed":
            raise EngineClosedError("the scripted engine was closed", fix="make a new ChatModel")


def _player(script: Script | None) -> Callable[[Prompt, SamplingParams], str | Reply]:
    if script is None:
        return _echo
    if callable(script):
        return script
    replies = list(script)
    if not replies:
        raise ValueError("a script needs at least one reply")
    turn = iter(range(len(replies)))

    def play(prompt: Prompt, params: SamplingParams) -> str | Reply:
        return replies[next(turn, len(replies) - 1)]

    return play


def _echo(prompt: Prompt, params: SamplingParams) -> str:
    """The last user message, read back from the prompt's ChatML."""
    _, _, last = prompt.text.rpartition("<|im_start|>user\n")
    return last.partition("<|im_end|>")[0]
