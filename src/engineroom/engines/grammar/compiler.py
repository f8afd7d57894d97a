"""Compiles response formats for one tokenizer, in a process that can be ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from engineroom.errors import EngineError, EngineNotInstalledError, ParameterError, shown
from engineroom.params import ResponseFormat
from engineroom.types import Tokenizer

COMPILE_LIMIT = 20.0
"""Seconds for one format; with a vocabulary of 150,000 a large schema takes one or two."""

_START_LIMIT = 60.0
_CACHED = 64


@dataclass(frozen=True, slots=True)
class CompiledFormat:
    """A format as a GBNF text, and as xgrammar's compiled grammar, serialized."""

    text: str
    compiled: str


class FormatCompiler:
    """Used on one event loop. Its process starts with the first format, and ends with ``close``.

    Args:
        vocab_size: columns of the model's logits, which may be more than the tokenizer has ids.
        stop_token_ids: the model's own; a matcher is given those of its request.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_token_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._stop_token_ids = list(stop_token_ids)
        self._done: OrderedDict[ResponseFormat, CompiledFormat] = OrderedDict()
        self._pending: dict[ResponseFormat, asyncio.Task[CompiledFormat]] = {}
        self._worker: subprocess.Popen[str] | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    async def compile(self, form: ResponseFormat) -> CompiledFormat:
        """
        Raises:
            ParameterError: the format can't be kept to, does not parse, or takes too long.
            EngineNotInstalledError: xgrammar is not there.
        """
        if form in self._done:
            self._done.move_to_end(form)
            return self._done[form]
        if form not in self._pending:
            self._pending[form] = task = asyncio.create_task(self._compile(form), name="engineroom-grammar")
            task.add_done_callback(lambda _: self._pending.pop(form, None))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may end unheard
        return await asyncio.shield(self._pending[form])  # others may wait for it too

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        """Special tokens, which no format lets through: their text is left out of answers. Stop tokens are among them."""
        special = [
            self._tokenizer.encode(text)
            for text, is_special in self._tokenizer.added_tokens.items()
            if is_special
        ]
        return tuple(ids[0] for ids in special if len(ids) == 1)

    @cached_property
    def tokenizer_info(self) -> Any:
        """xgrammar's view of the tokenizer. Special tokens have no text in it."""
        check_installed()
        import xgrammar

        inner: Any = getattr(self._tokenizer, "inner", None)
        if inner is None:
            raise EngineError(
                "this tokenizer can't be used for response_format", why="it is not one of Transformers'"
            )
        info = xgrammar.TokenizerInfo.from_huggingface(
            inner, vocab_size=self._vocab_size, stop_token_ids=self._stop_token_ids or None
        )
        texts = list(info.decoded_vocab)
        for token_id in self.special_ids:
            if token_id < len(texts):
                texts[token_id] = b""
        return xgrammar.TokenizerInfo(
            texts, xgrammar.VocabType.RAW, vocab_size=self._vocab_size, stop_token_ids=self._stop_token_ids
        )

    def close(self) -> None:
        """Ends the process. What is being compiled fails."""
        self._closed = True
        self._end_worker()

    async def _compile(self, form: ResponseFormat) -> CompiledFormat:
        async with self._turn:
            answer = await self._ask(form)
        if "refused" in answer:
            raise ParameterError(
                f"response_format={shown(form.source or form.kind)} can't be kept to",
                why=answer["refused"],
                fix=f"correct the {_WORDS[form.kind]}, or leave it out",
                parameter="response_format",
            )
        self._done[form] = compiled = CompiledFormat(answer["text"], answer["compiled"])
        while len(self._done) > _CACHED:
            self._done.popitem(last=False)
        return compiled

    async def _ask(self, form: ResponseFormat) -> dict[str, str]:
        try:
            if self._worker is None or self._worker.poll() is not None:
                self._end_worker()
                await asyncio.wait_for(asyncio.to_thread(self._start_worker), _START_LIMIT)
            line = await asyncio.wait_for(asyncio.to_thread(self._exchange, form), COMPILE_LIMIT)
        except TimeoutError:
            self._end_worker()
            return {"refused": f"it is too complex: compiling it took more than {COMPILE_LIMIT:g} seconds"}
        except BaseException:
            self._end_worker()
            raise
        if not line:
            self._end_worker()
            return {
                "refused": "it is too complex: compiling it took too much memory, or failed inside xgrammar"
            }
        return json.loads(line)

    def _start_worker(self) -> None:
        """Starts the process and waits until it has its libraries, by compiling the simplest format."""
        info = self.tokenizer_info.serialize_json()
        if self._closed:
            return
        self._worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "engineroom.engines.grammar.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        )
        self._send(info)
        if not self._exchange(ResponseFormat("json_object")):
            raise EngineError(
                "the process that compiles response formats did not start", fix="python -c 'import xgrammar'"
            )

    def _exchange(self, form: ResponseFormat) -> str:
        """The worker's answer; empty if it has ended."""
        worker = self._worker
        if worker is None or worker.stdout is None:
            return ""
        try:
            self._send(json.dumps(asdict(form)))
            return worker.stdout.readline()
        except (BrokenPipeError, ValueError):  # it has ended; its pipes may be closed
            return ""

    def _send(self, line: str) -> None:
        if self._worker is not None and self._worker.stdin is not None:
            self._worker.stdin.write(line + "\n")
            self._worker.stdin.flush()

    def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                with contextlib.suppress(OSError):  # what was not sent yet
                    assert pipe is not None
                    pipe.close()


_WORDS = {
    "json_object": "format",
    "json_schema": "schema",
    "regex": "pattern",
    "choice": "choices",
    "grammar": "grammar",
}


def check_installed() -> None:
    """
    Raises:
        EngineNotInstalledError: xgrammar is not there.
    """
    if find_spec("xgrammar") is None:
        raise EngineNotInstalledError(
            "response_format needs xgrammar, which is not installed",
            fix="pip install 'engineroom[structured]'",
        )
