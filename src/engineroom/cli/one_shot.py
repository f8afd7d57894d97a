"""One question, one answer: ``engineroom chat -p`` and piped input."""

from __future__ import annotations

import io
import os
import stat
import sys
from typing import Any

from engineroom.cli.console import print_json
from engineroom.cli.ending import DONE, INTERRUPTED
from engineroom.cli.loading import print_note
from engineroom.cli.request import read_stdin
from engineroom.cli.terminal.meter import tokens_per_second
from engineroom.cli.terminal.screen import Screen
from engineroom.cli.terminal.session import Session
from engineroom.errors import ArgumentError, EngineroomError
from engineroom.types import TokenLogprob


def read_prompt(prompt: str | None) -> str | None:
    """What to answer: ``-p`` with what is piped in behind it, or one of the two; None if the user is to type.

    Raises:
        ArgumentError: there is nothing in it, or it is not UTF-8.
    """
    piped = _piped(wanted=prompt is None)
    if prompt is None and piped is None:
        return None
    text = "\n\n".join(part for part in (prompt, piped and piped.strip("\n")) if part and part.strip())
    if not text:
        raise ArgumentError(
            "there is nothing to answer",
            why="the prompt is empty",
            fix='engineroom chat -p "What is 7 plus 5?"',
        )
    return text


def _piped(*, wanted: bool) -> str | None:
    """Standard input, if it is no terminal. Beside ``-p`` only a pipe or a file counts: a service's is neither."""
    if sys.stdin.isatty():
        return None
    return read_stdin() if wanted or _is_pipe_or_file() else None


def _is_pipe_or_file() -> bool:
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except io.UnsupportedOperation:  # a test's standard input
        return True
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def answer_once(session: Session, text: str) -> int:
    """Prints the answer as it comes. Ctrl-C ends it, and the program."""
    stopped = Screen().answer(session.ask(text), session.model.renderer.template.thinking_tags)
    _tell(session)
    return INTERRUPTED if stopped else DONE


def answer_as_json(session: Session, text: str, load_seconds: float) -> int:
    """Prints the answer as one JSON object, when it is whole."""
    logprobs: list[TokenLogprob] = []
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    for delta in session.ask(text):
        logprobs += delta.logprobs or ()
        prompt_logprobs = delta.prompt_logprobs or prompt_logprobs
    value = _whole(session, load_seconds)
    value |= {"logprobs": [_logprob(entry) for entry in logprobs]} if logprobs else {}
    value |= {"prompt_logprobs": [e and _logprob(e) for e in prompt_logprobs]} if prompt_logprobs else {}
    print_json(value)
    _tell(session)
    return DONE


def _whole(session: Session, load_seconds: float) -> dict[str, Any]:
    answer = session.messages[-1]
    prompt, completion = answer.prompt_tokens or 0, answer.completion_tokens or 0
    speed = tokens_per_second(answer)
    return {
        "text": answer.text,
        "reasoning": answer.reasoning,
        "finish_reason": answer.ended,
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
        "timings": {
            "load_seconds": round(load_seconds, 3),
            "first_token_seconds": _rounded(answer.first_token_seconds),
            "answer_seconds": _rounded(answer.seconds),
            "tokens_per_second": _rounded(speed),
        },
        "model": session.model.arguments.model_name_or_path,
        "engine": session.model.engine.name,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    top = [{"token_id": i, "logprob": value} for i, value in entry.top]
    return {"token_id": entry.token_id, "logprob": entry.logprob, "top": top}


def _tell(session: Session) -> None:
    """On stderr, what the answer itself does not say."""
    answer = session.last_answer
    if answer is not None and answer.ended == "length":
        where = "" if answer.text else " while it was still thinking"
        print_note(f"the answer was cut at the token limit{where}; max_new_tokens=… raises it")
    for notice in session.take_notices():
        print_note(notice.what if isinstance(notice, EngineroomError) else notice)
