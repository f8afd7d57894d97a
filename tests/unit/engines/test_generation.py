"""Answers of the Transformers engine against Transformers' own ``generate``, on a tiny random model."""

import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from engineroom import ChatModel
from engineroom.errors import MessageError, ParameterError, PromptTooLongError, RequestError

PROMPT = "Tell me a story."
LONG = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module")
def reference(tiny_folder: Path) -> Any:
    return tiny_models.reference(tiny_folder)


def generate(reference: Any, model: ChatModel, prompt: str = PROMPT, **options: Any) -> list[list[int]]:
    ids = torch.tensor([model.render(prompt).token_ids])
    values = {"do_sample": False, "max_new_tokens": 24, "pad_token_id": tiny_models.PAD, **options}
    if values.get("eos_token_id", 0) is None:
        values["eos_token_id"] = (
            1023 + 10**6
        )  # no id at all: None would be filled from the model's own config
    with torch.inference_mode():
        return reference.generate(ids, **values)[:, ids.shape[1] :].tolist()


def ids(model: ChatModel, prompt: str = PROMPT, **options: Any) -> list[int]:
    return list(model.chat(prompt, **options)[0].token_ids)


@pytest.mark.parametrize("prompt", ["hi", PROMPT, "ünïcödé 👩‍👩‍👧 日本語", "x" * 150])
def test_greedy_is_generates(tiny: ChatModel, reference: Any, prompt: str) -> None:
    assert ids(tiny, prompt, **LONG) == generate(reference, tiny, prompt, eos_token_id=None)[0]


@pytest.mark.parametrize("penalty", [0.7, 1.3, 2.0])
def test_the_repetition_penalty_is_generates(tiny: ChatModel, reference: Any, penalty: float) -> None:
    expected = generate(reference, tiny, repetition_penalty=penalty, eos_token_id=None)[0]
    assert ids(tiny, repetition_penalty=penalty, **LONG) == expected
    assert expected != ids(tiny, **LONG)


@pytest.mark.parametrize(("name", "value"), [("presence_penalty", 2.0), ("frequency_penalty", 1.5)])
def test_presence_and_frequency_penalties_act_as_their_formula_says(
    tiny: ChatModel, reference: Any, name: str, value: float
) -> None:
    prompt = list(tiny.render(PROMPT).token_ids)
    answer: list[int] = []
    for _ in range(24):
        with torch.no_grad():
            logits = reference(torch.tensor([[*prompt, *answer]])).logits[0, -1].clone()
        for token_id in set(answer):
            logits[token_id] -= value if name == "presence_penalty" else value * answer.count(token_id)
        answer.append(int(logits.argmax()))
    assert ids(tiny, **LONG, **{name: value}) == answer


def test_logit_bias_forbids_and_forces(tiny: ChatModel) -> None:
    plain = ids(tiny, **LONG)
    assert plain[0] not in ids(tiny, logit_bias={plain[0]: -100}, **LONG)
    assert set(ids(tiny, logit_bias={"42": 100.0}, **LONG)) == {42}


@pytest.mark.parametrize("only", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}, {"temperature": 1e-30}])
def test_each_truncation_alone_can_leave_one_token(tiny: ChatModel, only: dict[str, float]) -> None:
    options = {**LONG, "temperature": 3.0, **only}
    assert ids(tiny, **options) == ids(tiny, **LONG)
    assert ids(tiny, **{**LONG, "temperature": 3.0}) != ids(tiny, **LONG)


def test_every_draw_is_within_what_top_k_leaves(tiny: ChatModel) -> None:
    answer = tiny.chat(PROMPT, **{**LONG, "temperature": 5.0}, top_k=3, logprobs=3, seed=1)[0]
    for entry in answer.logprobs or ():
        assert entry.token_id in [token_id for token_id, _ in entry.top]
    assert any(entry.token_id != entry.top[0][0] for entry in answer.logprobs or ())


def test_n_answers_have_seeds_of_their_own_and_greedy_ones_are_equal(tiny: ChatModel) -> None:
    sampled = {"temperature": 1.5, "max_new_tokens": 8}
    answers = [list(a.token_ids) for a in tiny.chat(PROMPT, n=3, seed=10, **sampled)]
    assert answers == [ids(tiny, seed=10 + i, **sampled) for i in range(3)]
    assert len({tuple(a) for a in answers}) == 3
    assert len({a.token_ids for a in tiny.chat(PROMPT, n=3, **LONG)}) == 1


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"num_beams": 3}, {}),
        ({"num_beams": 4, "n": 3}, {"num_return_sequences": 3}),
        ({"num_beams": 3, "length_penalty": -2.0}, {"length_penalty": -2.0}),
        ({"num_beams": 3, "length_penalty": 3.0}, {"length_penalty": 3.0}),
        ({"num_beams": 3, "repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
        ({"num_beams": 3, "stop_token_ids": [5]}, {"eos_token_id": [5, tiny_models.END]}),
        ({"num_beams": 3, "ignore_eos": True}, {"eos_token_id": None}),
    ],
)
def test_beams_are_generates(
    tmp_path: Path, options: dict[str, Any], same: dict[str, Any], tiny_folder: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    reference = tiny_models.reference(folder)
    with torch.no_grad():  # let the end come often, so that beams have different lengths
        reference.lm_head.weight[tiny_models.END] *= 3
    tiny_models.save(reference, folder)
    with ChatModel({"model_name_or_path": str(folder)}) as model:
        expected = generate(reference, model, num_beams=options["num_beams"], **same)
        answers = model.chat(PROMPT, max_new_tokens=24, **options)
        for answer, row in zip(answers, expected, strict=True):
            size = answer.response_length
            assert list(answer.token_ids) == row[:size]
            assert set(row[size:]) <= {tiny_models.PAD}
            ends = (
                {tiny_models.END, *options.get("stop_token_ids", ())} if "ignore_eos" not in options else ()
            )
            assert answer.finish_reason == ("stop" if answer.token_ids[-1] in ends else "length")
        streamed: dict[int, str] = {}
        for delta in model.stream_deltas(PROMPT, max_new_tokens=24, **options):
            streamed[delta.index] = streamed.get(delta.index, "") + delta.text
        assert [streamed[i] for i in sorted(streamed)] == [a.response_text for a in answers]


@pytest.mark.parametrize(
    "options", [{"temperature": 0.5}, {"seed": 0}, {"top_k": 5}, {"logprobs": 0}, {"do_sample": True}]
)
def test_what_beams_would_ignore_is_refused(tiny: ChatModel, options: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="num_beams"):
        tiny.chat(PROMPT, num_beams=2, **options)
    assert tiny.chat(PROMPT, num_beams=2, max_new_tokens=2, temperature=0, top_p=1.0)


def test_a_poisoned_beam_search_fails(tiny: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from engineroom.errors import GenerationError

    head = tiny.engine.model.lm_head
    monkeypatch.setattr(head, "forward", lambda hidden: torch.full((*hidden.shape[:-1], 1024), torch.nan))
    with pytest.raises(GenerationError, match="NaN"):
        tiny.chat(PROMPT, num_beams=2)


def test_logprobs_are_the_forward_passs(tiny: ChatModel, reference: Any) -> None:
    answer = tiny.chat(PROMPT, logprobs=2, prompt_logprobs=3, **{**LONG, "temperature": 1.0}, seed=5)[0]
    whole = [*tiny.render(PROMPT).token_ids, *answer.token_ids]
    with torch.inference_mode():
        expected = reference(torch.tensor([whole])).logits[0].log_softmax(-1)
    entries = [*(answer.prompt_logprobs or ())[1:], *(answer.logprobs or ())]
    assert len(entries) == len(whole) - 1
    for place, entry in enumerate(entries):
        assert entry is not None
        assert entry.token_id == whole[place + 1]
        assert entry.logprob == pytest.approx(float(expected[place, entry.token_id]), abs=1e-4)
        best = expected[place].topk(len(entry.top))
        assert [value for _, value in entry.top] == pytest.approx(best.values.tolist(), abs=1e-4)


# --- endings -----------------------------------------------------------------------------------------------------


def folded(model: ChatModel, **options: Any) -> tuple[str, str, int]:
    deltas = list(model.stream_deltas(PROMPT, **options))
    assert all(d.finish_reason is None and d.usage is None for d in deltas[:-1])
    last = deltas[-1]
    assert last.finish_reason is not None
    assert last.usage is not None
    return "".join(d.text for d in deltas), last.finish_reason, last.usage.completion_tokens


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Generator[ChatModel, None, None]:
    """A model that soon says its end token."""
    folder = tmp_path_factory.mktemp("ending") / "model"
    tiny_models.causal(folder)
    weights = tiny_models.reference(folder)
    with ChatModel({"model_name_or_path": str(folder)}) as model:
        greedy = ids(model, **LONG)
    with torch.no_grad():
        weights.lm_head.weight[tiny_models.END] = weights.lm_head.weight[greedy[5]] * 1.01
    tiny_models.save(weights, folder)
    with ChatModel({"model_name_or_path": str(folder)}) as model:
        yield model


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_new_tokens": 20}, "stop"),
        ({"max_new_tokens": 3}, "length"),
        ({"max_new_tokens": 20, "ignore_eos": True}, "length"),
        ({"ignore_eos": True}, "length"),
        ({"max_length": 30, "ignore_eos": True}, "length"),
        ({"stop": ["e", "a", "i", "t", "s", " "], "max_new_tokens": 20}, "stop"),
    ],
)
def test_every_ending_has_its_reason_streamed_or_not(
    ending: ChatModel, options: dict[str, Any], reason: str
) -> None:
    answer = ending.chat(PROMPT, temperature=0, **options)[0]
    assert answer.finish_reason == reason
    assert folded(ending, temperature=0, **options) == (answer.response_text, reason, answer.response_length)
    if "max_length" in options:
        assert answer.usage.total_tokens == 30
    if options == {"ignore_eos": True}:
        assert answer.usage.total_tokens == 256


def test_a_stop_token_counts_and_has_no_text_unless_asked_for(ending: ChatModel) -> None:
    greedy = ending.chat(PROMPT, **LONG)[0].token_ids
    third = next(i for i in greedy if i != greedy[0])
    until = greedy.index(third) + 1
    answer = ending.chat(PROMPT, temperature=0, stop_token_ids=[third])[0]
    assert (answer.token_ids, answer.finish_reason) == (greedy[:until], "stop")
    decode = ending.tokenizer.decode
    assert answer.response_text == decode(greedy[: until - 1], skip_special_tokens=True)
    shown = ending.chat(PROMPT, temperature=0, stop_token_ids=third, skip_special_tokens=False)[0]
    assert shown.response_text == decode(greedy[:until], skip_special_tokens=False)


def test_a_model_without_end_tokens_goes_on_to_the_limit(tiny_folder: Path, tmp_path: Path) -> None:
    import json

    folder = Path(shutil.copytree(tiny_folder, tmp_path / "endless"))
    (folder / "generation_config.json").unlink()
    for name, changes in (
        ("config.json", {"eos_token_id": None, "pad_token_id": None}),
        ("tokenizer_config.json", {"eos_token": None}),
    ):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, **changes}))
    with ChatModel({"model_name_or_path": str(folder)}) as model:
        assert model.chat("hi", temperature=0, max_new_tokens=30)[0].finish_reason == "length"
        assert model.chat("hi", num_beams=2, max_new_tokens=5)[0].response_length == 5


def test_the_context_bounds_prompt_and_answer(tiny: ChatModel) -> None:
    room = 256 - len(tiny.render(PROMPT))
    answer = tiny.chat(PROMPT, temperature=0, ignore_eos=True, max_new_tokens=10_000)[0]
    assert (answer.response_length, answer.finish_reason) == (room, "length")
    with pytest.raises(PromptTooLongError, match=r"has \d+ tokens; the context has 256") as refusal:
        tiny.chat("word " * 400)
    assert refusal.value.context_length == 256
    with pytest.raises(PromptTooLongError, match="max_length=5"):
        tiny.chat(PROMPT, max_length=5)


def test_a_token_that_the_model_has_no_embedding_for_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tiny_models.causal(tmp_path / "small", vocab_size=900, eos_token_id=None, pad_token_id=None)
    with ChatModel({"model_name_or_path": str(folder)}) as model:
        with pytest.raises(MessageError, match="resized"):
            model.chat("hi")
        with pytest.raises(ParameterError, match="ids go up to 899"):
            model.resolve_sampling(stop_token_ids=[900])


def test_the_models_own_defaults_are_read(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tiny_models.causal(
        tmp_path / "m", generation={"do_sample": True, "temperature": 0.6, "top_k": 20}
    )
    with ChatModel({"model_name_or_path": str(folder)}) as model:
        assert (model.sampling.temperature, model.sampling.top_k) == (0.6, 20)
        assert model.engine.generating_args["temperature"] == 0.6
    with ChatModel({"model_name_or_path": str(folder), "temperature": 0}) as model:
        assert model.sampling.temperature == 0
        assert (
            model.chat("hi", max_new_tokens=5)[0].token_ids == model.chat("hi", max_new_tokens=5)[0].token_ids
        )


@pytest.mark.parametrize(
    ("messages", "options", "says"),
    [
        ([], {}, "messages is empty"),
        ([{"role": "wizard", "content": "x"}], {}, "roles: system"),
        ([{"role": "user", "content": None}], {}, "content is null"),
        ({"role": "user", "content": "x"}, {}, "can't be a dict"),
        (PROMPT, {"top_p": 3}, r"top_p must be a number in \(0, 1\]"),
        (PROMPT, {"temperature": -1}, r"temperature must be a number in \[0, 100\]"),
        (PROMPT, {"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1"),
        (PROMPT, {"stop_token_ids": [1024]}, "ids go up to 1023"),
        (PROMPT, {"logit_bias": {1024: 1}}, "ids go up to 1023"),
        (PROMPT, {"images": ["cat.png"]}, "images is not supported"),
        (PROMPT, {"enable_thinking": "yes"}, "true or false"),
        ("word " * 400, {}, "shorten the conversation"),
    ],
)
def test_bad_input_is_refused_and_the_next_request_succeeds(
    tiny: ChatModel, messages: Any, options: dict[str, Any], says: str
) -> None:
    before = ids(tiny, **LONG)
    for ask in (tiny.chat, lambda *a, **k: list(tiny.stream_chat(*a, **k))):
        with pytest.raises(RequestError, match=says):
            ask(messages, **options)
    assert tiny.health().state == "ready"
    assert ids(tiny, **LONG) == before


async def test_a_notebook_may_use_either_twin(tiny: ChatModel) -> None:
    """A loop is running here, as in a notebook's cell."""
    greedy = tiny.chat(PROMPT, **LONG)[0].response_text
    assert (await tiny.achat(PROMPT, **LONG))[0].response_text == greedy
    assert "".join(tiny.stream_chat(PROMPT, **LONG)) == greedy
    assert "".join([piece async for piece in tiny.astream_chat(PROMPT, **LONG)]) == greedy
