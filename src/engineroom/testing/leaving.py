"""Leaving: a request that nobody waits for any more frees its slot, in whatever phase it is. The time is measured."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from engineroom.errors import RequestTimeoutError
from engineroom.testing.lab import ENDLESS, Lab
from engineroom.testing.machinery import RELEASE_BOUND
from engineroom.testing.models import CONTEXT, STORY

_LONG = "word " * (CONTEXT // 4)


class LeavingTests:
    """``health().running`` tells what is in the engine; that a slot is free is shown by who gets it."""

    def test_while_decoding(self, lab: Lab) -> None:
        subject = lab.tiny
        stream = subject.model.stream_deltas(STORY, **ENDLESS)
        next(stream)
        assert subject.model.health().running == 1
        stream.close()
        subject.until_idle(RELEASE_BOUND)
        subject.assert_answers_well()

    def test_while_the_prompt_is_read(self, lab: Lab) -> None:
        """The caller leaves in the moment in which the engine gets the request, so no token has been made."""
        subject = lab.tiny

        async def leave() -> None:
            entered = asyncio.Event()
            loop = asyncio.get_running_loop()
            subject.calls.entered = partial(loop.call_soon_threadsafe, entered.set)
            before = subject.calls.chunks
            task = asyncio.create_task(subject.model.achat(_LONG, **ENDLESS))
            await entered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            subject.until_idle(RELEASE_BOUND)
            assert subject.calls.chunks <= before + 2  # the whole answer has thousands

        try:
            asyncio.run(leave())
        finally:
            subject.calls.entered = lambda: None
        subject.assert_answers_well()

    def test_while_queued(self, lab: Lab) -> None:
        """It never reaches the engine."""
        subject = lab.narrow
        model = subject.model

        async def leave() -> None:
            running = model.astream_deltas(STORY, **ENDLESS)
            await anext(running)
            waiting = asyncio.create_task(model.achat(STORY, **ENDLESS))
            await subject.until_accepted(2)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await running.aclose()

        before = subject.calls.count
        asyncio.run(leave())
        subject.until_idle(RELEASE_BOUND)
        assert subject.calls.count == before + 1
        subject.assert_answers_well()

    def test_at_the_callers_deadline(self, lab: Lab) -> None:
        """Leaving when it has passed."""
        subject = lab.tiny

        async def wait_a_little() -> None:
            async with asyncio.timeout(0.2):
                await subject.model.achat(STORY, **ENDLESS)

        with pytest.raises(TimeoutError):
            asyncio.run(wait_a_little())
        subject.until_idle(RELEASE_BOUND)
        subject.assert_answers_well()

    def test_at_its_timeout_while_decoding(self, lab: Lab) -> None:
        """In mid-stream, whole or in pieces. What was made in time was handed out."""
        subject = lab.tiny
        if not subject.supports("timeout"):
            return  # refused, as the table says; see the proof of timeout
        pieces = subject.model.stream_deltas(STORY, timeout=0.5, **ENDLESS)
        next(pieces)
        with pytest.raises(RequestTimeoutError, match="tokens of the answer") as passed:
            list(pieces)
        assert passed.value.tokens > 0
        subject.until_idle(RELEASE_BOUND)
        with pytest.raises(RequestTimeoutError):
            subject.ask(timeout=0.2, **ENDLESS)
        subject.until_idle(RELEASE_BOUND)
        subject.assert_answers_well()

    def test_at_its_timeout_while_nobody_reads(self, lab: Lab) -> None:
        """A reader who dawdles keeps the slot no longer than the timeout."""
        subject = lab.tiny
        if not subject.supports("timeout"):
            return  # refused, as the table says; see the proof of timeout
        pieces = subject.model.stream_deltas(STORY, timeout=0.5, **ENDLESS)
        next(pieces)
        subject.until_idle(0.5 + RELEASE_BOUND)
        with pytest.raises(RequestTimeoutError):
            list(pieces)

    def test_at_its_timeout_while_the_prompt_is_read(self, lab: Lab) -> None:
        subject = lab.tiny
        if not subject.supports("timeout"):
            return  # refused, as the table says; see the proof of timeout
        with pytest.raises(RequestTimeoutError) as passed:
            subject.ask(_LONG, timeout=0.001, **ENDLESS)
        assert passed.value.tokens == 0
        subject.until_idle(RELEASE_BOUND)
        subject.assert_answers_well()

    def test_at_its_timeout_while_queued(self, lab: Lab) -> None:
        """It never reaches the engine, and gives its place to the next."""
        subject = lab.narrow
        if not subject.supports("timeout"):
            return  # refused, as the table says; see the proof of timeout
        model = subject.model

        async def wait_in_line() -> None:
            running = model.astream_deltas(STORY, **ENDLESS)
            await anext(running)
            with pytest.raises(RequestTimeoutError, match="waiting for its turn"):
                await model.achat(STORY, timeout=0.2, **ENDLESS)
            waiting = asyncio.create_task(model.achat(STORY, max_new_tokens=4, **ENDLESS))
            await subject.until_accepted(2)
            await running.aclose()
            assert (await waiting)[0].response_length == 4

        before = subject.calls.count
        asyncio.run(wait_in_line())
        subject.until_idle(RELEASE_BOUND)
        assert subject.calls.count == before + 2
        subject.assert_answers_well()

    def test_by_a_stop_string(self, lab: Lab) -> None:
        """The text ends above the engine, which must not go on for nobody."""
        subject = lab.tiny
        answer = subject.ask(stop=["e", "a", "i", "t", "s", " "], **ENDLESS)
        assert answer.finish_reason == "stop"
        subject.until_idle(RELEASE_BOUND)

    def test_slots_that_were_left_serve_the_next(self, lab: Lab) -> None:
        """As many endless answers as the engine runs at once; when all were left, a newcomer is served soon.

        An engine that goes on with them in secret has no slot for it, or is as slow as with all of them.
        """
        subject = lab.tiny
        model = subject.model
        slots = model.engine.max_concurrency

        async def leave_all() -> float:
            streams = [model.astream_deltas(STORY, **ENDLESS) for _ in range(slots)]
            await asyncio.gather(*(anext(stream) for stream in streams))
            await asyncio.gather(*(stream.aclose() for stream in streams))
            began = time.monotonic()
            assert (await model.achat(STORY, max_new_tokens=1, **ENDLESS))[0].response_length == 1
            return time.monotonic() - began

        assert asyncio.run(leave_all()) <= RELEASE_BOUND
        subject.until_idle(RELEASE_BOUND)
        subject.assert_answers_well()
