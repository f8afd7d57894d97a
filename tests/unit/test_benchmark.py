"""The load generator and its arithmetic, on the scripted engine and on a small server that can fail."""

import asyncio
import os
import random
import statistics
import subprocess
import sys
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import openai_server
from engineroom import ChatModel, ScriptedEngine
from engineroom.benchmark import (
    Distribution,
    EngineTarget,
    Family,
    Level,
    LevelResult,
    Plan,
    Result,
    ServerTarget,
    Span,
    run,
)
from engineroom.benchmark.load import send
from engineroom.benchmark.measurement import Record, measure
from engineroom.benchmark.plan import Task
from engineroom.benchmark.prompts import PromptMaker, Words, words_of
from engineroom.benchmark.target import Arrival
from engineroom.client import Server, ServerAddress
from engineroom.engines.scripted import Reply
from engineroom.errors import ArgumentError, GenerationError, ParameterError, RequestError, ServerError

LONG = "word " * 200
SMALL = Plan(
    levels=(Level(concurrency=3),), prompt=Span(60, 70), answer=Span(5, 9), requests=7, warmup=1, seed=1
)


async def engine_run(plan: Plan, script: Any = (LONG,), pid: int | None = None, **engine: Any) -> Result:
    with ChatModel(engine=ScriptedEngine(script, **engine)) as model:
        return await run(EngineTarget(model), plan, pid=pid)


async def server_run(plan: Plan, script: Any = (LONG,), faults: Any = (), **talent: Any) -> Result:
    with openai_server.running(list(script), **talent) as running:
        async with Server(ServerAddress.parse(running.url)) as server:
            target = ServerTarget(server)
            await target.prepare(plan)
            running.talent.faults += faults  # of the measured requests, not of the preparation
            return await run(_Prepared(target), plan)


class _Prepared:
    """A target that is prepared already."""

    def __init__(self, target: ServerTarget) -> None:
        self.name, self.engine, self.notes = target.name, target.engine, target.notes
        self.task, self.ask = target.task, target.ask

    async def prepare(self, plan: Plan) -> None:
        pass


# --- arithmetic -------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_quantiles_are_those_of_the_standard_library(values: list[float]) -> None:
    ours = Distribution.of(values)
    theirs = statistics.quantiles(values, n=100, method="inclusive")
    assert ours is not None
    assert (ours.p50, ours.p90, ours.p99) == pytest.approx((theirs[49], theirs[89], theirs[98]))
    assert ours.mean == pytest.approx(statistics.fmean(values))


@given(st.lists(st.tuples(st.floats(0, 1e3), st.integers(0, 5)), max_size=20))
def test_a_weight_is_so_many_values(pairs: list[tuple[float, int]]) -> None:
    each = [value for value, weight in pairs for _ in range(weight)]
    weighted, plain = Distribution.weighted(pairs), Distribution.of(each)
    if plain is None:
        assert weighted is None
    else:
        assert weighted is not None
        assert (weighted.p50, weighted.p90, weighted.p99) == (plain.p50, plain.p90, plain.p99)


def test_the_figures_of_a_level() -> None:
    def record(came: float, first: float, ended: float, **more: Any) -> Record:
        gaps = [(0.2, 1), (0.6, 2)]
        return Record(came, 4, first, ended, ended, 10, 4, gaps, **more)

    level = LevelResult(
        Level(concurrency=2),
        (record(0, 1, 2), record(1, 1.5, 4), record(0, 3, 9, error="ServerError: x")),
        duration=10.0, cpu=4.0, peak_memory=1,
    )  # fmt: skip
    assert (level.ttft and level.ttft.mean) == 0.75
    assert (level.end_to_end and level.end_to_end.mean) == 2.5
    assert (level.inter_token and level.inter_token.mean) == pytest.approx((0.2 + 2 * 0.3) / 3)
    assert (level.prompt_tokens, level.answer_tokens, level.asked_tokens) == (20, 8, 8)
    assert (level.answer_tokens_per_second, level.tokens_per_second) == (0.8, 2.8)
    assert (level.requests_per_second, level.answer_tokens_per_cpu_second) == (0.2, 2.0)
    assert level.errors == {"ServerError: x": 1}


@pytest.mark.parametrize(
    ("text", "span"), [("33", Span(33, 33)), (" 8-800 ", Span(8, 800)), ("1", Span(1, 1))]
)
def test_lengths(text: str, span: Span) -> None:
    assert Span.parse(text, "--prompt-tokens") == span
    assert Span.parse(str(span), "") == span


@pytest.mark.parametrize("text", ["", "0", "-3", "9-8", "1-", "a", "1.5", "1-2-3", "9" * 30])
def test_what_is_no_length(text: str) -> None:
    with pytest.raises(ArgumentError, match="--prompt-tokens"):
        Span.parse(text, "--prompt-tokens")


# --- prompts ----------------------------------------------------------------------------------------------------


async def test_prompts_have_the_wanted_length_to_the_token(demo: ChatModel) -> None:
    words = words_of(demo.tokenizer, random.Random(0))
    assert len(words.pieces) > 100

    async def count(text: str) -> int:
        return len(demo.render(text))

    maker = await PromptMaker.measured(words, count, count)
    lengths = (20, 33, 128, 900)
    assert [await count(await maker.text(random.Random(1), length)) for length in lengths] == list(lengths)
    assert await maker.text(random.Random(1), 33) != await maker.text(random.Random(2), 33)


async def test_where_tokens_can_not_be_counted_the_length_is_right_on_average() -> None:
    async def count(text: str) -> int:
        return 7 + sum(len(word) // 3 + 1 for word in text.split())

    chance = random.Random(3)
    maker = await PromptMaker.measured(Words(("a", "abcd", "abcdefgh")), count, None)
    lengths = [await count(await maker.text(chance, 100)) for _ in range(50)]
    assert statistics.fmean(lengths) == pytest.approx(100, rel=0.1)


# --- load -------------------------------------------------------------------------------------------------------


class Clockwork:
    """Gives out ``tokens`` tokens, ``each`` seconds apart, and keeps how many answers run at once."""

    name = engine = "clockwork"

    def __init__(self, tokens: int = 3, each: float = 0.01, fails: int = 0) -> None:
        self.notes: list[str] = []
        self.running = self.most = 0
        self._tokens, self._each, self._fails = tokens, each, fails

    async def prepare(self, plan: Plan) -> None:
        pass

    async def task(self, chance: random.Random, prompt_tokens: int, answer_tokens: int) -> Task:
        return Task("x", answer_tokens)

    async def ask(self, task: Task) -> AsyncGenerator[Arrival, None]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            yield Arrival(0, 10)
            for place in range(self._tokens):
                await asyncio.sleep(self._each)
                if self._fails and place == 1:
                    self._fails -= 1
                    raise GenerationError("a gear broke")
                yield Arrival(1)
        finally:
            self.running -= 1


def ignored(record: Record) -> None:
    pass


@pytest.mark.parametrize("concurrency", [1, 4, 50])
async def test_so_many_run_at_once(concurrency: int) -> None:
    target = Clockwork()
    tasks = [Task("x", 3)] * 12
    records = await send(target, tasks, Level(concurrency=concurrency), random.Random(0), None, ignored)
    assert target.most == min(concurrency, 12)
    assert len(records) == 12
    assert all(record.error is None and record.answer_tokens == 3 for record in records)


async def test_a_rate_waits_for_nobody_and_counts_from_when_a_request_was_due() -> None:
    target = Clockwork(tokens=2, each=0.1)
    records = await send(target, [Task("x", 2)] * 20, Level(rate=1000.0), random.Random(0), None, ignored)
    assert target.most > 10
    came = sorted(record.came for record in records)
    chance = random.Random(0)
    due = [0.0]
    while len(due) < 20:
        due.append(due[-1] + chance.expovariate(1000.0))
    assert came == due
    assert all(record.ttft is not None and record.ttft >= 0.1 for record in records)


async def test_what_fails_is_counted_and_the_others_go_on() -> None:
    result = await run(Clockwork(fails=2), Plan(levels=(Level(concurrency=2),), requests=6, warmup=0))
    (level,) = result.levels
    assert level.errors == {"GenerationError: a gear broke": 2}
    assert (len(level.answered), level.answer_tokens, result.failed) == (4, 12, True)


async def test_a_late_answer_is_left_and_counted() -> None:
    target = Clockwork(tokens=100, each=1.0)
    record = await measure(target, Task("x", 100), 0.0, 0.0, 0.05)
    assert record.error == "no end after 0.05 seconds"
    assert target.running == 0


async def test_tokens_of_a_piece_of_unknown_size_share_the_time() -> None:
    class Coarse(Clockwork):
        async def ask(self, task: Task) -> AsyncGenerator[Arrival, None]:
            yield Arrival(None)
            await asyncio.sleep(0.05)
            yield Arrival(None)
            yield Arrival(0, 10, 11)

    record = await measure(Coarse(), Task("x", 11), 0.0, 0.0, None)
    assert record.answer_tokens == 11
    ((seconds, count),) = record.inter_token()
    assert count == 10
    assert seconds >= 0.005


# --- an engine --------------------------------------------------------------------------------------------------


async def test_an_engine_is_asked_for_exact_lengths_and_tokens_are_counted_not_pieces() -> None:
    with ChatModel(engine=ScriptedEngine([Reply(LONG, chunk_size=4)])) as model:
        engine: Any = model.engine
        result = await run(EngineTarget(model), SMALL, pid=os.getpid())
        requests = engine.requests[1:]  # without the warm-up
    (level,) = result.levels
    assert len(level.records) == 7
    assert sum(len(prompt) for prompt, _ in requests) == level.prompt_tokens
    assert all(60 <= len(prompt) <= 70 for prompt, _ in requests)
    assert len({prompt.text for prompt, _ in requests}) == 7
    assert (
        level.answer_tokens == level.asked_tokens == sum(params.max_new_tokens or 0 for _, params in requests)
    )
    assert all(
        1 + sum(n for _, n in r.gaps) < r.answer_tokens for r in level.records
    )  # the first came with others
    assert level.cpu is not None
    assert level.peak_memory is not None
    assert level.peak_memory > 10 << 20


async def test_one_seed_one_workload_and_each_level_its_own_prompts() -> None:
    plan = Plan(levels=(Level(concurrency=1), Level(concurrency=2)), prompt=Span(60, 90), answer=Span(1, 5),
                requests=4, warmup=0, seed=5)  # fmt: skip
    asked: list[list[tuple[str, int | None]]] = []
    for _ in range(2):
        with ChatModel(engine=ScriptedEngine([LONG])) as model:
            engine: Any = model.engine
            await run(EngineTarget(model), plan)
            asked.append(sorted((prompt.text, params.max_new_tokens) for prompt, params in engine.requests))
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == 8


async def test_an_engines_failures_are_counted() -> None:
    replies = [Reply(LONG)] * 2 + [Reply("x", error=ValueError("no"))]
    plan = Plan(levels=(Level(concurrency=1),), prompt=Span(60, 60), answer=Span(9, 9), requests=4, warmup=0)
    (level,) = (await engine_run(plan, replies)).levels
    assert len(level.answered) == 2
    assert level.errors == {"GenerationError: the scripted engine failed on this request": 2}


@pytest.mark.parametrize(
    ("prompt", "answer", "says"),
    [
        (Span(100, 100), Span(29, 29), "are 129; the context has 128"),
        (Span(8, 100), Span(8, 28), "a prompt can't have 8 tokens"),
    ],
)
async def test_what_can_not_be_is_refused_before_anything_is_asked(
    prompt: Span, answer: Span, says: str
) -> None:
    plan = Plan(prompt=prompt, answer=answer)
    with ChatModel(engine=ScriptedEngine([LONG], context_length=128)) as model:
        engine: Any = model.engine
        with pytest.raises(ArgumentError, match=says):
            await run(EngineTarget(model), plan)
        assert engine.requests == []


def test_what_does_not_answer_is_not_measured() -> None:
    with ChatModel(engine=ScriptedEngine(scorer=lambda prompt: 1.0)) as model, pytest.raises(RequestError):
        EngineTarget(model)
    with ChatModel({"n": 2}, engine=ScriptedEngine()) as model, pytest.raises(ParameterError, match="n=2"):
        EngineTarget(model)


# --- a server ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("talent", [{}, {"counts_pieces": False}, {"tokenize": False}])
async def test_a_server_is_measured(talent: dict[str, Any]) -> None:
    result = await server_run(SMALL, **talent)
    (level,) = result.levels
    assert level.errors == {}
    assert level.answer_tokens == level.asked_tokens
    assert level.prompt_tokens == pytest.approx(65 * 7, abs=60 if talent.get("tokenize") is False else 35)
    assert level.inter_token is not None
    assert (level.cpu, level.peak_memory) == (None, None)
    assert ["/tokenize" in note for note in result.notes] == [True] * ("tokenize" in talent)


async def test_a_server_that_refuses_extras_ends_its_answers_where_it_likes() -> None:
    result = await server_run(SMALL, ["hi"], extras="refused")
    (level,) = result.levels
    assert level.errors == {}
    assert level.answer_tokens == 7 * 3 < level.asked_tokens
    assert "refuses ignore_eos" in result.notes[0]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("500", "the fan stands still"),
        ("cut", "broke"),
        ("garbage", "not JSON"),
        ("error event", "out of memory"),
        ("early end", "ended before"),
        ("silence", "no end after 0.5 seconds"),
    ],
)
async def test_a_servers_failures_are_counted(fault: str, says: str) -> None:
    plan = Plan(
        levels=SMALL.levels, prompt=Span(60, 60), answer=Span(9, 9), requests=6, warmup=0, timeout=0.5
    )
    (level,) = (await server_run(plan, faults=["", fault])).levels
    ((error, count),) = level.errors.items()
    assert says in error
    assert count == 1
    assert len(level.answered) == 5
    assert level.answer_tokens == 45


async def test_a_pause_is_seen_between_tokens() -> None:
    plan = Plan(prompt=Span(60, 60), answer=Span(9, 9), requests=2, warmup=0)
    (level,) = (await server_run(plan, faults=["pause"])).levels
    assert max(seconds for record in level.records for seconds, _ in record.gaps) > 0.5


async def test_a_server_that_does_not_count_can_not_be_measured() -> None:
    with pytest.raises(ServerError, match="does not count the tokens of a prompt"):
        await server_run(SMALL, usage=False)


async def test_a_servers_context_is_heeded() -> None:
    with pytest.raises(ArgumentError, match="the context has 100"):
        await server_run(Plan(prompt=Span(90, 90), answer=Span(20, 20)), context_length=100)


# --- resources --------------------------------------------------------------------------------------------------

_BUSY = """
import sys, time
block = bytearray(80 << 20)
print(flush=True); sys.stdin.readline()
end = time.process_time() + 0.3
while time.process_time() < end: pass
print(flush=True); sys.stdin.readline()
"""


def test_a_childs_time_and_memory_are_the_familys() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", _BUSY], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        with Family(os.getpid()) as family, Family(child.pid) as alone:
            child.stdin.write("\n")
            child.stdin.flush()
            child.stdout.readline()
        child.communicate("\n")
    assert 0.29 <= alone.cpu <= family.cpu
    assert 80 << 20 <= alone.peak_memory < family.peak_memory
    with pytest.raises(ArgumentError, match="--pid"):
        Family(child.pid)
