"""Many requests in one forward pass: each gets what it gets alone, whoever joins, leaves and takes room beside it."""

import asyncio
import random
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_models
from engineroom import ChatModel, SamplingParams
from engineroom import demo as shipped
from engineroom.arguments import Arguments
from engineroom.checkpoint import Checkpoint
from engineroom.config import parse_arguments
from engineroom.engines.huggingface import scheduler
from engineroom.engines.huggingface.batch import Span
from engineroom.engines.huggingface.batcher import Batcher
from engineroom.engines.huggingface.extents import GRANULE, Extent, Extents
from engineroom.engines.huggingface.kv_cache import KVCache
from engineroom.engines.huggingface.loaded import LoadedModel
from engineroom.engines.huggingface.loader import Loader
from engineroom.engines.huggingface.ragged import RaggedModel
from engineroom.engines.huggingface.sequence import Outcome, Sequence
from engineroom.errors import PromptTooLongError
from engineroom.types import Chunk, Prompt

GREEDY = {"temperature": 0, "ignore_eos": True}


class Letters:
    """A mailbox without an event loop: the test reads it on the same thread."""

    def __init__(self) -> None:
        self.items: list[Outcome] = []

    @property
    def loop(self) -> Any:
        return self

    def call_soon_threadsafe(self, run: Callable[..., None], *arguments: Any) -> None:
        run(*arguments)

    def put(self, item: Outcome) -> None:
        self.items.append(item)

    @property
    def ids(self) -> list[int]:
        assert not [item for item in self.items if isinstance(item, Exception)]
        return [i for item in self.items if isinstance(item, Chunk) for i in item.token_ids]


def load(folder: Path, **arguments: Any) -> LoadedModel:
    parsed: Arguments = parse_arguments({"model_name_or_path": str(folder), **arguments})
    return Loader(parsed, Checkpoint.open(parsed)).load(lambda stage, share: None)


def memory(loaded: LoadedModel) -> KVCache:
    assert loaded.prefixes is not None
    return loaded.prefixes.cache


def make_batcher(loaded: LoadedModel) -> Batcher:
    assert isinstance(loaded.ragged, RaggedModel)
    return Batcher(loaded, loaded.ragged)


def ask(ids: list[int], **params: Any) -> Sequence:
    letters: Any = Letters()
    return Sequence(Prompt(tuple(ids), ""), SamplingParams(**{"temperature": 0.0, **params}), letters)


def answer(sequence: Sequence) -> list[int]:
    letters: Any = sequence.mailbox
    return letters.ids


def run(batcher: Batcher, limit: int = 10_000) -> None:
    with torch.inference_mode():
        for _ in range(limit):
            if not len(batcher):
                return
            batcher.step()
    raise AssertionError("requests are left over")


def assert_sound(batcher: Batcher) -> None:
    """The books are right: ranges don't overlap, and each belongs to a running request or a kept past."""
    planner, extents = batcher.scheduler, batcher.scheduler.cache.extents
    owned = [s.extent for s in planner.running] + [past.extent for past in planner.prefixes]
    assert all(s.extent is None for s in planner.waiting)
    assert sorted(map(id, owned)) == sorted(map(id, extents._taken))
    assert sum(extent.capacity for extent in extents._taken) == extents.used <= extents.size
    for one, other in zip(extents._taken, extents._taken[1:], strict=False):
        assert one.end <= other.start
    kept = {past for found in planner.prefixes._index.values() for past in found}
    assert kept <= set(planner.prefixes)
    for sequence in planner.running:
        assert sequence.extent is not None
        assert sequence.computed <= sequence.extent.capacity


class Reference:
    """Greedy answers of the bare model, each computed once."""

    def __init__(self, folder: Path) -> None:
        self._model = tiny_models.reference(folder)
        self._known: dict[tuple[int, ...], list[int]] = {}

    def __call__(self, ids: list[int], count: int) -> list[int]:
        known = self._known.setdefault(tuple(ids), [])
        if len(known) < count:
            with torch.inference_mode():
                prompt = torch.tensor([ids])
                options: dict[str, Any] = {"eos_token_id": None, "pad_token_id": tiny_models.PAD}
                whole = self._model.generate(
                    prompt, do_sample=False, max_new_tokens=max(count, 40), **options
                )
            known[:] = whole[0, len(ids) :].tolist()
        return known[:count]


@pytest.fixture(scope="module")
def reference(tiny_folder: Path) -> Reference:
    return Reference(tiny_folder)


@pytest.fixture(scope="module")
def roomy(tiny_folder: Path) -> LoadedModel:
    return load(tiny_folder)


@pytest.fixture(scope="module")
def narrow(tiny_folder: Path) -> LoadedModel:
    """A model whose memory holds 256 tokens: one long request, or a few short ones."""
    loaded = load(tiny_folder, hf_kv_cache_memory=256 * 512 / 2**30)
    assert memory(loaded).size == 256
    return loaded


# --- answers ------------------------------------------------------------------------------------------------------


def test_every_request_of_a_ragged_batch_is_generates(roomy: LoadedModel, reference: Reference) -> None:
    dice = random.Random(1)
    batcher = make_batcher(roomy)
    asked: list[tuple[Sequence, list[int], int]] = []
    with torch.inference_mode():
        for _ in range(40):  # one or two join between steps
            for _ in range(dice.randint(0, 2)):
                ids = [dice.randrange(1000) for _ in range(dice.choice([1, 2, 7, 33, 120, 200]))]
                count = dice.randint(1, 40)
                sequence = ask(ids, max_new_tokens=count)
                asked.append((sequence, ids, count))
                batcher.add(sequence)
            batcher.step()
            assert_sound(batcher)
    run(batcher)
    for sequence, ids, count in asked:
        assert answer(sequence) == reference(ids, count)


@pytest.mark.slow
def test_the_shipped_model_answers_32_as_it_answers_each(demo: ChatModel) -> None:
    questions = [f"What is {i} plus {2 * i}?" + " Be quick." * (i % 5) for i in range(32)]
    model = tiny_models.reference(Path(str(shipped.resolve("demo"))))
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda q: demo.chat(q, max_new_tokens=24, **GREEDY)[0].token_ids, questions))
    for question, ids in zip(questions, found, strict=True):
        prompt = torch.tensor([demo.render(question).token_ids])
        with torch.inference_mode():
            whole = model.generate(
                prompt, do_sample=False, max_new_tokens=24, eos_token_id=10**6, pad_token_id=tiny_models.PAD
            )
        assert list(ids) == whole[0, prompt.shape[1] :].tolist()


def test_a_seed_draws_alone_what_it_draws_among_31_others(tiny_folder: Path) -> None:
    options = {"max_new_tokens": 20, "ignore_eos": True}
    mine = [
        {"seed": 7, "temperature": 1.3},
        {"seed": 8, "temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2},
        {"seed": 9, "temperature": 2.0, "top_k": 40, "min_p": 0.01, "frequency_penalty": 0.5},
    ]
    with ChatModel({"model_name_or_path": str(tiny_folder)}) as model:
        alone = [model.chat("Tell me.", **one, **options)[0].token_ids for one in mine]
    with ChatModel({"model_name_or_path": str(tiny_folder)}) as model, ThreadPoolExecutor(32) as pool:
        others = [
            pool.submit(model.chat, "x" * i, temperature=1.0, max_new_tokens=5 + 2 * i, ignore_eos=True)
            for i in range(29)
        ]
        among = [pool.submit(model.chat, "Tell me.", **one, **options) for one in mine]
        assert [future.result()[0].token_ids for future in among] == alone
        assert len({len(future.result()[0].token_ids) for future in others}) > 20


def test_adapters_side_by_side(tiny_folder: Path, tmp_path: Path) -> None:
    paths = [tiny_models.lora(tiny_folder, tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]
    arguments = {"adapter_name_or_path": ",".join(map(str, paths)), "adapter_merge": False}
    with ChatModel({"model_name_or_path": str(tiny_folder), **arguments}) as model:

        def said(adapter: str | None) -> tuple[int, ...]:
            chosen = {"adapter": adapter} if adapter else {}
            return model.chat("Tell me.", max_new_tokens=12, **chosen, **GREEDY)[0].token_ids

        names = ["one", "two", None] * 4
        alone = {name: said(name) for name in (None, "one", "two")}
        assert len(set(alone.values())) == 3
        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(said, names)) == [alone[name] for name in names]


# --- memory -------------------------------------------------------------------------------------------------------


def test_more_than_fits_waits_and_those_that_came_last_give_way(
    narrow: LoadedModel, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "HEADROOM", 8)  # so that all start, and then need more
    given_up: list[Sequence] = []
    preempt = scheduler.Scheduler._preempt

    def noted(self: scheduler.Scheduler, sequence: Sequence) -> None:
        given_up.append(sequence)
        preempt(self, sequence)

    monkeypatch.setattr(scheduler.Scheduler, "_preempt", noted)
    batcher = make_batcher(narrow)
    asked = [([i] * 20, ask([i] * 20, max_new_tokens=70, prompt_logprobs=0)) for i in range(1, 9)]
    for _, sequence in asked:
        batcher.add(sequence)
    with torch.inference_mode():
        while len(batcher):
            batcher.step()
            assert_sound(batcher)
    assert given_up
    assert asked[0][1] not in given_up  # the first goes on, whatever happens
    for ids, sequence in asked:
        assert answer(sequence)[:40] == reference(ids, 40)
        assert len(answer(sequence)) == 70
        letters: Any = sequence.mailbox
        assert len(letters.items[0].prompt_logprobs) == 20


def test_a_request_as_long_as_the_memory_has_it_all(narrow: LoadedModel, reference: Reference) -> None:
    batcher = make_batcher(narrow)
    long, short = ask([5] * 216, max_new_tokens=40), ask([6] * 8, max_new_tokens=4)
    for sequence in (long, short):
        batcher.add(sequence)
    run(batcher)
    assert answer(long) == reference([5] * 216, 40)
    assert answer(short) == reference([6] * 8, 4)


def test_the_context_is_what_the_memory_holds(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ChatModel({"model_name_or_path": str(tiny_folder), "hf_kv_cache_memory": "64KiB"}) as model:
        assert model.engine.context_length == 128
        assert model.chat("hi", **GREEDY)[0].usage.total_tokens == 128
    assert "hf_kv_cache_memory" in caplog.text


@pytest.mark.parametrize(("prompt", "answer"), [(0, 4), (128, 1), (100, 29), (500, 1)])
async def test_what_can_never_fit_does_not_enter(tiny_folder: Path, prompt: int, answer: int) -> None:
    from engineroom.engines.huggingface import HuggingfaceEngine

    arguments = parse_arguments({"model_name_or_path": str(tiny_folder), "hf_kv_cache_memory": "64KiB"})
    engine = HuggingfaceEngine.from_arguments(arguments)
    await engine.start(lambda stage, share: None)
    try:
        with pytest.raises(PromptTooLongError, match="hf_kv_cache_memory"):
            await anext(engine.generate(Prompt((7,) * prompt, ""), SamplingParams(max_new_tokens=answer)))
        params = SamplingParams(temperature=0.0, max_new_tokens=28)
        assert len([chunk async for chunk in engine.generate(Prompt((7,) * 100, ""), params)]) == 28
    finally:
        await engine.close()


def test_a_size_may_have_a_unit() -> None:
    sizes = [
        parse_arguments({"hf_kv_cache_memory": size}).hf_kv_cache_memory for size in ("2GiB", "512MiB", 1.5)
    ]
    assert sizes == [2.0, 0.5, 1.5]


def test_what_a_failed_request_wrote_spoils_nobody(narrow: LoadedModel, reference: Reference) -> None:
    cache = memory(narrow)
    batcher = make_batcher(narrow)
    for place in range(3):
        bad = ask([9] * 40, max_new_tokens=30)
        batcher.add(bad)
        with torch.inference_mode():
            batcher.step()
            assert bad.extent is not None
            cache.keys[1][bad.extent.start : bad.extent.end] = torch.nan
            while len(batcher):
                batcher.step()
        letters: Any = bad.mailbox
        assert isinstance(letters.items[-1], Exception)
        good = [ask([i + place] * (30 + i), max_new_tokens=12) for i in range(1, 5)]
        for sequence in good:
            batcher.add(sequence)
        run(batcher)
        for i, sequence in enumerate(good, 1):
            assert answer(sequence) == reference([i + place] * (30 + i), 12)


def test_many_short_requests_that_come_and_leave_hold_nothing(narrow: LoadedModel) -> None:
    dice = random.Random(3)
    batcher = make_batcher(narrow)
    live: list[Sequence] = []
    with torch.inference_mode():
        for _ in range(600):
            sequence = ask(
                [dice.randrange(1000) for _ in range(dice.randint(1, 30))], max_new_tokens=dice.randint(1, 6)
            )
            batcher.add(sequence)
            live.append(sequence)
            if dice.random() < 0.5:
                dice.choice(live).cancelled = True
            batcher.step()
            live = [one for one in live if one in batcher.scheduler.requests]
            for one in live[:-4]:
                one.cancelled = True
    run(batcher)
    assert_sound(batcher)
    batcher.scheduler.prefixes.clear()
    cache = memory(narrow)
    assert (cache.extents.used, len(cache.extents)) == (0, 0)


# --- what was computed before -------------------------------------------------------------------------------------


class Reads:
    """Prompt tokens that went through the model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens = 0
        forward = RaggedModel.logits

        def counted(model: RaggedModel, spans: list[Span], cache: KVCache) -> list[torch.Tensor]:
            self.tokens += sum(len(span.token_ids) for span in spans)
            return forward(model, spans, cache)

        monkeypatch.setattr(RaggedModel, "logits", counted)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def test_the_next_turn_reads_what_is_new(roomy: LoadedModel, reference: Reference, reads: Reads) -> None:
    batcher, ids = make_batcher(roomy), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3] * 2
    for turn in range(8):
        ids = [*ids, *(100 + turn + i for i in range(9))]
        sequence = ask(ids, max_new_tokens=6)
        reads.tokens = 0
        batcher.add(sequence)
        run(batcher)
        assert answer(sequence) == reference(ids, 6)
        # Its own 9, and the last token of the answer before, which nothing followed yet; then 5 of the answer.
        assert reads.tokens <= (29 if turn == 0 else 10) + 5
        ids = [*ids, *answer(sequence)]
    assert len(batcher.scheduler.prefixes) == 1  # the conversation, once


def test_a_shared_beginning_is_read_once(roomy: LoadedModel, reference: Reference, reads: Reads) -> None:
    system = [(7 * i) % 1000 for i in range(100)]
    batcher = make_batcher(roomy)
    batcher.add(ask([*system[:20], 999], max_new_tokens=1))  # an earlier one that shares less
    run(batcher)
    reads.tokens = 0
    sequences = [ask([*system, i, i + 1, i + 2], max_new_tokens=3) for i in range(12)]
    batcher.add(sequences[0])
    with torch.inference_mode():
        batcher.step()
    for sequence in sequences[1:]:  # the first is still at it
        batcher.add(sequence)
    run(batcher)
    later = [ask([*system, i, i + 7], max_new_tokens=3) for i in range(5)]
    for sequence in later:
        batcher.add(sequence)
        run(batcher)
    for sequence in (*sequences, *later):
        assert answer(sequence) == reference(list(sequence.prompt.token_ids), 3)
    assert reads.tokens <= 100 + 17 * (3 + 2)


def test_an_answer_that_was_left_serves_the_next_turn(
    roomy: LoadedModel, reference: Reference, reads: Reads
) -> None:
    batcher, ids = make_batcher(roomy), list(range(200, 240))
    sequence = ask(ids, max_new_tokens=100)
    batcher.add(sequence)
    with torch.inference_mode():
        for _ in range(5):
            batcher.step()
    sequence.cancelled = True  # as a stop string does
    following = ask([*ids, *answer(sequence)[:4], 1, 2, 3], max_new_tokens=2)
    reads.tokens = 0
    batcher.add(following)
    run(batcher)
    assert answer(following) == reference(list(following.prompt.token_ids), 2)
    assert reads.tokens == 3 + 1


def test_what_one_adapter_computed_is_not_another_s(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = tiny_models.lora(tiny_folder, tmp_path / "one", 0)
    arguments = {"adapter_name_or_path": str(adapter), "adapter_merge": False}
    with ChatModel({"model_name_or_path": str(tiny_folder), **arguments}) as model:
        text = "The same long beginning for all of them. " * 2
        options = {"max_new_tokens": 6, **GREEDY}
        with_it = model.chat(text, adapter="one", **options)[0].token_ids
        without = model.chat(text, **options)[0].token_ids
    with ChatModel({"model_name_or_path": str(tiny_folder), **arguments}) as model:
        assert model.chat(text, **options)[0].token_ids == without
        assert model.chat(text, adapter="one", **options)[0].token_ids == with_it
    assert with_it != without


# --- whatever happens ---------------------------------------------------------------------------------------------

_HEADS = [[11, 12, 13, 14, 15, 16, 17, 18, 19, 20] * 2, list(range(300, 340)), [5]]

joining = st.tuples(
    st.just("join"), st.sampled_from(_HEADS), st.lists(st.integers(20, 24), max_size=12), st.integers(1, 40)
)
happening = st.one_of(
    joining,
    st.tuples(st.just("step")),
    st.tuples(st.just("cancel"), st.integers(0, 99)),
    st.tuples(st.just("evict")),
)


@settings(max_examples=25)
@given(happenings=st.lists(happening, min_size=5, max_size=60))
def test_whoever_joins_and_leaves_the_others_get_their_answers(
    happenings: list[tuple[Any, ...]], narrow: LoadedModel, reference: Reference
) -> None:
    """Beginnings are shared, room is short, requests leave in every state: against the bare model."""
    cache = memory(narrow)
    batcher = make_batcher(narrow)
    batcher.scheduler._chunk = 16
    asked: list[tuple[Sequence, list[int], int]] = []
    with torch.inference_mode():
        for what, *details in happenings:
            if what == "join":
                head, tail, count = details
                sequence = ask([*head, *tail], max_new_tokens=count)
                asked.append((sequence, [*head, *tail], count))
                batcher.add(sequence)
            elif what == "cancel" and asked:
                asked[details[0] % len(asked)][0].cancelled = True
            elif what == "evict":
                batcher.scheduler.prefixes.evict()
            else:
                batcher.step()
            assert_sound(batcher)
        run(batcher)
    for sequence, ids, count in asked:
        found = answer(sequence)
        assert found == reference(ids, count)[: len(found)]
        assert sequence.cancelled or len(found) == count
    batcher.scheduler.prefixes.clear()
    assert cache.extents.used == 0


@given(st.lists(st.tuples(st.sampled_from(["take", "give", "resize", "compact"]), st.integers(0, 300))))
def test_ranges_never_overlap_and_keep_what_is_in_them(actions: list[tuple[str, int]]) -> None:
    extents = Extents(1000)
    memory: list[int] = [0] * extents.size
    owned: list[Extent] = []

    def move(source: int, target: int, count: int) -> None:
        memory[target : target + count] = memory[source : source + count]

    def fill(extent: Extent) -> None:
        memory[extent.start : extent.end] = [id(extent)] * extent.capacity

    for action, number in actions:
        if action == "take" and number:
            extent = extents.allocate(number)
            if extent is not None:
                owned.append(extent)
                fill(extent)
        elif action == "give" and owned:
            extents.release(owned.pop(number % len(owned)))
        elif action == "resize" and owned and number:
            extent = owned[number % len(owned)]
            if extents.resize(extent, number):
                fill(extent)
        elif action == "compact":
            extents.compact(move)
            assert extents.allocate(extents.free) is not None or not extents.free
            if extents.free == 0 and extents._taken and extents._taken[-1] not in owned:
                extents.release(extents._taken[-1])
        for extent in owned:
            assert extent.start % GRANULE == extent.capacity % GRANULE == 0
            assert set(memory[extent.start : extent.end]) == {id(extent)}
        assert sum(extent.capacity for extent in owned) == extents.used <= extents.size


# --- waiting ------------------------------------------------------------------------------------------------------


def test_a_short_prompt_behind_a_long_one_gets_its_token_within_four_steps(roomy: LoadedModel) -> None:
    batcher = make_batcher(roomy)
    batcher.scheduler._chunk = 16
    running = ask([1, 2, 3], max_new_tokens=200)
    long, short = ask([4] * 250, max_new_tokens=2), ask([5] * 12, max_new_tokens=2)
    with torch.inference_mode():
        for sequence in (running, long):
            batcher.add(sequence)
            batcher.step()
        batcher.add(short)
        before, steps = len(answer(running)), 0
        while not answer(short):
            batcher.step()
            steps += 1
    assert steps < 4
    assert len(answer(running)) == before + steps  # and who was answering went on
    assert not answer(long)


async def test_all_results_of_a_step_come_with_one_call(tiny_folder: Path) -> None:
    """Waking an event loop costs more than a letter: 32 answers are no 32 calls."""
    from engineroom.engines.huggingface import HuggingfaceEngine

    engine = HuggingfaceEngine.from_arguments(parse_arguments({"model_name_or_path": str(tiny_folder)}))
    await engine.start(lambda stage, share: None)
    loop, calls = asyncio.get_running_loop(), 0
    call = loop.call_soon_threadsafe

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return call(*arguments, **options)

    async def one(i: int) -> int:
        params = SamplingParams(temperature=0.0, max_new_tokens=20)
        return len([chunk async for chunk in engine.generate(Prompt((i, 2, 3), ""), params)])

    loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
    try:
        assert await asyncio.gather(*(one(i) for i in range(1, 17))) == [20] * 16
    finally:
        loop.call_soon_threadsafe = call  # type: ignore[method-assign]
        await engine.close()
    assert calls <= 40


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """The models of this module are shared; each test leaves their memory empty."""
    yield
    for name in ("roomy", "narrow"):
        if name in request.fixturenames:
            loaded = request.getfixturevalue(name)
            loaded.prefixes.clear()
            for extent in tuple(memory(loaded).extents._taken):
                memory(loaded).release(extent, wipe=True)
