"""A server as a side of a comparison: what it shows is compared, and what it does not show is never called equal."""

import random
from collections.abc import Callable
from typing import Any

import pytest

import openai_server
from engineroom import ChatModel, SamplingParams, ScriptedEngine
from engineroom.client import Server, ServerAddress
from engineroom.comparison import (
    DEFAULT_CONVERSATIONS,
    ComparedConversation,
    Comparison,
    Depth,
    Observation,
    compare,
    observe,
    observe_server,
)
from engineroom.comparison.distance import parting
from engineroom.comparison.observation import Seen
from engineroom.comparison.tokens import Step
from engineroom.errors import ServerError
from engineroom.types import Prompt

QUICK = Depth(tokens=12, top=5, samples=32, sample_tokens=2)
FEW = DEFAULT_CONVERSATIONS[:3]
BLIND = {"extras": "refused", "tokenize": False}


def here(script: Any = None, conversations: Any = FEW, **engine: Any) -> Observation:
    with ChatModel(engine=ScriptedEngine(script, **engine)) as model:
        return observe(model, conversations, QUICK)


async def there(
    script: Any = None, conversations: Any = FEW, *, ids: bool = True, depth: Depth = QUICK,
    engine: dict[str, Any] | None = None, **talent: Any,
) -> Observation:  # fmt: skip
    with openai_server.running(script, engine=engine, **talent) as running:
        async with Server(ServerAddress.parse(running.url)) as server:
            return await observe_server(server, conversations, depth, ids=ids)


def unseen(comparison: Comparison) -> set[str]:
    return {aspect for aspect, agree in comparison.agreement.items() if agree is None}


# --- what it shows ----------------------------------------------------------------------------------------------


async def test_a_server_that_shows_all_agrees_with_the_same_engine() -> None:
    comparison = compare(here(), await there())
    assert comparison.agrees
    assert unseen(comparison) == {"parameters"}
    assert comparison.gap == 0
    assert set(comparison.notes) == {"parameters"}


@pytest.mark.parametrize("lists_end", [True, False])
async def test_without_ids_tokens_are_told_apart_by_their_text(lists_end: bool) -> None:
    comparison = compare(here(), await there(extras="refused", lists_end=lists_end))
    assert comparison.agrees
    assert unseen(comparison) == {"parameters"}
    assert comparison.notes["logits"] == "tokens told apart by their text"


async def test_extras_that_are_ignored_are_no_ids() -> None:
    side = await there(extras="ignored")
    assert side.spelling is None
    assert compare(here(), side).agrees


@pytest.mark.parametrize("talent", [{}, BLIND], ids=["ids", "text"])
async def test_other_answers_are_found(talent: dict[str, Any]) -> None:
    comparison = compare(here(["same, one"]), await there(["same, two"], **talent))
    assert comparison.causes[0] == "weights or adapter"
    assert comparison.agreement["greedy tokens"] is False
    assert comparison.agreement["logits"] is False
    assert all("part at token 6" in d.what for d in comparison.differences if d.aspect == "greedy tokens")


@pytest.mark.parametrize(("shift", "cause"), [(-0.5, "numerics"), (-3.0, "weights or adapter")])
async def test_what_rounding_explains(shift: float, cause: str) -> None:
    comparison = compare(here(), await there(shift=shift))
    assert comparison.causes == (cause,)
    assert comparison.gap == pytest.approx(-shift)


async def test_another_template_is_found_with_its_place() -> None:
    template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    comparison = compare(here(), await there(["Hi"], engine={"chat_template": template}))
    assert comparison.causes[0] == "prompt"
    assert "the server renders with" in comparison.reasons[0]
    assert "the texts part at character 1: " in comparison.differences[0].what


def among(letters: str) -> Callable[[Prompt, SamplingParams], str]:
    """Greedy for ``a``; draws evenly from ``letters``."""
    chance = random.Random(1)
    return lambda prompt, params: "a" if params.temperature == 0 else chance.choice(letters)


@pytest.mark.parametrize("talent", [{}, BLIND, {"one_at_a_time": True}], ids=["ids", "text", "n ignored"])
async def test_other_draws_are_found(talent: dict[str, Any]) -> None:
    warm = {"temperature": 1.0}
    with openai_server.running(among("ab"), **talent) as running:
        async with Server(ServerAddress.parse(running.url)) as server:
            served = await observe_server(server, FEW, QUICK, **warm)
    comparison = compare(here(among("abcdefgh")), served)
    assert comparison.causes == ("parameters",)
    assert "the server answers a request that names no parameters" in comparison.reasons[0]
    assert len(served.seen[0].draws) == QUICK.samples
    assert compare(here(among("ab")), served).agrees


# --- what it does not show --------------------------------------------------------------------------------------


async def test_prompts_of_which_only_the_length_is_seen() -> None:
    comparison = compare(here(), await there(**BLIND))
    assert comparison.agreement["prompts"] is None
    assert comparison.notes["prompts"] == "only the number of tokens was seen of 3 of 3 prompts"
    assert comparison.agreement["greedy tokens"] is True
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    other = compare(here(), await there(["Hi"], engine={"chat_template": template}, **BLIND))
    assert other.agreement["prompts"] is False
    assert "tokens | 2 tokens" in other.differences[0].what


async def test_a_tokenize_that_does_not_tell_what_was_answered_is_not_believed() -> None:
    side = await there(extras="refused", tokenize_adds=(65,))
    assert [seen.prompt for seen in side.seen] == [None] * len(FEW)
    assert compare(here(), side).agreement["prompts"] is None


async def test_the_text_of_a_prompt_may_stay_unseen() -> None:
    template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    assert compare(here(), await there(detokenize=False)).agreement["prompts"] is True
    comparison = compare(here(), await there(["Hi"], engine={"chat_template": template}, detokenize=False))
    assert comparison.differences[0].what == "the prompts part at token 0"


async def test_prompts_of_which_nothing_is_seen() -> None:
    comparison = compare(here(), await there(**BLIND, usage=False))
    assert comparison.agreement["prompts"] is None
    assert "neither tokens nor their number" in comparison.notes["prompts"]


@pytest.mark.parametrize("logprobs", ["refused", "ignored"])
async def test_without_log_probabilities_only_texts_are_left(logprobs: str) -> None:
    side = await there(**BLIND, logprobs=logprobs)
    comparison = compare(here(), side)
    assert comparison.agrees
    assert unseen(comparison) == {"prompts", "logits", "greedy tokens", "parameters", "sampled answers"}
    assert comparison.notes["greedy tokens"] == "only the texts of 3 of 3 answers were seen"
    assert [note.startswith("it gives no log-probabilities") for note in side.notes] == [True] * (
        logprobs == "refused"
    )
    other = compare(here(["one"]), await there(["once"], **BLIND, logprobs=logprobs))
    assert other.agreement["greedy tokens"] is False
    assert "the answers' texts part at character 2" in other.differences[0].what
    assert "or numerics" in other.reasons[0]


async def test_ids_without_log_probabilities() -> None:
    comparison = compare(here(), await there(logprobs="refused"))
    assert comparison.agreement["greedy tokens"] is True
    assert comparison.agreement["sampled answers"] is True
    assert unseen(comparison) == {"parameters", "logits"}


async def test_half_characters_are_any_token_and_the_text_decides() -> None:
    same = compare(here(["aé"]), await there(["aé"], **BLIND))
    assert same.agreement["greedy tokens"] is True
    other = compare(here(["aé"]), await there(["aè"], **BLIND))
    assert other.agreement["greedy tokens"] is False
    assert "texts part at character 1" in other.differences[0].what
    cut = Depth(tokens=2, samples=0)
    with ChatModel(engine=ScriptedEngine(["aé"])) as model:
        first = observe(model, FEW, cut)
    assert compare(first, await there(["aé"], depth=cut, **BLIND)).agrees
    drawn = compare(here(["é"]), await there(["é"], **BLIND))
    assert drawn.agreement["sampled answers"] is None
    assert "not all tokens were seen of 3 of 3" in drawn.notes["sampled answers"]


@pytest.mark.slow
async def test_two_servers() -> None:
    assert compare(await there(), await there()).agrees
    assert compare(await there(**BLIND), await there(**BLIND)).agrees
    assert compare(await there(["a"]), await there(["b"])).causes[0] == "weights or adapter"


# --- refusals and failures --------------------------------------------------------------------------------------


async def test_a_conversation_that_the_server_refuses() -> None:
    comparison = compare(here(), await there(refuses="7 plus 5"))
    assert comparison.agreement["prompts"] is False
    assert [d.where for d in comparison.differences] == ["question"]
    assert "7 plus 5 is not welcome" in comparison.differences[0].what


async def test_both_refuse_each_in_its_own_words() -> None:
    asked = [ComparedConversation("tools", "hi", [{"name": "f", "parameters": {"type": "object"}}]), *FEW]
    comparison = compare(here(conversations=asked), await there(conversations=asked, refuses='"hi"'))
    assert comparison.agrees


async def test_a_server_that_fails_is_no_difference() -> None:
    with pytest.raises(ServerError, match="status 500"):
        await there(faults=["", "", "500"])
    with pytest.raises(ServerError, match="not OpenAI's"):
        await there(faults=["array"])
    with pytest.raises(ServerError, match="Hi is not welcome"):
        await there(refuses="Hi")


# --- the parts --------------------------------------------------------------------------------------------------


def test_of_a_token_without_a_name_nothing_is_sure() -> None:
    conversation = FEW[0]

    def side(*top: tuple[bytes | None, float]) -> Seen:
        return Seen(conversation, greedy=(b"a",), logprobs=(Step.told(b"a", -0.1, top),))

    named = side((b"a", -0.1), (b"b", -2.5))
    assert parting(named, side((b"a", -0.1), (b"c", -9.0))).gap == pytest.approx(6.5)
    assert parting(named, side((b"a", -0.1), (None, -9.0))).gap == 0  # it may be b
    assert parting(named, side((b"a", -0.1), (b"c", -2.6), (b"c", -9.0))).gap == 0  # two tokens of one text
