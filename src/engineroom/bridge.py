"""The one bridge between synchronous callers, callers' event loops, and the loop that an engine lives on.

Every :class:`~engineroom.chat.ChatModel` owns one ``Bridge``: a daemon thread with an event loop. All engine work runs
there. A synchronous call waits for it; an asynchronous one awaits it from whatever loop the caller has.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from engineroom.errors import EngineClosedError

T = TypeVar("T")

_BUFFER = 256
"""Items that a stream may run ahead of a slow reader."""

_CLOSE_TIMEOUT = 30.0


class _End:
    """Ends a stream in its queue, with the error that ended it, if any."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Bridge:
    """A background event loop, and ways to it. Thread-safe."""

    def __init__(self, name: str = "engineroom") -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"{name}-loop", daemon=True)
        self._closed = False
        self._lock = threading.Lock()
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    @property
    def closed(self) -> bool:
        return self._closed

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Starts the coroutine on the bridge's loop."""
        with self._lock:
            if self._closed:
                work.close()
                raise EngineClosedError("this model was closed", fix="make a new ChatModel")
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs the coroutine and waits. An interrupt in the waiting thread cancels it."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "a synchronous method was called on the model's own event loop; await its async twin"
            )
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def acall(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits the coroutine from any loop. Cancelling the await cancels it."""
        if asyncio.get_running_loop() is self._loop:
            return await work
        return await asyncio.wrap_future(self.submit(work))

    def stream(self, source: Callable[[], AsyncIterator[T]]) -> Generator[T, None, None]:
        """Iterates over an async iterator from a plain thread. Leaving the generator closes the iterator."""
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a synchronous stream was read on the model's own event loop; use its async twin"
            )
        pump = _Pump(source, self._loop)
        future = self.submit(pump.run())
        try:
            while True:
                item = pump.items.get()
                if isinstance(item, _End):
                    if item.error is not None:
                        raise item.error
                    return
                pump.taken()
                yield item
        finally:
            if not future.done():
                future.cancel()
                _wait(pump.ended)

    async def astream(self, source: Callable[[], AsyncIterator[T]]) -> AsyncGenerator[T, None]:
        """Iterates from any loop. Closing the generator closes the source before it returns."""
        if asyncio.get_running_loop() is self._loop:
            iterator = source()
            try:
                async for item in iterator:
                    yield item
            finally:
                await _aclose(iterator)
            return
        reader = _LoopReader[T](asyncio.get_running_loop())
        pump = _Pump(source, self._loop, notify=reader.notify)
        future = self.submit(pump.run())
        try:
            while True:
                item = await reader.get(pump.items)
                if isinstance(item, _End):
                    if item.error is not None:
                        raise item.error
                    return
                pump.taken()
                yield item
        finally:
            if not future.done():
                future.cancel()
                await asyncio.get_running_loop().run_in_executor(None, _wait, pump.ended)

    def close(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """Runs ``last``, cancels what still runs, stops the loop and joins the thread. May be called twice."""
        with self._lock:
            if self._closed:
                if last is not None:
                    last.close()
                return
            self._closed = True
        ending = asyncio.run_coroutine_threadsafe(self._shutdown(last), self._loop)
        try:
            if threading.current_thread() is not self._thread:
                ending.result(_CLOSE_TIMEOUT)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            if threading.current_thread() is not self._thread:
                self._thread.join(_CLOSE_TIMEOUT)

    async def _shutdown(self, last: Coroutine[Any, Any, None] | None) -> None:
        try:
            if last is not None:
                await last
        finally:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._loop.shutdown_asyncgens()
            await self._loop.shutdown_default_executor()


class _Pump(Generic[T]):
    """Moves items from an async iterator on the bridge's loop into a thread-safe queue, bounded by the reader."""

    def __init__(
        self,
        source: Callable[[], AsyncIterator[T]],
        loop: asyncio.AbstractEventLoop,
        notify: Callable[[], None] = lambda: None,
    ) -> None:
        self.items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self.ended = threading.Event()
        self._source = source
        self._loop = loop
        self._notify = notify
        self._ahead = 0
        self._room = asyncio.Event()

    def taken(self) -> None:
        """The reader took an item. Called on the reader's thread."""
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            self._loop.call_soon_threadsafe(self._free)

    def _free(self) -> None:
        self._ahead -= 1
        self._room.set()

    def _put(self, item: T | _End) -> None:
        self.items.put(item)
        self._notify()

    async def run(self) -> None:
        iterator = self._source()
        end = _End()
        try:
            async for item in iterator:
                self._ahead += 1
                self._put(item)
                while self._ahead >= _BUFFER:
                    self._room.clear()
                    await self._room.wait()
        except asyncio.CancelledError:
            end = _End(EngineClosedError("the stream was closed before its end", why="the model was closed"))
            raise
        except Exception as error:
            end = _End(error)
        finally:
            try:
                await _aclose(iterator)
            finally:
                self._put(end)
                self.ended.set()


class _LoopReader(Generic[T]):
    """Reads a thread-safe queue from an event loop without blocking it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready = asyncio.Event()

    def notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # the reader's loop may be closed by now
            self._loop.call_soon_threadsafe(self._ready.set)

    async def get(self, items: queue.SimpleQueue[T | _End]) -> T | _End:
        while True:
            self._ready.clear()
            try:
                return items.get_nowait()
            except queue.Empty:
                await self._ready.wait()


async def _aclose(iterator: AsyncIterator[Any]) -> None:
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()


def _wait(ended: threading.Event) -> None:
    ended.wait(_CLOSE_TIMEOUT)
