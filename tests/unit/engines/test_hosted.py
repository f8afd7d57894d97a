"""An engine under another interpreter: a virtual environment made here, with a scripted engine in it. No torch."""

import asyncio
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import engineroom
from engineroom import ChatModel, ScriptedEngine
from engineroom.config import parse_arguments
from engineroom.engines import registry
from engineroom.engines.base import BaseEngine
from engineroom.engines.hosted import HostedEngine, interpreter
from engineroom.engines.hosted import engine as hosted
from engineroom.engines.hosted.calls import CALLS, WINDOW
from engineroom.engines.hosted.codec import RemoteError
from engineroom.engines.pooling import Pooling
from engineroom.engines.registry import EngineSpec
from engineroom.engines.scripted import ByteTokenizer
from engineroom.errors import (
    ArgumentError,
    EngineClosedError,
    EngineDeadError,
    EngineError,
    EngineNotInstalledError,
    EngineStartError,
    GenerationError,
    ModelLoadError,
    ParameterError,
    UnsupportedError,
)
from engineroom.testing.machinery import RELEASE_BOUND, until

pytestmark = pytest.mark.timed


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of another environment. It has this one's libraries, but not engineroom, and played_engine."""
    folder = tmp_path_factory.mktemp("other")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "other.pth").write_text(f"{sysconfig.get_path('purelib')}\n{Path(__file__).parent}\n")
    return folder / "bin" / "python"


def make(
    python: Path | str, target: str = "Played", start_limit: float = 60, **arguments: Any
) -> HostedEngine:
    spec = EngineSpec("scripted", f"played_engine:{target}", python_argument="vllm_python")
    found = interpreter.inspect_interpreter("vllm_python", str(python), ())
    engine = HostedEngine(spec, found.path, parse_arguments(arguments), start_limit=start_limit)
    engine.tokenizer = ByteTokenizer()
    return engine


@pytest.fixture(scope="module")
def played(python: Path) -> Generator[ChatModel, None, None]:
    with ChatModel(engine=make(python, model_maxlen=9000)) as model:
        yield model


@pytest.fixture
def mortal(python: Path) -> Generator[ChatModel, None, None]:
    """A model for a test to kill."""
    with ChatModel(engine=make(python)) as model:
        yield model


def say(model: ChatModel, what: str, **options: Any) -> str:
    return model.chat(what, **options)[0].response_text


def process_of(model: ChatModel) -> psutil.Process:
    engine: Any = model.engine
    return psutil.Process(engine._process.pid)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Generator[Path, None, None]:
    """A folder for temporary files which no other test's engine uses meanwhile. Its path is short, as sockets want it."""
    with tempfile.TemporaryDirectory(prefix="room-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


# --- what goes over ---------------------------------------------------------------------------------------------------


def test_it_runs_elsewhere_and_takes_nothing_but_engineroom_along(played: ChatModel, python: Path) -> None:
    prefix, package, *path = say(played, "where").splitlines()
    assert prefix == str(python.parent.parent)
    assert Path(package).resolve() == Path(engineroom.__file__).parent
    assert Path(package).parent == Path(path[0])
    assert [file.name for file in Path(path[0]).iterdir()] == ["engineroom"]
    assert str(Path(engineroom.__file__).parent.parent) not in path
    assert "" not in path


def test_answers_are_those_of_the_engine_in_this_process(played: ChatModel) -> None:
    with ChatModel(engine=ScriptedEngine(context_length=9000)) as here:
        for text in ("hello", "¿Qué? 日本語 🙂", "a\x00b", ""):
            ask: dict[str, Any] = {"logprobs": 2, "max_new_tokens": 20}
            assert played.chat(text, **ask) == here.chat(text, **ask)
        assert list(played.stream_deltas("hello")) == list(here.stream_deltas("hello"))


def test_the_engines_own_facts_come_over(played: ChatModel) -> None:
    engine = played.engine
    assert (engine.name, engine.can_generate, engine.context_length, engine.max_concurrency) == (
        "scripted",
        True,
        9000,
        7,
    )
    assert dict(engine.capabilities) == dict(ScriptedEngine.capabilities)


def test_many_at_once(played: ChatModel) -> None:
    texts = [f"text {number} " * (number % 7 + 1) for number in range(64)]
    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(lambda text: say(played, text), texts)) == texts
    assert played.health() == engineroom.Health("ready")


def test_scores(python: Path) -> None:
    with ChatModel(engine=make(python, "Scorer")) as model:
        assert not model.engine.can_generate
        assert model.get_scores(["abc", "abcd"]) == [1.0, 4 / 3]
        with pytest.raises(engineroom.errors.RequestError):
            model.chat("hi")


async def test_every_method_of_an_engine_goes_over(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(python)
    await engine.start(lambda stage, share: None)
    assert (engine.pooling, engine.can_embed, engine.lacks) == (
        Pooling("mean", False, 77),
        False,
        {"images": "blind"},
    )
    assert await engine.embed([engineroom.Prompt((1, 2)), engineroom.Prompt((3,))]) == [
        (2.0, 0.5),
        (1.0, 0.5),
    ]
    monkeypatch.chdir(tmp_path)
    await engine.load_adapter("mine", Path("folder"))
    assert engine.adapters == {"mine": tmp_path / "folder"}
    with pytest.raises(ModelLoadError, match="no adapter in /nowhere"):
        await engine.load_adapter("bad", Path("/nowhere"))
    await engine.unload_adapter("mine")
    assert engine.adapters == {}
    await engine.flush_cache()
    assert engine.lacks == {"images": "blind", "flush_cache": "flushed"}
    with pytest.raises(ModelLoadError, match="no weights in /nowhere"):
        await engine.update_weights(Path("/nowhere"))
    await engine.sleep()
    assert engine.health().state == "sleeping"
    await engine.wake()
    assert engine.health().state == "ready"
    await engine.close()
    with pytest.raises(EngineClosedError):
        await engine.wake()


def test_whatever_a_base_engine_can_do_has_its_line() -> None:
    """A method that is added to the contract must not fall back to the base's refusal here."""
    own = set(vars(HostedEngine))
    above = {"chat", "stream_chat", "get_scores", "_front", "require"}
    methods = {
        name for name, member in vars(BaseEngine).items() if callable(member) or name == "from_arguments"
    }
    assert {name for name in methods if not name.startswith("__")} - above <= own
    assert set(CALLS) == {
        name for name in own & methods if asyncio.iscoroutinefunction(vars(HostedEngine)[name])
    }


def test_errors_are_the_same_on_this_side(played: ChatModel) -> None:
    with pytest.raises(
        ParameterError, match=r"seed=13 is not allowed\n  why: bad luck\n  fix: seed=14"
    ) as bad:
        say(played, "hi", seed=13)
    assert bad.value.parameter == "seed"
    with pytest.raises(UnsupportedError, match="seed is not supported by the played engine") as unsupported:
        say(played, "hi", seed=14)
    assert (unsupported.value.feature, unsupported.value.engines) == ("seed", ("lucky", "other"))
    with pytest.raises(GenerationError, match="the scripted engine failed on this request") as failed:
        say(played, "fail")
    assert isinstance(failed.value.__cause__, RemoteError)
    assert str(failed.value.__cause__) == "RuntimeError: deep down"
    with pytest.raises(EngineError, match=r"why: KeyError: 'who\?'") as stranger:
        say(played, "stranger")
    assert type(stranger.value) is EngineError
    assert say(played, "all is well") == "all is well"


def test_leaving_frees_the_place_in_any_phase(played: ChatModel) -> None:
    for text in ("wait", "long"):
        stream = played.stream_deltas(text)
        next(stream)
        assert played.health().running == 1
        stream.close()
        assert played.health().running == 0

    async def leave_at_once() -> None:
        engine: Any = played.engine
        for _ in range(20):
            task = asyncio.create_task(played.achat("wait"))
            while not engine._open:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(leave_at_once())
    until(lambda: played.health().running == 0, RELEASE_BOUND)  # the cancelled await returns a moment before
    assert played.health() == engineroom.Health("ready")
    assert say(played, "still here") == "still here"


def test_a_reader_who_dawdles_holds_the_engine_back(python: Path) -> None:
    """The engine makes no more than is read and what may be on its way."""

    async def dawdle() -> tuple[int, int]:
        engine = make(python)
        await engine.start(lambda stage, share: None)
        tokenizer = ByteTokenizer()

        def ask(text: str) -> Any:
            source = f"<|im_start|>user\n{text}<|im_end|>\n"
            prompt = engineroom.Prompt(tuple(tokenizer.encode(source)), source)
            return engine.generate(prompt, engineroom.SamplingParams(max_new_tokens=4000))

        slow = ask("long")
        first = await anext(slow)
        made = [item async for item in ask("made")]
        text = tokenizer.decode([i for c in made for i in c.token_ids], skip_special_tokens=True)
        ahead = int(text)
        whole = len(first.token_ids) + sum([len(chunk.token_ids) async for chunk in slow])
        await engine.close()
        return ahead, whole

    ahead, whole = asyncio.run(dawdle())
    assert ahead <= WINDOW + 1  # one waits to be sent
    assert whole == 2001


# --- life and death ---------------------------------------------------------------------------------------------------


def test_a_clean_end_leaves_nothing(python: Path, temporary: Path, no_thread_left: None) -> None:
    model = ChatModel(engine=make(python))
    process, child = process_of(model), psutil.Process(int(say(model, "child")))
    assert os.getsid(process.pid) == process.pid
    began = time.monotonic()
    model.close()
    assert time.monotonic() - began < 3
    assert not process.is_running()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert not list(temporary.iterdir())
    assert model.health().state == "closed"
    with pytest.raises(EngineClosedError):
        say(model, "hi")
    model.close()


def test_killed_in_mid_answer_everybody_is_told_within_two_seconds(mortal: ChatModel) -> None:
    child = psutil.Process(int(say(mortal, "child")))
    engine: Any = mortal.engine
    engine._process.meet_family()  # as it does when the engine is ready
    streams = [mortal.stream_deltas("wait") for _ in range(5)]
    for stream in streams:
        next(stream)
    process = process_of(mortal)
    killed = time.monotonic()
    process.kill()
    for stream in streams:
        with pytest.raises(EngineDeadError, match="killed by SIGKILL"):
            list(stream)
    assert time.monotonic() - killed < 2
    assert mortal.health().state == "dead"
    with pytest.raises(EngineDeadError):
        say(mortal, "hi")
    mortal.close()
    assert mortal.health().state == "closed"
    assert not process.is_running()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_host_that_dies_while_nobody_asks_is_known_to_be_dead(mortal: ChatModel) -> None:
    process_of(mortal).kill()
    until(lambda: mortal.health().state == "dead")
    with pytest.raises(EngineDeadError, match="killed by SIGKILL"):
        say(mortal, "hi")


def test_an_engine_that_dies_in_its_host_is_dead_here(mortal: ChatModel) -> None:
    with pytest.raises(EngineDeadError, match="the scripted engine died"):
        say(mortal, "die")
    assert mortal.health().state == "dead"
    with pytest.raises(EngineDeadError):
        say(mortal, "hi")


def test_last_words_are_quoted(mortal: ChatModel) -> None:
    with pytest.raises(EngineDeadError, match="why: I have had enough"):
        say(mortal, "leave")


def test_nonsense_on_the_wire_ends_it(mortal: ChatModel) -> None:
    with pytest.raises(EngineDeadError, match="a message claims"):
        say(mortal, "nonsense")
    mortal.close()


def test_closing_tells_those_who_wait(mortal: ChatModel) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(say, mortal, "wait")
        until(lambda: mortal.health().running == 1)
        mortal.close()
        assert type(waiting.exception(timeout=10)) is EngineClosedError


def test_a_host_that_hangs_is_killed(mortal: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "_CLOSE_PATIENCE", 0.5)
    monkeypatch.setattr(hosted, "_EXIT_PATIENCE", 0.5)
    process = process_of(mortal)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(say, mortal, "hang")
        until(lambda: mortal.health().running == 1)
        mortal.close()
        assert type(waiting.exception(timeout=10)) is EngineClosedError
    assert not process.is_running()


@pytest.mark.slow
@pytest.mark.parametrize("forked", [False, True])
def test_it_ends_when_its_parent_is_killed(python: Path, forked: bool) -> None:
    """A forked copy of the parent holds the wire open; the host must not take it for its parent."""
    script = textwrap.dedent(f"""
        import os, sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_hosted import make, say, process_of
        from engineroom import ChatModel
        model = ChatModel(engine=make({str(python)!r}))
        copy = os.fork() if {forked} else 0
        if {forked} and copy == 0:
            time.sleep(600)
        print(process_of(model).pid, copy, flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        host, copy = map(int, parent.stdout.readline().split())
        process = psutil.Process(host)
        parent.send_signal(signal.SIGKILL)
        try:
            process.wait(timeout=10)
        finally:
            if copy:
                os.kill(copy, signal.SIGKILL)


# --- the start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("raises", ModelLoadError, "no weights\n  why: they are gone\n  fix: look again"),
        ("killed", EngineStartError, "ended while it started\n  why: killed by SIGKILL"),
        ("leaves", EngineStartError, r"why: MemoryError: it was too much\n  fix: its process's log is /"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(
    python: Path, temporary: Path, how: str, error: type[Exception], says: str, no_thread_left: None
) -> None:
    running, stages = children(), []
    engine = make(python, "Broken", model_name_or_path=how)
    with pytest.raises(error, match=says):
        ChatModel(engine=engine, progress=lambda stage, share: stages.append((stage, share)))
    left = [path.name for path in temporary.glob("engineroom-host-*")]
    assert len(left) == (how != "raises")  # the log of the others is named, and kept
    assert how != "raises" or ("breaking", 0.5) in stages
    assert children() == running


def test_a_start_that_takes_too_long_is_given_up(python: Path) -> None:
    running = children()
    with pytest.raises(EngineStartError, match=r"not ready within 2 seconds(.|\n)*log is"):
        ChatModel(engine=make(python, "Broken", start_limit=2, model_name_or_path="hangs"))
    assert children() == running


def test_a_module_that_can_not_be_imported_there_is_named(python: Path) -> None:
    engine = make(python)
    setattr(engine, "_spec", EngineSpec("x", "no_such_module:X", python_argument="vllm_python"))  # noqa: B010
    with pytest.raises(EngineNotInstalledError, match="No module named 'no_such_module'"):
        ChatModel(engine=engine)


def program(folder: Path, text: str) -> str:
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


OLD = "echo 'engineroom:[[3, 9, 2], {}]'"


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("true", ArgumentError, "is not a Python interpreter\n  why: it says nothing"),
        ("echo usage: tool; exit 2", ArgumentError, "why: usage: tool"),
        (OLD, EngineNotInstalledError, r"is Python 3\.9\.2\n  why: engineroom needs 3\.11"),
        ("sleep 600 & sleep 600", EngineStartError, "did not answer within 0.5 seconds"),
    ],
)
def test_what_is_no_good_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: type[Exception], says: str
) -> None:
    monkeypatch.setattr(interpreter, "_LIMIT", 0.5 if "sleep" in text else 30)
    with pytest.raises(error, match=says):
        make(program(tmp_path, text))
    assert not [child for child in psutil.process_iter() if str(tmp_path) in " ".join(command(child))]


def test_a_path_that_leads_nowhere(python: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no such program"):
        make("/nowhere/python")
    with pytest.raises(ArgumentError, match=f"it is a folder\n  fix: vllm_python={python}"):
        make(python.parent.parent)


def test_a_library_that_is_missing_is_named_with_what_installs_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    python = tmp_path / "bin" / "python"
    with pytest.raises(
        EngineNotInstalledError, match=rf"no module .*vllm\n  fix: {python} -m pip install .*vllm"
    ):
        ChatModel({"infer_backend": "vllm", "vllm_python": str(python)})


def test_a_wrapper_that_starts_the_interpreter_will_do(python: Path, tmp_path: Path) -> None:
    with ChatModel(engine=make(program(tmp_path, f'"{python}" "$@"'))) as model:
        assert say(model, "where").startswith(str(python.parent.parent))
        host = psutil.Process(int(say(model, "pid")))
        assert host.pid != process_of(model).pid
    assert not host.is_running()


def test_an_argument_that_is_no_json_can_not_go_over(python: Path) -> None:
    with pytest.raises(ArgumentError, match="can't go to another Python environment"):
        make(python, vllm_config={"x": object()})


# --- where it is shown ------------------------------------------------------------------------------------------------


def test_the_registry_makes_it_where_an_interpreter_is_named(python: Path) -> None:
    arguments = parse_arguments({"infer_backend": "vllm", "vllm_python": str(python)})
    engine = registry.make(arguments)
    assert isinstance(engine, HostedEngine)
    assert engine.name == "vllm"
    assert dict(engine.capabilities) == dict(engineroom.engines.capabilities.CAPABILITIES["vllm"])
    assert engine.checkpoint is not None
    with pytest.raises(EngineStartError, match="was not started"):
        asyncio.run(engine.score([]))
    asyncio.run(engine.close())
    plain = registry.make(parse_arguments({"infer_backend": "scripted", "vllm_python": str(python)}))
    assert type(plain) is ScriptedEngine
    with pytest.raises(ArgumentError, match="runs in this environment"):
        HostedEngine.from_arguments(parse_arguments({"infer_backend": "scripted"}))


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and "engineroom.host" in command(child)
    ]
