"""From logits to a token: each parameter against Transformers' own processors, and against its formula."""

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
from engineroom.engines.huggingface.logits import LogitsShaper, TokenSampler, token_logprob, truncate

CPU = torch.device("cpu")


def logits(seed: int = 0, size: int = 64) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.2, 4),
    top_k=st.integers(0, 70),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 0.9),
)
def test_the_drawn_distribution_is_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    scores = logits(seed)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    warpers += [MinPLogitsWarper(min_p)] if min_p else []
    expected = warpers(torch.tensor([[0]]), scores[None].clone())[0].softmax(-1)
    torch.testing.assert_close(truncate(scores / temperature, params).softmax(-1), expected)


def test_equal_logits_at_the_edge_of_top_k_are_all_kept() -> None:
    kept = truncate(torch.tensor([1.0, 1.0, 1.0, 0.0]), SamplingParams(top_k=2))
    assert kept.isfinite().tolist() == [True, True, True, False]


@given(seed=st.integers(0, 1000), penalty=st.floats(0.3, 3), prompt=st.lists(st.integers(0, 63), max_size=9))
def test_the_repetition_penalty_is_transformers(seed: int, penalty: float, prompt: list[int]) -> None:
    shaper = LogitsShaper(SamplingParams(repetition_penalty=penalty), prompt, CPU)
    answer = [3, 9, 3]
    for token_id in answer:
        shaper.add(token_id)
    scores = logits(seed)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(
        torch.tensor([[*prompt, *answer]]), scores[None].clone()
    )[0]
    torch.testing.assert_close(shaper(scores), expected)


def test_presence_and_frequency_follow_their_formula_over_the_answer_only() -> None:
    shaper = LogitsShaper(SamplingParams(presence_penalty=0.5, frequency_penalty=-0.25), [1, 2, 2], CPU)
    scores = logits()
    torch.testing.assert_close(shaper(scores), scores)
    for token_id in (5, 2, 5):
        shaper.add(token_id)
    expected = scores.clone()
    expected[5] -= 0.5 - 0.25 * 2
    expected[2] -= 0.5 - 0.25 * 1
    torch.testing.assert_close(shaper(scores), expected)


def test_bias_is_added_before_the_penalties_and_the_input_is_left_alone() -> None:
    params = SamplingParams(logit_bias={7: 10.0, 8: -100.0}, repetition_penalty=2.0)
    scores = torch.zeros(16)
    shaped = LogitsShaper(params, [7], CPU)(scores)
    assert (float(shaped[7]), float(shaped[8])) == (5.0, -100.0)
    assert not scores.any()


@pytest.mark.parametrize("temperature", [1e-6, 1e-40, 5e-324])
def test_the_coldest_temperatures_are_greedy_and_not_nan(temperature: float) -> None:
    scores = logits() * 100
    sampler = TokenSampler(SamplingParams(temperature=temperature), CPU)
    assert sampler(scores) == int(scores.argmax())


def test_the_hottest_temperature_draws_from_all() -> None:
    sampler = TokenSampler(SamplingParams(temperature=100.0, seed=1), CPU)
    assert len({sampler(logits()) for _ in range(2000)}) == 64


def test_draws_have_the_frequencies_of_the_distribution() -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    sampler = TokenSampler(SamplingParams(temperature=1.0, seed=4), CPU)
    counts = torch.zeros(4)
    for _ in range(8000):
        counts[sampler(scores)] += 1
    torch.testing.assert_close(counts / 8000, scores.softmax(-1), atol=0.02, rtol=0)
    assert counts[3] == 0


def test_a_seed_is_a_generator_of_its_own() -> None:
    def draw(**seed: Any) -> list[int]:
        sampler = TokenSampler(SamplingParams(temperature=2.0, **seed), CPU)
        return [sampler(logits(i)) for i in range(32)]

    state = torch.get_rng_state()
    first = draw(seed=11)
    torch.rand(100)
    torch.set_rng_state(state)
    assert draw(seed=11) == first
    assert draw(seed=12) != first
    assert draw() != draw()
    assert torch.equal(state, torch.get_rng_state())


def test_a_logprob_is_the_models_own_and_the_top_is_sorted() -> None:
    scores = logits()
    entry = token_logprob(scores, 5, 3)
    expected = scores.log_softmax(-1)
    assert entry.logprob == pytest.approx(float(expected[5]))
    assert [value for _, value in entry.top] == pytest.approx(expected.topk(3).values.tolist())
    assert [token_id for token_id, _ in entry.top] == expected.topk(3).indices.tolist()
    assert token_logprob(scores, 5, 0).top == ()
