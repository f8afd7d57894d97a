"""The one bridge between synchronous callers, callers' event loops, and the loop that an engine lives on.

Every :class:`~engineroom.chat.ChatModel` owns one ``Bridge``: a daemon thread with an event loop. All engine work runs
there. A synchronous call waits for it; an asynchronous one awaits it from whatever loop the caller has.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
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
        self._process = os.getpid()
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while True:
            try:
                self._loop.run_forever()
            except (KeyboardInterrupt, SystemExit):
                continue  # asyncio lets these through, besides giving them to whoever waits for the task
            break
        self._loop.close()

    @property
    def closed(self) -> bool:
        return self._closed

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Starts the coroutine on the bridge's loop.

        Raises:
            EngineClosedError: the bridge was closed, or lives in the process that this one was forked from.
        """
        try:
            with self._lock:
                self._check_open()
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        except EngineClosedError:
            work.close()
            raise

    def _check_open(self) -> None:
        if os.getpid() != self._process:  # a fork copies no threads: a call would wait for ever
            raise EngineClosedError(
                "this model belongs to the process that made it",
                why="a forked process has a copy of its memory, and not its threads",
                fix="make the ChatModel in the process that uses it",
            )
        if self._closed:
            raise EngineClosedError("this model was closed", fix="make a new ChatModel")

    def _check_elsewhere(self) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a synchronous method was called on the model's own event loop; use its async twin"
            )

    def call_soon(self, action: Callable[[], object]) -> None:
        """Runs a function on the bridge's loop, soon; nothing, if that has ended. Of use in a signal's handler."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(action)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs the coroutine and waits. An interrupt in the waiting thread cancels it."""
        try:
            self._check_elsewhere()
        except RuntimeError:
            work.close()
            raise
        future = self.submit(work)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise _closed_meanwhile() from error
        except BaseException:
            future.cancel()
            raise

    async def acall(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits the coroutine from any loop. Cancelling the await cancels it."""
        if asyncio.get_running_loop() is self._loop:
            return await work
        try:
            return await asyncio.wrap_future(self.submit(work))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise _closed_meanwhile() from error

    def stream(self, source: Callable[[], AsyncIterator[T]]) -> Generator[T, None, None]:
        """Iterates over an async iterator from a plain thread. Leaving the generator closes the iterator."""
        self._check_elsewhere()
        pump = self._pump(source)
        item: T | _End | None = None
        try:
            while not isinstance(item := pump.items.get(), _End):
                pump.taken()
                yield item
            if item.error is not None:
                raise item.error
        finally:
            if not isinstance(item, _End):
                pump.cancel()
                with contextlib.suppress(queue.Empty):
                    while not isinstance(pump.items.get(timeout=_CLOSE_TIMEOUT), _End):
                        pass

    def astream(self, source: Callable[[], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
        """Iterates from any loop. Closing the generator closes the source before it returns.

        On the bridge's own loop it is the source itself: a server there pays nothing for each token.
        """
        return source() if asyncio.get_running_loop() is self._loop else self._astream(source)

    async def _astream(self, source: Callable[[], AsyncIterator[T]]) -> AsyncGenerator[T, None]:
        reader = _LoopReader(asyncio.get_running_loop())
        pump = self._pump(source, reader.notify)
        item: T | _End | None = None
        try:
            while not isinstance(item := await reader.get(pump.items), _End):
                pump.taken()
                yield item
            if item.error is not None:
                raise item.error
        finally:
            if not isinstance(item, _End):
                pump.cancel()
                while not isinstance(await reader.get(pump.items), _End):
                    pass

    def _pump(
        self, source: Callable[[], AsyncIterator[T]], notify: Callable[[], None] = lambda: None
    ) -> _Pump[T]:
        with self._lock:
            self._check_open()
            return _Pump(source, self._loop, notify)

    def close(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """Runs ``last``, cancels what still runs, stops the loop and joins the thread. May be called twice.

        Called on the bridge's own thread it returns at once, and the closing goes on behind it.
        """
        with self._lock:
            elsewhere = os.getpid() != self._process
            if self._closed or elsewhere:
                self._closed = True
                if last is not None:
                    last.close()
                return
            self._closed = True
            ending = asyncio.run_coroutine_threadsafe(self._shutdown(last), self._loop)
        if threading.current_thread() is self._thread:
            return
        try:
            ending.result(_CLOSE_TIMEOUT)
        finally:
            with contextlib.suppress(RuntimeError):  # it has stopped by itself
                self._loop.call_soon_threadsafe(self._loop.stop)
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
            self._loop.call_soon(self._loop.stop)


class _Pump(Generic[T]):
    """Moves items from an async iterator on the bridge's loop into a thread-safe queue, bounded by the reader.

    The last item is always an ``_End``, even if the pump is cancelled before its first step: readers may wait for it.
    """

    def __init__(
        self,
        source: Callable[[], AsyncIterator[T]],
        loop: asyncio.AbstractEventLoop,
        notify: Callable[[], None],
    ) -> None:
        self.items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._source = source
        self._loop = loop
        self._notify = notify
        self._ahead = 0
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        loop.call_soon_threadsafe(self._begin)

    def taken(self) -> None:
        """The reader took an item. Called on the reader's thread."""
        self._on_loop(self._free)

    def cancel(self) -> None:
        """The reader leaves. Called on the reader's thread."""
        self._on_loop(lambda: self._task is not None and self._task.cancel())

    def _on_loop(self, action: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            self._loop.call_soon_threadsafe(action)

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._end)

    def _free(self) -> None:
        self._ahead -= 1
        self._room.set()

    def _put(self, item: T | _End) -> None:
        self.items.put(item)
        self._notify()

    def _end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._put(_End(_closed_meanwhile()))
        else:
            self._put(_End(task.exception()))

    async def _run(self) -> None:
        async with contextlib.aclosing(_closable(self._source())) as items:
            async for item in items:
                self._ahead += 1
                self._put(item)
                while self._ahead >= _BUFFER:
                    self._room.clear()
                    await self._room.wait()


class _LoopReader:
    """Reads a thread-safe queue from an event loop without blocking it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready = asyncio.Event()

    def notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # the reader's loop may be closed by now
            self._loop.call_soon_threadsafe(self._ready.set)

    async def get(self, items: queue.SimpleQueue[T]) -> T:
        while True:
            self._ready.clear()
            try:
                return items.get_nowait()
            except queue.Empty:
                await self._ready.wait()


def _closed_meanwhile() -> EngineClosedError:
    return EngineClosedError("the model was closed before the answer's end", fix="make a new ChatModel")


async def _closable(iterator: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """The iterator as a generator; closing it closes the iterator, if that can be closed."""
    try:
        async for item in iterator:
            yield item
    finally:
        aclose = getattr(iterator, "aclose", None)
        if aclose is not None:
            await aclose()
