"""Layers of sampling defaults: the model's, the arguments', the request's."""

from typing import Any

import pytest

from engineroom.errors import ArgumentError, ModelLoadError, ParameterError
from engineroom.sampling import SamplingDefaults

WARM = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}
COLD = {"temperature": 0.6, "top_p": 0.95}


@pytest.mark.parametrize(
    ("model", "arguments", "request_", "expected"),
    [
        ({}, {}, {}, {"temperature": 0.0, "top_p": 1.0}),
        (WARM, {}, {}, {"temperature": 0.6, "top_p": 0.95, "top_k": 20}),
        (WARM, {"temperature": 1.0}, {}, {"temperature": 1.0, "top_p": 0.95}),
        (WARM, {"temperature": 1.0}, {"temperature": 0.2}, {"temperature": 0.2}),
        (WARM, {"do_sample": False}, {}, {"temperature": 0.0}),
        (WARM, {"do_sample": False}, {"temperature": 0.7}, {"temperature": 0.7}),
        (WARM, {"do_sample": False}, {"do_sample": True}, {"temperature": 0.6}),
        (WARM, {}, {"temperature": None}, {"temperature": 0.6}),
        (COLD, {}, {}, {"temperature": 0.0}),
        (COLD, {}, {"do_sample": True}, {"temperature": 0.6}),
        (COLD, {}, {"top_p": 0.5}, {"temperature": 0.6, "top_p": 0.5}),
        (COLD, {}, {"top_p": 0.5, "temperature": 0}, {"temperature": 0.0}),
        ({**WARM, "temperature": 0.0}, {}, {}, {"temperature": 0.0}),
        ({"max_length": 99}, {}, {}, {"max_length": 99, "max_new_tokens": None}),
        ({"max_length": 99, "max_new_tokens": 5}, {}, {}, {"max_length": None, "max_new_tokens": 5}),
        ({"max_new_tokens": 5}, {"max_length": 50}, {}, {"max_length": 50, "max_new_tokens": None}),
        ({}, {"max_length": 50}, {"max_tokens": 7}, {"max_new_tokens": 7}),
        ({"num_beams": 4, "length_penalty": 2.0}, {}, {"num_beams": 1}, {"num_beams": 1}),
    ],
)
def test_where_a_layer_says_nothing_the_one_below_holds(
    model: dict[str, Any], arguments: dict[str, Any], request_: dict[str, Any], expected: dict[str, Any]
) -> None:
    params = SamplingDefaults(model, arguments).resolve(request_)
    assert {name: getattr(params, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("request_", "parameter"),
    [
        ({"do_sample": True, "temperature": 0}, "do_sample"),
        ({"do_sample": "yes"}, "do_sample"),
        ({"length_penalty": 2.0}, "length_penalty"),
        ({"num_beams": 2, "n": 3}, "n"),
        ({"num_beams": 2, "seed": 0}, "seed"),
        ({"num_beams": 2, "temperature": 0.1}, "temperature"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
    ],
)
def test_contradictions_are_refused_by_name(request_: dict[str, Any], parameter: str) -> None:
    defaults = SamplingDefaults({}, {})
    with pytest.raises(ParameterError) as refusal:
        defaults.resolve(request_)
    assert refusal.value.parameter == parameter
    with pytest.raises((ArgumentError, ParameterError)):
        SamplingDefaults({}, request_)


@pytest.mark.parametrize(
    "wrong", [{"top_p": 7}, {"temperature": "hot"}, {"max_new_tokens": -1}, {"num_beams": "4"}]
)
def test_a_broken_generation_config_is_the_models_fault(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelLoadError, match=r"generation_config\.json"):
        SamplingDefaults(wrong, {})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size"),
        ({"min_new_tokens": 2, "suppress_tokens": [1]}, "min_new_tokens, suppress_tokens"),
        ({"typical_p": 1.0, "min_length": 0, "suppress_tokens": [], "bad_words_ids": None}, None),
    ],
)
def test_what_generate_would_do_and_we_do_not_is_told(config: dict[str, Any], named: str | None) -> None:
    warning = SamplingDefaults(config, {}).warning
    assert (named in warning) if named and warning else warning is None
