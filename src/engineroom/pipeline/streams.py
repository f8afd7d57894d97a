"""Streams of deltas: several as one, and one as a whole answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from engineroom.errors import GenerationError
from engineroom.types import Delta, Response


def fold(deltas: Sequence[Delta]) -> Response:
    """One answer's deltas as a whole."""
    last = deltas[-1]
    if last.finish_reason is None or last.usage is None:
        raise GenerationError("the answer has no end", fix="report this as a bug")
    logprobs = [entry for delta in deltas if delta.logprobs is not None for entry in delta.logprobs]
    return Response(
        response_text="".join(delta.text for delta in deltas),
        response_length=last.usage.completion_tokens,
        prompt_length=last.usage.prompt_tokens,
        finish_reason=last.finish_reason,
        reasoning_text="".join(delta.text for delta in deltas if delta.channel == "reasoning"),
        token_ids=tuple(i for delta in deltas for i in delta.token_ids),
        logprobs=tuple(logprobs) if any(delta.logprobs is not None for delta in deltas) else None,
        prompt_logprobs=next((d.prompt_logprobs for d in deltas if d.prompt_logprobs is not None), None),
        cached_length=last.usage.cached_tokens,
        stop_string=last.stop_string,
    )


async def interleave(streams: Sequence[AsyncGenerator[Delta, None]]) -> AsyncGenerator[Delta, None]:
    """Items of several streams as they come. The first error ends all."""
    items: asyncio.Queue[Delta | BaseException | None] = asyncio.Queue(maxsize=64)

    async def drain(stream: AsyncGenerator[Delta, None]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    await items.put(item)
        except Exception as error:
            await items.put(error)
        else:
            await items.put(None)

    tasks = [asyncio.create_task(drain(stream)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            item = await items.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
