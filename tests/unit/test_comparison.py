"""Where two sides part: each likely cause is brought about, and found."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from engineroom import ChatModel, SamplingParams, ScriptedEngine
from engineroom.comparison import (
    DEFAULT_CONVERSATIONS,
    ComparedConversation,
    Comparison,
    Depth,
    Observation,
    compare,
    observe,
)
from engineroom.comparison.draws import SIGNIFICANCE, probability
from engineroom.comparison.tokens import Step
from engineroom.comparison.weights import fingerprint
from engineroom.errors import RequestError
from engineroom.types import Prompt

QUICK = Depth(tokens=12, top=5, samples=32, sample_tokens=2)
FEW = DEFAULT_CONVERSATIONS[:3]


def seen(side: int = 0, **arguments: Any) -> Observation:
    with ChatModel(arguments) as model:
        return observe(model, FEW, QUICK, side=side)


def judged(folder: Path, **second: Any) -> Comparison:
    """A tiny model against itself with other arguments."""
    base = {"model_name_or_path": str(folder)}
    return compare(seen(0, **base), seen(1, **{**base, **second}))


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.lora(tiny_folder, tmp_path_factory.mktemp("adapter") / "lora", seed=1)


# --- on the Transformers engine ---------------------------------------------------------------------------------


def test_a_model_agrees_with_itself(tiny_folder: Path) -> None:
    comparison = judged(tiny_folder)
    assert comparison.agrees
    assert comparison.causes == ()
    assert comparison.agreement == dict.fromkeys(comparison.agreement, True)
    assert comparison.gap == 0
    assert comparison.chance is not None
    assert comparison.chance > SIGNIFICANCE


def test_another_precision_is_numerics(tiny_folder: Path) -> None:
    comparison = judged(tiny_folder, infer_dtype="bfloat16")
    assert comparison.causes == ("numerics",)
    assert "infer_dtype" in comparison.reasons[0]
    assert comparison.agreement["prompts"]
    assert comparison.agreement["logits"] is False
    assert not comparison.agrees


def test_what_is_within_the_tolerance_agrees(tiny_folder: Path) -> None:
    base = {"model_name_or_path": str(tiny_folder)}
    first, second = seen(0, **base), seen(1, **base, infer_dtype="bfloat16")
    assert compare(first, second, tolerance=100).agreement["logits"]


def test_an_adapter_is_found(tiny_folder: Path, adapter: Path) -> None:
    comparison = judged(tiny_folder, adapter_name_or_path=str(adapter))
    assert comparison.causes == ("weights or adapter",)
    assert "adapters differ" in comparison.reasons[0]
    assert comparison.agreement["greedy tokens"] is False


def test_a_merged_adapter_agrees_with_one_kept_apart(tiny_folder: Path, adapter: Path) -> None:
    with_adapter = {"model_name_or_path": str(tiny_folder), "adapter_name_or_path": str(adapter)}
    apart = seen(1, **with_adapter, adapter_merge=False, adapter="lora")
    assert compare(seen(0, **with_adapter), apart).agrees


def test_other_weights_are_found(tiny_folder: Path, tmp_path: Path) -> None:
    other = tiny_models.causal(tmp_path / "other", seed=9)
    comparison = judged(tiny_folder, model_name_or_path=str(other))
    assert comparison.causes == ("weights or adapter",)
    assert "weight files differ" in comparison.reasons[0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [({"template": "chatml"}, "chat templates differ"), ({"default_system": "Be kind."}, "default_system")],
)
def test_another_prompt_is_the_prompt(tiny_folder: Path, arguments: dict[str, Any], reason: str) -> None:
    comparison = judged(tiny_folder, **arguments)
    assert comparison.causes[0] == "prompt"
    assert reason in comparison.reasons[0]
    assert comparison.agreement["prompts"] is False


def test_other_parameters_are_found(tiny_folder: Path) -> None:
    comparison = judged(tiny_folder, temperature=0.2, top_k=3)
    assert comparison.causes == ("parameters",)
    assert "temperature, top_k" in comparison.reasons[0]
    assert comparison.agreement["logits"]
    assert comparison.agreement["sampled answers"] is False


def test_parameters_leave_the_greedy_comparison_alone(tiny_folder: Path) -> None:
    """What the model says itself is asked for without penalties, bias or stops."""
    comparison = judged(tiny_folder, repetition_penalty=1.8, logit_bias={5: 50}, stop=["e"])
    assert comparison.agreement["greedy tokens"]
    assert comparison.causes == ("parameters",)


def test_a_reward_model_is_refused(demo_reward: ChatModel) -> None:
    with pytest.raises(RequestError, match="reward model"):
        observe(demo_reward)


# --- on the scripted engine -------------------------------------------------------------------------------------


def scripted(script: Callable[[Prompt, SamplingParams], str], side: int = 0, **options: Any) -> Observation:
    with ChatModel(engine=ScriptedEngine(script, **options)) as model:
        return observe(model, FEW, QUICK, side=side)


def among(letters: str) -> Callable[[Prompt, SamplingParams], str]:
    """An engine that is greedy for ``a`` and draws evenly from ``letters``."""
    return lambda prompt, params: "a" if params.seed is None else random.Random(params.seed).choice(letters)


def test_an_engine_that_draws_otherwise_is_found() -> None:
    comparison = compare(scripted(among("abcdefgh")), scripted(among("ab"), side=1))
    assert comparison.causes == ("parameters",)
    assert "an engine's defect" in comparison.reasons[0]
    assert comparison.agreement["greedy tokens"]
    assert compare(scripted(among("abcd")), scripted(among("abcd"), side=1)).agrees


def test_two_certain_answers_lie_far_apart() -> None:
    first, second = (scripted(lambda prompt, params, text=text: text) for text in ("same, one", "same, two"))
    comparison = compare(first, second)
    assert comparison.gap is not None
    assert comparison.gap > 10
    parted = [d.what for d in comparison.differences if d.aspect == "greedy tokens"]
    assert parted
    assert all("part at token 6" in what for what in parted)


def test_the_same_files_that_are_far_apart_were_not_all_loaded() -> None:
    first = scripted(lambda prompt, params: "one")
    second = scripted(lambda prompt, params: "two")
    comparison = compare(first, second)
    assert comparison.causes[0] == "weights or adapter"
    assert "did not load them all" in comparison.reasons[0]


def test_near_ties_are_numerics() -> None:
    first = scripted(lambda prompt, params: "one")
    second = scripted(lambda prompt, params: "two")
    top = {ord("o"): -0.693, ord("t"): -0.694}

    def tied(side: Observation) -> Observation:
        entries = [
            replace(s, logprobs=(Step(s.greedy[0], top[s.greedy[0]], tuple(top.items())),)) for s in side.seen
        ]
        return replace(side, seen=tuple(entries))

    comparison = compare(tied(first), tied(second))
    assert comparison.causes[0] == "numerics"
    assert comparison.agreement["logits"]
    assert any("0.0010 nats apart" in d.what for d in comparison.differences)


def test_what_one_template_refuses_is_a_difference() -> None:
    tools = [{"name": "f", "description": "", "parameters": {"type": "object"}}]
    asked = [ComparedConversation("tools", "hi", tools)]
    with_tools = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}"
    sides: list[Observation] = []
    for template in (None, with_tools):
        options = {"chat_template": template} if template else {}
        with ChatModel(engine=ScriptedEngine(["hi"], **options)) as model:
            sides.append(observe(model, asked, QUICK))
    comparison = compare(sides[0], sides[1])
    assert comparison.causes[0] == "prompt"
    assert "no place for tools" in comparison.differences[0].what
    assert compare(sides[0], sides[0]).agrees
    assert compare(sides[0], sides[0]).agreement["greedy tokens"] is None


# --- the parts --------------------------------------------------------------------------------------------------


def test_draws_of_one_distribution_are_seldom_called_different() -> None:
    def pair(place: int, letters: str) -> Any:
        draw = random.Random(place).choice
        return [(draw("abcd"),) for _ in range(32)], [(draw(letters),) for _ in range(32)]

    alike = [probability([pair(place, "abcd")]) for place in range(40)]
    assert sum(p <= 0.05 for p in alike) <= 6  # 2 are expected
    assert all(probability([pair(place, "aaaaaab")]) <= SIGNIFICANCE for place in range(20))


def test_a_fingerprint_sees_one_changed_tensor(tiny_folder: Path, tmp_path: Path) -> None:
    weights = tiny_folder / "model.safetensors"
    copy, other = tmp_path / "a", tmp_path / "b"
    data = bytearray(weights.read_bytes())
    copy.write_bytes(data)
    data[-5000:] = bytes(5000)
    other.write_bytes(data)
    assert fingerprint([weights]) == fingerprint([copy])
    assert fingerprint([copy]) != fingerprint([other])
    assert fingerprint([], "a name") == "a name"
