"""The inference thread: fair, and nobody's trouble is another's."""

import asyncio
import gc
import math
import threading
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from engineroom import ChatModel
from engineroom.engines.huggingface import sequence
from engineroom.engines.huggingface.batch import Span
from engineroom.engines.huggingface.kv_cache import KVCache
from engineroom.engines.huggingface.ragged import RaggedModel
from engineroom.engines.huggingface.thread import InferenceThread
from engineroom.errors import EngineClosedError, EngineDeadError, GenerationError

ENDLESS = {"temperature": 0, "ignore_eos": True}
POISON = 77  # an id that no chat template makes


class Steps:
    """Every forward pass of the engine, counted; a test may act before one."""

    def __init__(self) -> None:
        self.count = 0
        self.act: Callable[[int, tuple[int, ...]], None] = lambda count, ids: None


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    watched = Steps()
    forward = RaggedModel.logits

    def counted(self: RaggedModel, spans: list[Span], cache: KVCache) -> list[torch.Tensor]:
        watched.count += 1
        watched.act(watched.count, tuple(token_id for span in spans for token_id in span.token_ids))
        return forward(self, spans, cache)

    monkeypatch.setattr(RaggedModel, "logits", counted)
    return watched


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are read in pieces of 8 tokens, by models that are made after this."""
    monkeypatch.setitem(sequence.PREFILL_CHUNKS, "cpu", 8)


@pytest.fixture
def model(tiny_folder: Path) -> Generator[ChatModel, None, None]:
    with ChatModel({"model_name_or_path": str(tiny_folder)}) as model:
        yield model


def idle(model: ChatModel) -> None:
    """Waits until the thread has nothing to do: a request that it answers is behind all others' leavings."""
    model.chat("hi", max_new_tokens=1)
    while model.health().running:
        threading.Event().wait(0.001)


def test_leaving_while_decoding_frees_the_slot_within_one_step(model: ChatModel, steps: Steps) -> None:
    going, left = threading.Event(), threading.Event()

    def hold(count: int, ids: tuple[int, ...]) -> None:
        if count == 5:
            going.set()
            assert left.wait(10)

    steps.act = hold
    stream = model.stream_deltas("hi", **ENDLESS)
    next(stream)
    assert going.wait(10)  # the fifth step is under way when its reader leaves
    stream.close()
    left.set()
    steps.act = lambda count, ids: None
    idle(model)
    assert steps.count == 5 + 1  # and one for the request of `idle`


def test_leaving_while_the_prompt_is_read_frees_the_slot_within_one_step(
    small_chunks: None, model: ChatModel, steps: Steps
) -> None:
    going, left = threading.Event(), threading.Event()

    def hold(count: int, ids: tuple[int, ...]) -> None:
        if count == 3:
            going.set()
            assert left.wait(10)

    steps.act = hold

    async def leave() -> None:
        task = asyncio.create_task(model.achat("long " * 40, **ENDLESS))
        await asyncio.to_thread(going.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    model._bridge.call(asyncio.sleep(0))  # the cancellation has reached the engine
    left.set()
    steps.act = lambda count, ids: None
    length = len(model.render("hi"))
    idle(model)
    assert steps.count == 3 + math.ceil((length - 2) / 8)  # the last step takes up to 10


def test_one_that_waits_and_leaves_never_starts(tiny_folder: Path, steps: Steps) -> None:
    going, go_on = threading.Event(), threading.Event()

    def hold(count: int, ids: tuple[int, ...]) -> None:
        if count == 2:
            going.set()
            assert go_on.wait(10)

    with ChatModel({"model_name_or_path": str(tiny_folder), "max_concurrent": 1}) as model:
        steps.count, steps.act = 0, hold  # starting took some, too

        async def run() -> None:
            first = asyncio.create_task(model.achat("one", max_new_tokens=4, **ENDLESS))
            await asyncio.to_thread(going.wait, 10)
            second = asyncio.create_task(model.achat("two", max_new_tokens=4, **ENDLESS))
            while model._pipeline.admission.accepted < 2:
                await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            go_on.set()
            assert (await first)[0].response_length == 4

        asyncio.run(run())
        assert steps.count == 4
        assert model._pipeline.admission.accepted == 0


def test_a_long_prompt_does_not_hold_up_others(small_chunks: None, model: ChatModel, steps: Steps) -> None:
    seen: list[int] = []
    going, both = threading.Event(), threading.Event()

    def note(count: int, ids: tuple[int, ...]) -> None:
        seen.append(len(ids))
        if len(seen) == 3:
            going.set()
            assert both.wait(10)

    steps.act = note
    with ThreadPoolExecutor(2) as pool:
        short = pool.submit(model.chat, "hi", max_new_tokens=60, **ENDLESS)
        assert going.wait(10)
        long = pool.submit(model.chat, "long " * 35, max_new_tokens=1, **ENDLESS)
        while model._pipeline.admission.accepted < 2:
            threading.Event().wait(0.001)
        both.set()
        short.result(20)
        long.result(20)
    pieces = [size for size in seen[3:] if size > 1]
    assert len(pieces) > 3
    assert set(pieces[:-1]) == {
        1 + 8
    }  # each piece of the long prompt goes with a token of the short one's answer


def test_reading_in_chunks_changes_nothing(
    model: ChatModel, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "one two three " * 12
    ask = {"max_new_tokens": 6, "logprobs": 2, "prompt_logprobs": 2, **ENDLESS}
    whole = model.chat(text, **ask)[0]
    for size in (1, 7, 64):
        monkeypatch.setitem(sequence.PREFILL_CHUNKS, "cpu", size)
        monkeypatch.setattr(sequence, "PROMPT_LOGPROBS_CHUNK", size)
        with ChatModel({"model_name_or_path": str(tiny_folder)}) as other:
            parts = other.chat(text, **ask)[0]
        assert parts.token_ids == whole.token_ids
        for mine, theirs in zip(parts.prompt_logprobs[1:], whole.prompt_logprobs[1:], strict=True):  # type: ignore[index]
            assert mine is not None
            assert theirs is not None
            assert mine.token_id == theirs.token_id
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)
        assert len(parts.prompt_logprobs or ()) == parts.prompt_length
    with ChatModel({"model_name_or_path": str(tiny_folder), "use_kv_cache": False}) as uncached:
        other = uncached.chat(text, **ask)[0]
        assert other.token_ids == whole.token_ids
        assert [e and e.token_id for e in other.prompt_logprobs or ()] == [
            e and e.token_id for e in whole.prompt_logprobs or ()
        ]


@pytest.mark.parametrize("trouble", ["nan", "inf", "raise", "memory"])
def test_a_poisoned_request_fails_alone(
    model: ChatModel, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    questions = [f"question {i}" for i in range(6)]
    alone = [model.chat(q, max_new_tokens=10, **ENDLESS)[0].token_ids for q in questions]
    forward = RaggedModel.logits
    marked = ",".join(map(str, model.tokenizer.encode("poison")))

    def poisoned(self: RaggedModel, spans: list[Span], cache: KVCache) -> list[torch.Tensor]:
        bad = [marked in ",".join(map(str, span.token_ids)) for span in spans]
        if any(bad) and trouble == "raise":
            raise RuntimeError("a kernel failed")
        if any(bad) and trouble == "memory":
            raise torch.OutOfMemoryError("no memory for this one")
        spoilt = torch.nan if trouble == "nan" else torch.inf
        return [
            torch.full_like(logits, spoilt) if is_bad else logits
            for logits, is_bad in zip(forward(self, spans, cache), bad, strict=True)
        ]

    monkeypatch.setattr(RaggedModel, "logits", poisoned)
    with ThreadPoolExecutor(8) as pool:
        good = [pool.submit(model.chat, q, max_new_tokens=10, **ENDLESS) for q in questions]
        bad = [pool.submit(model.chat, "poison", **ENDLESS) for _ in range(2)]
        for future in bad:
            with pytest.raises(GenerationError):
                future.result(20)
        assert [future.result(20)[0].token_ids for future in good] == alone
    stream = model.stream_chat("poison", **ENDLESS)
    with pytest.raises(GenerationError):
        list(stream)
    assert model.health().state == "ready"


def test_an_exit_on_the_thread_ends_the_engine_and_everybody_knows(
    model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*args: Any, **options: Any) -> torch.Tensor:
        raise SystemExit

    monkeypatch.setattr(RaggedModel, "logits", leave)
    for _ in range(2):
        with pytest.raises(EngineDeadError):
            model.chat("hi")
    assert model.health().state == "dead"


@pytest.mark.slow
def test_threads_get_the_answers_that_they_get_alone(demo: ChatModel, demo_reward: ChatModel) -> None:
    questions = ["What is 7 plus 5?", "Who are you?", "Spell cat.", "hi"]
    sampled = {"temperature": 1.2, "top_p": 0.9, "max_new_tokens": 12}

    def ask(i: int) -> Any:
        question = questions[i % 4]
        if i % 3 == 0:
            return demo.chat(question, seed=i, **sampled)[0].response_text
        if i % 3 == 1:
            return "".join(demo.stream_chat(question, seed=i, **sampled))
        return demo_reward.get_scores([question, "thank you"])

    alone = [ask(i) for i in range(64)]
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(64))) == alone


@pytest.mark.usefixtures("no_thread_left")
def test_closing_in_the_middle_and_what_is_freed(tiny_folder: Path, steps: Steps) -> None:
    model = ChatModel({"model_name_or_path": str(tiny_folder)})
    weights = weakref.ref(model.engine.model)
    going = threading.Event()
    steps.act = lambda count, ids: going.set()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(model.chat, "hi", **ENDLESS)
        assert going.wait(10)
        model.close()
        with pytest.raises(EngineClosedError):
            asking.result(20)
    del asking
    gc.collect()
    assert weights() is None
    assert model.health().state == "closed"
    with pytest.raises(EngineClosedError):
        model.chat("hi")


def test_closing_during_a_beam_search_is_no_answer(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engineroom.engines.huggingface import beams

    model = ChatModel({"model_name_or_path": str(tiny_folder)})
    row, going, closed = beams._Shape.__call__, threading.Event(), threading.Event()

    def hold(self: Any, *args: Any) -> Any:
        going.set()
        assert closed.wait(10)
        return row(self, *args)

    monkeypatch.setattr(beams._Shape, "__call__", hold)
    with ThreadPoolExecutor(2) as pool:
        asking = pool.submit(model.chat, "hi", num_beams=3, ignore_eos=True)
        assert going.wait(10)
        closing = pool.submit(model.close)
        while model.health().state != "closed":
            threading.Event().wait(0.001)
        closed.set()
        with pytest.raises(EngineClosedError):
            asking.result(20)
        closing.result(20)


@pytest.mark.usefixtures("no_thread_left")
def test_closing_while_it_loads(tiny_folder: Path) -> None:
    from engineroom.bridge import Bridge
    from engineroom.config import parse_arguments
    from engineroom.engines.huggingface import HuggingfaceEngine

    engine = HuggingfaceEngine.from_arguments(parse_arguments({"model_name_or_path": str(tiny_folder)}))
    loading, go_on = threading.Event(), threading.Event()

    def hold(stage: str, share: float | None) -> None:
        loading.set()
        assert go_on.wait(10)

    bridge = Bridge()
    starting = bridge.submit(engine.start(hold))
    assert loading.wait(10)
    closing = bridge.submit(engine.close())
    while engine.health().state != "closed":
        threading.Event().wait(0.001)
    go_on.set()
    with pytest.raises(EngineClosedError):
        starting.result(20)
    closing.result(20)
    bridge.close()


def test_an_answer_that_ended_holds_no_memory(model: ChatModel) -> None:
    model.chat("hi", max_new_tokens=4)
    stream = model.stream_chat("hi", **ENDLESS)
    next(stream)
    stream.close()
    idle(model)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is DynamicCache]


def test_close_returns_when_the_thread_has_ended(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, ended = InferenceThread._run, threading.Event()

    def linger(self: InferenceThread) -> None:
        run(self)
        threading.Event().wait(0.3)  # its work is done, and it is still there
        ended.set()

    monkeypatch.setattr(InferenceThread, "_run", linger)
    ChatModel({"model_name_or_path": str(tiny_folder)}).close()
    assert ended.is_set()
