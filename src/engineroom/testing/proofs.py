"""For everything that an engine can declare: how to ask for it, and a proof that it acts.

The suite goes through an engine's table with these. What it declares `native` or `emulated` must pass the proof; what
it declares `unsupported`, or does not name, must be refused. A parameter without a proof fails the suite.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from engineroom.chat import ChatModel
from engineroom.errors import EngineNotReadyError, ModelError, ParameterError
from engineroom.testing.lab import ENDLESS, Lab, Subject
from engineroom.testing.models import STORY
from engineroom.testing.reference import Reference, assert_drawn_from, floats

if TYPE_CHECKING:
    from torch import Tensor

TOOL: Mapping[str, Any] = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object"},
}
_DRAWS = 256


@dataclass(frozen=True, slots=True)
class Proof:
    """A feature's proof.

    Attributes:
        ask: asks for the feature in the shortest way, so that an engine without it can refuse.
        prove: fails unless the engine does what the feature says; None if nobody wrote it yet.
        needs: what else is asked for with it, and may be what is refused.
    """

    ask: Callable[[ChatModel], object]
    prove: Callable[[Lab], None] | None
    needs: tuple[str, ...] = ()


def _asking(**options: Any) -> Callable[[ChatModel], object]:
    given: dict[str, Any] = {"max_new_tokens": 1, **options}
    return lambda model: model.chat(STORY, **given)


# --- how tokens are drawn ---------------------------------------------------------------------------------------


def _draws(subject: Subject, **options: Any) -> list[int]:
    """The first token of many answers, each with a seed of its own."""
    at_once = 64 if subject.supports("n") else 1
    tokens: list[int] = []
    for start in range(0, _DRAWS, at_once):
        given: dict[str, Any] = {"max_new_tokens": 1, "temperature": 1.0, **options}
        given |= {"seed": start} if subject.supports("seed") else {}
        given |= {"n": at_once} if at_once > 1 else {}
        tokens += [answer.token_ids[0] for answer in subject.model.chat(STORY, **given)]
    return tokens


def _prove_draws(lab: Lab, truncate: Callable[[Tensor], Tensor] = lambda p: p, **options: Any) -> None:
    """Draws with these parameters come from the reference's distribution, cut as they say, and from no wider one."""
    import torch

    subject = lab.tiny
    logits = subject.reference.next_logits(subject.prompt_ids())
    probabilities = torch.softmax(logits.double() / options.get("temperature", 1.0), -1)
    kept = truncate(probabilities)
    tokens = _draws(subject, **options)
    assert_drawn_from(tokens, kept / kept.sum())
    assert len(set(tokens)) > 1, "every draw is the same token"


def _temperature(lab: Lab) -> None:
    subject = lab.tiny
    subject.reference.assert_greedy(subject.prompt_ids(), subject.greedy())
    for temperature in (0.5, 1.0, 2.0):
        _prove_draws(lab, temperature=temperature)


def _top_p(lab: Lab) -> None:
    def nucleus(p: Tensor) -> Tensor:
        values, order = p.sort(descending=True)
        kept = values.cumsum(0) - values < 0.5  # the smallest set that reaches one half
        return p * kept[order.argsort()]

    _prove_draws(lab, nucleus, temperature=2.0, top_p=0.5)


def _top_k(lab: Lab) -> None:
    _prove_draws(lab, lambda p: p * (p >= p.topk(5).values[-1]), temperature=2.0, top_k=5)


def _min_p(lab: Lab) -> None:
    _prove_draws(lab, lambda p: p * (p >= 0.2 * p.max()), temperature=2.0, min_p=0.2)


def _seed(lab: Lab) -> None:
    subject = lab.tiny
    sampled: dict[str, Any] = {"temperature": 2.0, "max_new_tokens": 12, "ignore_eos": True}
    alone = [subject.ids(seed=seed, **sampled) for seed in range(4)]
    assert [subject.ids(seed=seed, **sampled) for seed in range(4)] == alone
    assert len({tuple(ids) for ids in alone}) == 4
    unseeded = {tuple(subject.ids(**sampled)) for _ in range(4)}
    assert len(unseeded) == 4, "answers without a seed repeat each other"


# --- penalties and bias -----------------------------------------------------------------------------------------


def _prove_shape(lab: Lab, shape: Callable[[Tensor, Sequence[int]], Tensor], **options: Any) -> None:
    """Greedy tokens are those of the changed logits, and the change shows."""
    subject = lab.tiny
    answer = subject.greedy(count=24, **options)
    subject.reference.assert_greedy(subject.prompt_ids(), answer, shape)
    assert answer != subject.greedy(count=24), f"{options} changes nothing"


def _repetition_penalty(lab: Lab) -> None:
    prompt = lab.tiny.prompt_ids()
    for penalty in (1.5, 0.7):

        def shape(row: Tensor, answer: Sequence[int], penalty: float = penalty) -> Tensor:
            for token in {*prompt, *answer}:  # Keskar et al. 2019, as Transformers applies it
                row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
            return row

        _prove_shape(lab, shape, repetition_penalty=penalty)


def _presence_penalty(lab: Lab) -> None:
    def shape(row: Tensor, answer: Sequence[int]) -> Tensor:
        for token in set(answer):
            row[token] += 2.0
        return row

    _prove_shape(lab, shape, presence_penalty=-2.0)


def _frequency_penalty(lab: Lab) -> None:
    def shape(row: Tensor, answer: Sequence[int]) -> Tensor:
        for token in set(answer):
            row[token] += 2.0 * answer.count(token)
        return row

    _prove_shape(lab, shape, frequency_penalty=-2.0)


def _logit_bias(lab: Lab) -> None:
    plain = lab.tiny.greedy(count=24)
    bias = {plain[0]: -100.0, plain[3]: 5.0}

    def shape(row: Tensor, answer: Sequence[int]) -> Tensor:
        for token, amount in bias.items():
            row[token] += amount
        return row

    _prove_shape(lab, shape, logit_bias=bias)
    assert set(lab.tiny.greedy(logit_bias={"42": 100})) == {42}


# --- how many, and where an answer ends -------------------------------------------------------------------------


def _n(lab: Lab) -> None:
    subject = lab.tiny
    greedy = subject.model.chat(STORY, n=3, max_new_tokens=8, **ENDLESS)
    assert [list(answer.token_ids) for answer in greedy] == [subject.greedy(count=8)] * 3
    sampled: dict[str, Any] = {"temperature": 2.0, "max_new_tokens": 8, "ignore_eos": True}
    answers = [list(a.token_ids) for a in subject.model.chat(STORY, n=3, **sampled)]
    assert len({tuple(a) for a in answers}) == 3
    if subject.supports("seed"):
        answers = [list(a.token_ids) for a in subject.model.chat(STORY, n=3, seed=10, **sampled)]
        assert answers == [subject.ids(seed=10 + i, **sampled) for i in range(3)]


def _max_new_tokens(lab: Lab) -> None:
    for limit in (1, 7):
        answer = lab.tiny.ask(max_new_tokens=limit, **ENDLESS)
        assert (answer.response_length, answer.finish_reason) == (limit, "length")


def _max_length(lab: Lab) -> None:
    size = len(lab.tiny.prompt_ids())
    answer = lab.tiny.ask(max_length=size + 5, **ENDLESS)
    assert (answer.prompt_length, answer.response_length, answer.finish_reason) == (size, 5, "length")


def _stop(lab: Lab) -> None:
    subject = lab.tiny
    whole = subject.ask(max_new_tokens=24, **ENDLESS).response_text
    for start in range(0, len(whole) - 4, 5):
        stop = whole[start : start + 4]  # longer than most tokens, so it lies across two or three
        answer = subject.ask(max_new_tokens=24, stop=["never said", stop], **ENDLESS)
        assert answer.response_text == whole[: whole.index(stop)]
        assert answer.finish_reason == "stop"


def _stop_token_ids(lab: Lab) -> None:
    greedy = lab.tiny.greedy(count=16)
    end = next(token for token in greedy if token != greedy[0])
    answer = lab.tiny.ask(max_new_tokens=16, stop_token_ids=[end], **ENDLESS)
    assert list(answer.token_ids) == greedy[: greedy.index(end) + 1]
    assert answer.finish_reason == "stop"


def _ignore_eos(lab: Lab) -> None:
    """The tiny model's answer to STORY has an end in it."""
    ended = lab.tiny.ask(temperature=0, max_new_tokens=80)
    assert ended.finish_reason == "stop"
    on = lab.tiny.ask(max_new_tokens=80, **ENDLESS)
    assert (on.response_length, on.finish_reason) == (80, "length")
    assert on.token_ids[: ended.response_length] == ended.token_ids


def _skip_special_tokens(lab: Lab) -> None:
    subject, decode = lab.tiny, lab.tiny.model.tokenizer.decode
    special = next(t for t, is_special in subject.model.tokenizer.added_tokens.items() if is_special)
    (token,) = subject.model.tokenizer.encode(special)
    answer = subject.greedy(count=16)
    stop = next(i for i in answer if i != answer[0])
    for skip in (True, False):
        shown = subject.ask(max_new_tokens=16, skip_special_tokens=skip, stop_token_ids=[stop], **ENDLESS)
        ids = (
            shown.token_ids[:-1] if skip else shown.token_ids
        )  # with special tokens, the one that ended it too
        assert shown.response_text == decode(ids, skip_special_tokens=skip)
    if subject.supports("logit_bias"):
        forced = {"logit_bias": {token: 100}, "max_new_tokens": 2, **ENDLESS}
        assert subject.ask(skip_special_tokens=True, **forced).response_text == ""
        assert subject.ask(skip_special_tokens=False, **forced).response_text == special * 2


# --- what comes with the tokens ---------------------------------------------------------------------------------


def _assert_entries(entries: Sequence[Any], ids: Sequence[int], rows: Tensor, top: int) -> None:
    """Each token's log-probability, and those of the likeliest, are the reference's."""
    assert len(entries) == len(ids)
    for entry, token, row in zip(entries, ids, rows, strict=True):
        assert entry is not None
        assert entry.token_id == token
        assert abs(entry.logprob - float(row[token])) <= 1e-3
        assert len(entry.top) == top
        best = floats(row.topk(top).values) if top else []
        for (named, value), expected in zip(entry.top, best, strict=True):
            assert abs(value - expected) <= 1e-3
            assert abs(value - float(row[named])) <= 1e-3


def _logprobs(lab: Lab) -> None:
    subject = lab.tiny
    prompt = subject.prompt_ids()
    plain = subject.ask(max_new_tokens=2, **ENDLESS)
    assert plain.logprobs is None
    cases: list[tuple[int, dict[str, Any]]] = [(0, {}), (1, {}), (5, {})]
    if subject.supports("logit_bias"):  # they are of the model's own distribution, whatever is done to it
        cases.append((3, {"logit_bias": {plain.token_ids[0]: -50}}))
    if subject.supports("temperature"):
        cases.append((3, {"temperature": 2.0}))
    for top, options in cases:
        answer = subject.ask(logprobs=top, max_new_tokens=12, **{**ENDLESS, **options})
        rows = subject.reference.logprobs([*prompt, *answer.token_ids])[len(prompt) - 1 : -1]
        _assert_entries(answer.logprobs or (), answer.token_ids, rows, top)


def _prompt_logprobs(lab: Lab) -> None:
    subject = lab.tiny
    prompt = subject.prompt_ids()
    rows = subject.reference.logprobs(prompt)[:-1]
    for top in (0, 3):
        for _ in range(2):  # a prefix cache must not swallow them the second time
            answer = subject.ask(prompt_logprobs=top, max_new_tokens=1)
            first, *entries = answer.prompt_logprobs or (None,)
            assert first is None
            _assert_entries(entries, prompt[1:], rows, top)
    assert subject.ask(max_new_tokens=1).prompt_logprobs is None


# --- beams, adapters, and features ------------------------------------------------------------------------------


def _beams(subject: Subject, **options: Any) -> list[list[int]]:
    """What Transformers' ``generate`` returns, without the padding behind an end."""
    import torch

    ends = subject.model.engine.checkpoint.eos_token_ids if subject.model.engine.checkpoint else ()
    ids = torch.tensor([subject.prompt_ids()])
    values = {
        "do_sample": False,
        "pad_token_id": -1,
        "max_new_tokens": 16,
        "eos_token_id": list(ends),
        **options,
    }
    with torch.inference_mode():
        rows = subject.reference.model.generate(ids, **values)[:, ids.shape[1] :].tolist()
    return [[token for token in row if token >= 0] for row in rows]


def _num_beams(lab: Lab) -> None:
    expected = _beams(lab.tiny, num_beams=4, num_return_sequences=3)
    answers = lab.tiny.model.chat(STORY, num_beams=4, n=3, max_new_tokens=16)
    assert [list(answer.token_ids) for answer in answers] == expected


def _length_penalty(lab: Lab) -> None:
    for penalty in (-3.0, 3.0):
        expected = _beams(lab.tiny, num_beams=4, length_penalty=penalty)
        answer = lab.tiny.ask(num_beams=4, max_new_tokens=16, length_penalty=penalty)
        assert [list(answer.token_ids)] == expected


def _adapter(lab: Lab) -> None:
    subject = lab.tiny
    prompt, bare = subject.prompt_ids(), subject.greedy()
    subject.reference.assert_greedy(prompt, bare)
    answers = {name: subject.greedy(adapter=name) for name in lab.adapters}
    for name, folder in lab.adapters.items():
        Reference(lab.tiny_folder, adapter=folder).assert_greedy(prompt, answers[name])
    assert len({tuple(ids) for ids in (bare, *answers.values())}) == 3


def _is_person(text: str) -> bool:
    value = json.loads(text)
    return (
        set(value) <= {"name", "age", "tags"}
        and {"name", "age"} <= set(value)
        and isinstance(value["name"], str)
        and 1 <= len(value["name"]) <= 8
        and type(value["age"]) is int
        and 0 <= value["age"] <= 150
        and all(tag in ("a", 'b"') for tag in value.get("tags", []))
        and len(value.get("tags", [])) <= 2
    )


_PERSON: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", 'b"']}, "maxItems": 2},
    },
    "required": ["name", "age"],
}

_FORMATS: Sequence[tuple[Mapping[str, Any], Callable[[str], object]]] = (
    ({"type": "json_schema", "json_schema": {"name": "person", "schema": _PERSON}}, _is_person),
    ({"type": "regex", "pattern": "[a-z]{3,6}-\\d{2}"}, re.compile("[a-z]{3,6}-[0-9]{2}").fullmatch),
    ({"type": "choice", "choices": ["yes", "no, never", "日本"]}, {"yes", "no, never", "日本"}.__contains__),
    (
        {"type": "grammar", "grammar": 'root ::= "<" ("ab" | [0-9]){2,4} ">"'},
        re.compile("<(ab|[0-9]){2,4}>").fullmatch,
    ),
)
"""Formats whose texts are short, each with the test that all of them pass and a random model's do not."""


def _response_format(lab: Lab) -> None:
    """The tiny model is random, and hot: nothing but the grammar can make it answer so."""
    subject = lab.tiny
    hot: dict[str, Any] = {"temperature": 2.0} if subject.supports("temperature") else {}
    requests = [(form, test) for form, test in _FORMATS for _ in range(4)]

    def answer(place: int) -> tuple[str, str]:
        seed = {"seed": place} if subject.supports("seed") else {}
        answer = subject.ask(max_new_tokens=200, response_format=requests[place][0], **hot, **seed)
        return answer.response_text, answer.finish_reason

    with ThreadPoolExecutor(2 * len(requests)) as pool:  # among answers that keep to nothing, in one batch
        free = [pool.submit(subject.greedy) for _ in range(4)]
        answers = list(pool.map(answer, range(len(requests))))
    for (form, test), (text, reason) in zip(requests, answers, strict=True):
        assert reason == "stop", f"{form} went on to the limit: {text!r}"
        assert test(text), f"{text!r} is not what {form} asks for"
    for future in free:
        subject.reference.assert_greedy(subject.prompt_ids(), future.result())
    _json_object(subject, hot)


def _json_object(subject: Subject, hot: Mapping[str, Any]) -> None:
    """Cut off or not, no token of it may have left JSON: each text is an object, or the beginning of one."""
    for seed in range(4):
        options = {**hot, **({"seed": seed} if subject.supports("seed") else {})}
        answer = subject.ask(max_new_tokens=60, response_format={"type": "json_object"}, **options)
        assert answer.response_text.startswith("{")
        if answer.finish_reason == "stop":
            assert isinstance(json.loads(answer.response_text), dict)
    assert subject.ask(response_format={"type": "text"}, max_new_tokens=4, **ENDLESS).response_length == 4


def _timeout(lab: Lab) -> None:
    """An answer in time is the answer; see the tests of leaving for one that is not."""
    assert lab.tiny.greedy(timeout=60) == lab.tiny.greedy()


def _chat(lab: Lab) -> None:
    lab.demo.reference.assert_greedy(lab.demo.prompt_ids(), lab.demo.greedy())


def _score(lab: Lab) -> None:
    subject = lab.reward
    texts = ["ok", "a longer text than the other one, with a few more words in it"]
    expected = [
        float(subject.reference.logits(subject.model.tokenizer.encode_plain(text))[0]) for text in texts
    ]
    scores = subject.model.get_scores(texts)
    assert max(abs(a - b) for a, b in zip(scores, expected, strict=True)) <= 1e-4


def _tools(lab: Lab) -> None:
    subject = lab.demo
    prompt = subject.model.render(STORY, tools=[TOOL])
    assert TOOL["name"] in prompt.text
    answer = subject.model.chat(STORY, tools=[TOOL], max_new_tokens=8, **ENDLESS)[0]
    assert answer.prompt_length == len(prompt)
    subject.reference.assert_greedy(prompt.token_ids, answer.token_ids)


def _load_adapter(lab: Lab) -> None:
    """Loaded, used beside others and unloaded, twice; what can't be loaded changes nothing."""
    subject, model = lab.tiny, lab.tiny.model
    prompt, bare = subject.prompt_ids(), subject.greedy()
    for _ in range(2):
        model.load_adapter("late", lab.late_adapter)
        assert model.adapters["late"] == lab.late_adapter
        answer = subject.greedy(adapter="late")
        Reference(lab.tiny_folder, adapter=lab.late_adapter).assert_greedy(prompt, answer)
        assert answer != bare
        _assert_unharmed(lab, {"late": answer})
        _prove_bad_adapters(lab)
        _assert_unharmed(lab, {"late": answer})
        model.unload_adapter("late")
        assert "late" not in model.adapters
        for ask in (lambda: subject.ask(adapter="late"), lambda: model.unload_adapter("late")):
            with pytest.raises(ParameterError, match="first, second"):
                ask()
        _assert_unharmed(lab, {})


def _prove_bad_adapters(lab: Lab) -> None:
    model, home = lab.tiny.model, lab.home / "bad-adapters"
    shutil.rmtree(home, ignore_errors=True)
    corrupt = shutil.copytree(lab.late_adapter, home / "corrupt")
    weights = corrupt / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-200])
    (home / "empty").mkdir()
    for folder in (home / "empty", home / "nowhere", corrupt, lab.adapter_of_another):
        with pytest.raises(ModelError):
            model.load_adapter("bad", folder)
    with pytest.raises(ParameterError, match="late"):
        model.load_adapter("late", lab.late_adapter)
    assert set(model.adapters) == {*lab.adapters, "late"}


def _assert_unharmed(lab: Lab, others: Mapping[str, list[int]]) -> None:
    """Requests with each adapter, and with none, all at once, get what they get alone."""
    subject = lab.tiny
    prompt = subject.prompt_ids()
    names = [None, *lab.adapters, *others] * 3
    with ThreadPoolExecutor(len(names)) as pool:
        answers = [one.result() for one in [pool.submit(subject.greedy, adapter=name) for name in names]]
    for name, answer in zip(names, answers, strict=True):
        if name is None:
            subject.reference.assert_greedy(prompt, answer)
        elif name in others:
            assert answer == others[name]
        else:
            Reference(lab.tiny_folder, adapter=lab.adapters[name]).assert_greedy(prompt, answer)


def _embed(lab: Lab) -> None:
    """The last token's hidden state behind the final norm, at length 1, whatever stands beside a text."""
    texts = ["ok", "a longer text than the other one, with a few more words in it", "Grüße! 👋🏽"] * 3
    for subject in (lab.tiny_embedder, lab.demo_embedder):
        model = subject.model
        assert not model.engine.can_generate
        for text, told in zip(texts, model.get_embeddings(texts), strict=True):
            ids = model.tokenizer.encode_plain(text)
            state = subject.reference.hidden(ids)[-1]
            _assert_near(told.values, _unit(state))
            assert told.prompt_length == len(ids)
        (raw,) = model.get_embeddings(texts[:1], normalize=False)
        state = subject.reference.hidden(model.tokenizer.encode_plain(texts[0]))[-1]
        _assert_near(raw.values, state)
        (short,) = model.get_embeddings(texts[:1], dimensions=8)
        _assert_near(short.values, _unit(state[:8]))


def _unit(vector: Tensor) -> Tensor:
    from torch.nn.functional import normalize

    return normalize(vector, dim=0)


def _assert_near(values: Sequence[float], expected: Tensor) -> None:
    assert len(values) == len(expected)
    assert max(abs(a - b) for a, b in zip(values, floats(expected), strict=True)) <= 1e-4


def _sleep(lab: Lab) -> None:
    subject, model = lab.tiny, lab.tiny.model
    for _ in range(2):
        model.sleep()
        assert (model.is_sleeping, model.health().state) == (True, "sleeping")
        with pytest.raises(EngineNotReadyError):
            subject.ask()
        model.wake()
        subject.assert_answers_well()


def _flush_cache(lab: Lab) -> None:
    """What was computed before is computed again, and the answer is the same."""
    subject = lab.narrow
    prompt = STORY * 20
    first, second = (subject.ask(prompt, max_new_tokens=8, **ENDLESS) for _ in range(2))
    before = subject.model.health()
    subject.model.flush_cache()
    third = subject.ask(prompt, max_new_tokens=8, **ENDLESS)
    assert third.usage.cached_tokens == 0, "what was flushed is found again"
    assert (second.token_ids, third.token_ids) == (first.token_ids, first.token_ids)
    assert 0 <= second.usage.cached_tokens < second.prompt_length
    after = subject.model.health()
    assert after.prompt_tokens - before.prompt_tokens == third.prompt_length
    assert after.cached_tokens == before.cached_tokens


def _update_weights(lab: Lab) -> None:
    """The answers are those of the other checkpoint, and of the first again; what does not fit changes nothing."""
    subject, model = lab.narrow, lab.narrow.model
    bare = subject.greedy()
    model.update_weights(lab.retrained)
    answer = subject.greedy()
    Reference(lab.retrained).assert_greedy(subject.prompt_ids(), answer)
    assert answer != bare
    home = lab.home / "bad-weights"
    shutil.rmtree(home, ignore_errors=True)
    corrupt = shutil.copytree(lab.retrained, home / "corrupt")
    weights = corrupt / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-200])
    for folder in (home / "nowhere", corrupt, lab.wide):
        with pytest.raises(ModelError):
            model.update_weights(folder)
    assert subject.greedy() == answer
    model.update_weights(lab.tiny_folder)
    assert subject.greedy() == bare


PROOFS: Mapping[str, Proof] = MappingProxyType(
    {
        "chat": Proof(_asking(), _chat),
        "score": Proof(lambda model: model.get_scores(["ok"]), _score),
        "embed": Proof(lambda model: model.get_embeddings(["ok"]), _embed),
        "load_adapter": Proof(lambda model: model.load_adapter("late", "."), _load_adapter),
        "sleep": Proof(lambda model: model.sleep(), _sleep),
        "flush_cache": Proof(lambda model: model.flush_cache(), _flush_cache),
        "update_weights": Proof(lambda model: model.update_weights("."), _update_weights),
        "tools": Proof(_asking(tools=[TOOL]), _tools),
        "images": Proof(_asking(images=["cat.png"]), None),
        "videos": Proof(_asking(videos=["cat.mp4"]), None),
        "audios": Proof(_asking(audios=["cat.wav"]), None),
        "temperature": Proof(_asking(temperature=0.5), _temperature),
        "top_p": Proof(_asking(top_p=0.5), _top_p),
        "top_k": Proof(_asking(top_k=5), _top_k),
        "min_p": Proof(_asking(min_p=0.2), _min_p),
        "repetition_penalty": Proof(_asking(repetition_penalty=1.5), _repetition_penalty),
        "presence_penalty": Proof(_asking(presence_penalty=1.0), _presence_penalty),
        "frequency_penalty": Proof(_asking(frequency_penalty=1.0), _frequency_penalty),
        "logit_bias": Proof(_asking(logit_bias={1: 1.0}), _logit_bias),
        "seed": Proof(_asking(seed=1), _seed),
        "n": Proof(_asking(n=2), _n),
        "max_new_tokens": Proof(_asking(max_new_tokens=2), _max_new_tokens),
        "max_length": Proof(_asking(max_length=1000), _max_length),
        "stop": Proof(_asking(stop=["x"]), _stop),
        "stop_token_ids": Proof(_asking(stop_token_ids=[5]), _stop_token_ids),
        "ignore_eos": Proof(_asking(ignore_eos=True), _ignore_eos),
        "logprobs": Proof(_asking(logprobs=1), _logprobs),
        "prompt_logprobs": Proof(_asking(prompt_logprobs=1), _prompt_logprobs),
        "skip_special_tokens": Proof(_asking(skip_special_tokens=False), _skip_special_tokens),
        "num_beams": Proof(_asking(num_beams=2), _num_beams),
        "length_penalty": Proof(
            _asking(length_penalty=2.0, num_beams=2), _length_penalty, needs=("num_beams",)
        ),
        "adapter": Proof(_asking(adapter="first"), _adapter),
        "response_format": Proof(_asking(response_format={"type": "json_object"}), _response_format),
        "timeout": Proof(_asking(timeout=60), _timeout),
    }
)
"""Feature or parameter → its proof. Media have none until engines take media."""
