"""Sampling parameters: honoured or refused by name, with what is allowed."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineroom.errors import ParameterError
from engineroom.types import SamplingParams


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", math.nan),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 3),
        ("top_p", 0),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -3),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {1: 101}),
        ("logit_bias", [1]),
        ("seed", -1),
        ("seed", 2**63),
        ("n", 0),
        ("n", 10**9),
        ("max_new_tokens", 0),
        ("max_new_tokens", -5),
        ("max_length", 0),
        ("stop", ""),
        ("stop", [""]),
        ("stop", [1]),
        ("stop", ["x"] * 65),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [2**63]),
        ("ignore_eos", "yes"),
        ("logprobs", -1),
        ("logprobs", 10**6),
        ("skip_special_tokens", 1),
        ("num_beams", 0),
        ("adapter", ""),
    ],
)
def test_a_bad_value_is_refused_by_name_with_what_is_allowed(name: str, value: object) -> None:
    with pytest.raises(ParameterError) as refusal:
        SamplingParams.create(**{name: value})
    assert refusal.value.parameter == name
    assert name in str(refusal.value)
    assert "must be" in refusal.value.why


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ParameterError, match="did you mean temperature"):
        SamplingParams.create(temprature=1)


def test_other_projects_names_are_understood() -> None:
    params = SamplingParams.create(max_tokens=5, num_return_sequences=2, do_sample=False)
    assert (params.max_new_tokens, params.n, params.temperature) == (5, 2, 0.0)


def test_two_names_of_one_parameter_are_refused() -> None:
    with pytest.raises(ParameterError, match="two names"):
        SamplingParams.create(max_tokens=5, max_new_tokens=6)


def test_a_new_max_length_lifts_an_older_max_new_tokens() -> None:
    params = SamplingParams(max_new_tokens=5).updated(max_length=50)
    assert (params.max_new_tokens, params.max_length) == (None, 50)


def test_the_callers_containers_are_copied() -> None:
    bias, stops = {1: 2.0}, ["a"]
    params = SamplingParams.create(logit_bias=bias, stop=stops)
    bias[1] = 9.0
    stops.append("b")
    assert params.logit_bias == {1: 2.0}
    assert params.stop == ("a",)


def test_values_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().temperature = 2.0  # type: ignore[misc]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(SamplingParams.names()) | st.text(max_size=8), _JSON, max_size=4))
def test_whatever_comes_it_is_parameters_or_a_parameter_error(values: dict[str, object]) -> None:
    try:
        SamplingParams().updated(**values)
    except ParameterError as error:
        assert str(error)
