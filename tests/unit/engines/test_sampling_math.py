"""From logits to tokens: each parameter against Transformers' own processors, and against its formula."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engineroom import SamplingParams
from engineroom.engines.huggingface.sampler import (
    Penalties,
    Row,
    Sampler,
    Truncation,
    token_logprobs,
)

CPU = torch.device("cpu")
GREEDY = SamplingParams(temperature=0.0)

sampling = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 5, 60, 400]),
    top_p=st.sampled_from([0.1, 0.7, 0.99, 1.0]),
    min_p=st.sampled_from([0.0, 0.1, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, -0.4]),
    logit_bias=st.dictionaries(st.integers(0, 599), st.floats(-5, 5), max_size=3),
    seed=st.integers(0, 99),
    logprobs=st.sampled_from([None, 0, 3]),
)


def logits(seed: int = 0, size: int = 64) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


def row(params: SamplingParams, prompt: list[int] | None = None, answer: list[int] | None = None) -> Row:
    made = Row(params, prompt or [0])
    made.tokens += answer or []
    return made


def shaped(scores: torch.Tensor, one: Row) -> torch.Tensor:
    penalties = Penalties.of([one], scores[None])
    assert penalties is not None
    return penalties(scores[None])[0]


def draw(sampler: Sampler, scores: torch.Tensor, one: Row) -> int:
    token_id = sampler(scores[None], [one])[0].token_id
    assert token_id is not None
    one.tokens.append(token_id)
    return token_id


@pytest.mark.parametrize(
    "size", [64, 1500]
)  # a vocabulary within the first window of top_p, and one beyond it
@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.2, 4),
    top_k=st.sampled_from([0, 1, 9, 63, 70, 700]),
    top_p=st.one_of(st.floats(0.05, 1), st.floats(0.95, 1)),
    min_p=st.floats(0, 0.9),
)
def test_the_drawn_distribution_is_transformers(
    size: int, seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    scores = logits(seed, size)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    warpers += [MinPLogitsWarper(min_p)] if min_p else []
    expected = warpers(torch.tensor([[0]]), scores[None].clone())[0].softmax(-1)
    cooled = (scores - scores.max())[None] / temperature
    weights = Truncation([params], CPU)(cooled)[0]
    torch.testing.assert_close(weights / weights.sum(), expected)


def test_equal_logits_at_the_edge_of_top_k_are_all_kept() -> None:
    cooled = torch.tensor([[0.0, 0.0, 0.0, -1.0]])
    weights = Truncation([SamplingParams(top_k=2)], CPU)(cooled)[0]
    assert (weights > 0).tolist() == [True, True, True, False]


@given(
    seed=st.integers(0, 1000),
    penalty=st.floats(0.3, 3),
    prompt=st.lists(st.integers(0, 63), min_size=1, max_size=9),
)
def test_the_repetition_penalty_is_transformers(seed: int, penalty: float, prompt: list[int]) -> None:
    params = SamplingParams(repetition_penalty=penalty, presence_penalty=1e-30)  # so that there is always one
    scores, answer = logits(seed), [3, 9, 3]
    expected = RepetitionPenaltyLogitsProcessor(penalty)(
        torch.tensor([[*prompt, *answer]]), scores[None].clone()
    )[0]
    torch.testing.assert_close(shaped(scores, row(params, prompt, answer)), expected)


def test_presence_and_frequency_follow_their_formula_over_the_answer_only() -> None:
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=-0.25)
    scores = logits()
    torch.testing.assert_close(shaped(scores, row(params, [1, 2, 2])), scores)
    expected = scores.clone()
    expected[5] -= 0.5 - 0.25 * 2
    expected[2] -= 0.5 - 0.25 * 1
    torch.testing.assert_close(shaped(scores, row(params, [1, 2, 2], [5, 2, 5])), expected)
    noted = Penalties([row(params, [1, 2, 2])], 64, CPU)
    for token_id in (5, 2, 5):
        noted.note(torch.tensor([token_id]))
    torch.testing.assert_close(noted(scores[None])[0], expected)


def test_bias_is_added_before_the_penalties_and_the_input_is_left_alone() -> None:
    params = SamplingParams(logit_bias={7: 10.0, 8: -100.0}, repetition_penalty=2.0)
    scores = torch.zeros(16)
    found = shaped(scores, row(params, [7]))
    assert (float(found[7]), float(found[8])) == (5.0, -100.0)
    assert not scores.any()


@pytest.mark.parametrize("temperature", [1e-6, 1e-40, 5e-324])
def test_the_coldest_temperatures_are_greedy_and_not_nan(temperature: float) -> None:
    scores = logits() * 100
    assert draw(Sampler(), scores, row(SamplingParams(temperature=temperature))) == int(scores.argmax())


def test_the_hottest_temperature_draws_from_all() -> None:
    sampler, one = Sampler(), row(SamplingParams(temperature=100.0, seed=1))
    assert len({draw(sampler, logits(), one) for _ in range(2000)}) == 64


@pytest.mark.parametrize("params", [{}, {"top_k": 3}, {"top_p": 0.9999}])
def test_draws_have_the_frequencies_of_the_distribution(params: dict[str, Any]) -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    sampler, one = Sampler(), row(SamplingParams(temperature=1.0, seed=4, **params))
    counts = torch.zeros(4)
    for _ in range(8000):
        counts[draw(sampler, scores, one)] += 1
    torch.testing.assert_close(counts / 8000, scores.softmax(-1), atol=0.02, rtol=0)
    assert counts[3] == 0


def test_the_largest_number_draws_the_last_token_that_can_be_drawn() -> None:
    one = row(SamplingParams(temperature=1.0))
    one.random = type("Last", (), {"random": lambda self: 1 - 2**-53})()
    assert draw(Sampler(), torch.tensor([0.0, 0.1, -torch.inf, -torch.inf]), one) == 1


def test_a_seed_is_a_source_of_its_own() -> None:
    def answer(**seed: Any) -> list[int]:
        sampler, one = Sampler(), row(SamplingParams(temperature=2.0, **seed))
        return [draw(sampler, logits(i), one) for i in range(32)]

    state = torch.get_rng_state()
    first = answer(seed=11)
    torch.rand(100)
    torch.set_rng_state(state)
    assert answer(seed=11) == first
    assert answer(seed=12) != first
    assert answer() != answer()
    assert torch.equal(state, torch.get_rng_state())


@given(st.lists(sampling, min_size=1, max_size=6), st.data())
def test_a_row_gets_alone_what_it_gets_among_others(
    params: list[SamplingParams], data: st.DataObject
) -> None:
    """Whoever joins and leaves beside it: every parameter, tokens and log-probabilities."""
    together = [row(p, [1, 2, 3]) for p in params]
    alone = [row(p, [1, 2, 3]) for p in params]
    sampler, own = Sampler(), [Sampler() for _ in params]
    for step in range(5):
        chosen = data.draw(st.lists(st.integers(0, len(params) - 1), min_size=1, unique=True))
        scores = {i: logits(1000 * step + i, 600) for i in chosen}
        found = sampler(torch.stack([scores[i] for i in chosen]), [together[i] for i in chosen])
        for i, drawn in zip(chosen, found, strict=True):
            expected = own[i](scores[i][None], [alone[i]])[0]
            assert drawn.token_id == expected.token_id
            assert (drawn.logprob is None) == (params[i].logprobs is None)
            if drawn.logprob is not None and expected.logprob is not None:
                assert drawn.logprob.logprob == pytest.approx(expected.logprob.logprob, abs=1e-5)
                assert [t for t, _ in drawn.logprob.top] == [t for t, _ in expected.logprob.top]
            for one in (together[i], alone[i]):
                assert expected.token_id is not None
                one.tokens.append(expected.token_id)


def test_a_row_that_is_not_a_number_gets_no_token_and_the_others_theirs() -> None:
    scores = torch.stack([logits(1), torch.full((64,), torch.nan), logits(2), torch.full((64,), torch.inf)])
    scores[2, 5] = -torch.inf  # that is a number: a token that can't come
    found = Sampler()(scores, [row(GREEDY), row(GREEDY), row(SamplingParams(seed=1)), row(GREEDY)])
    assert [drawn.token_id is None for drawn in found] == [False, True, False, True]
    assert found[0].token_id == int(logits(1).argmax())


def test_a_bitmask_leaves_what_its_bits_allow() -> None:
    mask = torch.zeros(2, 3, dtype=torch.int32)
    mask[0, 1] = 1 << 3  # token 35
    mask[1, 0] = -(2**31) | 1  # tokens 31 and 0
    scores = torch.stack([logits(1, 70), logits(2, 70)])
    for _ in range(20):
        found = Sampler()(scores, [row(GREEDY), row(SamplingParams(temperature=9.0))], mask)
        assert found[0].token_id == 35
        assert found[1].token_id in (0, 31)


def test_a_logprob_is_the_models_own_and_the_top_is_sorted() -> None:
    scores = logits()
    entry, other = token_logprobs(scores.expand(2, -1), [5, 6], [3, 0])
    expected = scores.log_softmax(-1)
    assert entry.logprob == pytest.approx(float(expected[5]))
    assert [value for _, value in entry.top] == pytest.approx(expected.topk(3).values.tolist())
    assert [token_id for token_id, _ in entry.top] == expected.topk(3).indices.tolist()
    assert other.logprob == pytest.approx(float(expected[6]))
    assert other.top == ()
