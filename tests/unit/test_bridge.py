"""Threads, loops and ends: nobody waits for ever, nothing is left behind."""

import asyncio
import contextlib
import gc
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engineroom import ChatModel, Reply, ScriptedEngine
from engineroom.bridge import Bridge
from engineroom.errors import ArgumentError, EngineClosedError

HI = "hi"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


async def never() -> AsyncIterator[int]:
    await asyncio.Event().wait()
    yield 0


@pytest.mark.usefixtures("no_thread_left")
async def test_a_stream_left_before_its_first_step_ends_at_once() -> None:
    bridge = Bridge()
    for steps in range(4):
        stream = bridge.astream(never)
        reading = asyncio.ensure_future(anext(stream))
        for _ in range(steps):
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(reading, 10)
        await stream.aclose()
    bridge.close()


@pytest.mark.usefixtures("no_thread_left")
def test_a_reader_that_sleeps_holds_the_engine_back() -> None:
    made = 0

    async def count() -> AsyncIterator[int]:
        nonlocal made
        while True:
            made += 1
            yield made

    bridge = Bridge()
    stream = bridge.stream(count)
    assert next(stream) == 1
    assert bridge.call(asyncio.sleep(0.05, made)) <= 300
    stream.close()
    bridge.close()


@pytest.mark.usefixtures("no_thread_left")
@pytest.mark.parametrize("method", ["chat", "stream_chat"])
def test_closing_ends_what_runs_and_what_waits_with_a_clear_error(method: str) -> None:
    reply = Reply("abc", pause_at=1)
    model = ChatModel({"max_concurrent": 1}, engine=ScriptedEngine([reply]))

    def ask() -> Any:
        return list(getattr(model, method)(HI))

    with ThreadPoolExecutor(4) as pool:
        running = pool.submit(ask)
        reply.paused.wait(10)
        queued = [pool.submit(ask) for _ in range(3)]
        while model._pipeline.admission.accepted < 4:  # they have all arrived
            model.health()
        model.close()
        for future in (running, *queued):
            with pytest.raises(EngineClosedError):
                future.result(10)


@pytest.mark.usefixtures("no_thread_left")
async def test_closing_ends_async_callers_too() -> None:
    reply = Reply("abc", pause_at=1)
    model = ChatModel(engine=ScriptedEngine([reply]))
    task = asyncio.create_task(model.achat(HI))
    await asyncio.to_thread(reply.paused.wait, 10)
    await asyncio.to_thread(model.close)
    with pytest.raises(EngineClosedError):
        await task
    await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.usefixtures("no_thread_left")
def test_a_forgotten_model_closes_itself() -> None:
    model = ChatModel(engine=ScriptedEngine(["x"]))
    gone = weakref.ref(model)
    model.chat(HI)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.usefixtures("no_thread_left")
def test_a_model_forgotten_on_its_own_loop_closes_itself() -> None:
    model: Any = ChatModel(engine=ScriptedEngine(["x"]))
    bridge = model._bridge
    model.itself = model  # only the collector can free it
    gone = weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        del model

        async def collect() -> None:
            gc.collect()

        with contextlib.suppress(EngineClosedError):  # the closing may overtake the answer
            bridge.call(collect())
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.usefixtures("no_thread_left")
def test_an_error_in_the_arguments_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_CONCURRENT", "many")
    with pytest.raises(ArgumentError, match="MAX_CONCURRENT"):
        ChatModel(engine=ScriptedEngine(["x"]))
    monkeypatch.setenv("MAX_CONCURRENT", "3")
    with ChatModel(engine=ScriptedEngine(["x"])) as model:
        assert model._pipeline.admission.limit == 3


def test_an_engine_that_exits_takes_no_loop_with_it() -> None:
    class Exiting(ScriptedEngine):
        async def score(self, prompts: Any) -> list[float]:
            raise SystemExit(3)

    with ChatModel(engine=Exiting(scorer=len)) as model:
        with pytest.raises(SystemExit):
            model.get_scores(["x"])
        assert model.get_scores([]) == []


def test_a_forked_child_is_told_and_can_leave() -> None:
    done = run(
        "import os\n"
        "from engineroom import ChatModel, ScriptedEngine\n"
        "from engineroom.errors import EngineClosedError\n"
        "model = ChatModel(engine=ScriptedEngine(['x']))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    for ask in (lambda: model.chat('hi'), lambda: list(model.stream_chat('hi'))):\n"
        "        try: ask()\n"
        "        except EngineClosedError as error: print(error.what, flush=True)\n"
        "    model.close()\n"
        "else:\n"
        "    os.waitpid(child, 0)\n"
        "    print(model.chat('hi')[0].response_text)\n"
    )
    assert done.stdout == "this model belongs to the process that made it\n" * 2 + "x\n", done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    "setup",
    [
        "model = ChatModel(engine=ScriptedEngine(['x'])); model.chat('hi')",
        "model = ChatModel(engine=ScriptedEngine(['x'], context_length=10**6)); model.chat('hi' * 20_000)",
        "model = ChatModel(engine=ScriptedEngine(['xyz'])); s = model.stream_chat('hi'); next(s)",
        pytest.param("model = ChatModel(); model.chat('hi', max_new_tokens=2)", marks=pytest.mark.slow),
        pytest.param("model = ChatModel(); s = model.stream_chat('hi'); next(s)", marks=pytest.mark.slow),
    ],
)
def test_a_script_that_does_not_close_ends_quietly(setup: str) -> None:
    done = run(f"from engineroom import ChatModel, Reply, ScriptedEngine\n{setup}\nprint('done')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_sync_methods_on_the_models_own_loop_are_refused() -> None:
    with ChatModel(engine=ScriptedEngine(["x"])) as model:

        async def inside() -> None:
            with pytest.raises(RuntimeError, match="async twin"):
                model.chat(HI)
            with pytest.raises(RuntimeError, match="async twin"):
                next(model.stream_chat(HI))
            assert (await model.achat(HI))[0].response_text == "x"
            assert [piece async for piece in model.astream_chat(HI)] == ["x"]

        model._bridge.call(inside())
