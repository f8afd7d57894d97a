"""``engineroom chat`` with one question: in this process, on the scripted engine."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engineroom import ChatModel, Reply, ScriptedEngine
from engineroom.cli import loading

Run = Callable[..., tuple[int, str, str]]
SCRIPTED = "infer_backend=scripted"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the program answer from a script."""

    def use(*replies: str | Reply, template: str | None = None) -> None:
        options = {"chat_template": template} if template else {}
        monkeypatch.setattr(
            loading,
            "load_model",
            lambda arguments: ChatModel(arguments, engine=ScriptedEngine(replies, **options)),
        )

    return use


def test_json_has_everything_about_the_answer(program: Run, script: Callable[..., None]) -> None:
    script(
        "<think>\nhm\n</think>\n\nJa — 12.", template="{{ '<think></think>'[:0] }}{{ messages[-1].content }}"
    )
    code, out, err = program("chat", "--json", "-p", "7 plus 5?")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    timings = answer.pop("timings")
    assert answer == {
        "text": "Ja — 12.",
        "reasoning": "hm",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 9, "completion_tokens": 19, "total_tokens": 28},
        "model": "demo",
        "engine": "scripted",
    }
    assert set(timings) == {"load_seconds", "first_token_seconds", "answer_seconds", "tokens_per_second"}
    assert timings["tokens_per_second"] > 0


def test_json_has_log_probabilities_where_asked_for(program: Run) -> None:
    _, out, _ = program("chat", "--json", "-p", "a", "logprobs=1", SCRIPTED)
    first = json.loads(out)["logprobs"][0]
    assert first == {"token_id": 97, "logprob": 0.0, "top": [{"token_id": 97, "logprob": 0.0}]}


def test_settings_may_stand_anywhere(program: Run) -> None:
    assert program("chat", SCRIPTED, "-p", "say", "top_k=3", "-s", "Be brief.")[:2] == (0, "say\n")


def test_standard_input_is_the_prompt_or_follows_it(program: Run) -> None:
    assert program("chat", SCRIPTED, stdin="from a pipe\n")[1] == "from a pipe\n"
    assert program("chat", SCRIPTED, "-p", "first", stdin="then\n")[1] == "first\n\nthen\n"
    assert program("chat", SCRIPTED, "-p", "alone", stdin="")[1] == "alone\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-p", "x", "n=2"], "one answer"),
        (["-p", "x", "logprobs=2"], "--json"),
        (["-p", " "], "nothing to answer"),
        (["--json"], "-p TEXT"),
        (["-p", "x", "-c", "--no-history"], "the history is off"),
        (["-p", "x", "top_p=7"], "(0, 1]"),
        (["-p", "x" * 5000], "context"),
    ],
)
def test_misuse_ends_with_2(program: Run, words: list[str], expected: str) -> None:
    code, out, err = program("chat", SCRIPTED, *words)
    assert (code, out) == (2, "")
    assert expected in err


def test_a_reward_model_is_refused_before_anything_is_typed(
    program: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ScriptedEngine()
    engine.can_generate = False
    monkeypatch.setattr(loading, "load_model", lambda arguments: ChatModel(arguments, engine=engine))
    code, _, err = program("chat", "demo-reward", "-p", "x")
    assert code == 2
    assert "engineroom score model_name_or_path=demo-reward" in err
    assert engine.health().state == "closed"


@pytest.mark.parametrize("reply", [Reply("x", error=ValueError("boom")), Reply("x", die=True)])
def test_a_failing_engine_ends_with_1(program: Run, script: Callable[..., None], reply: Reply) -> None:
    script(reply)
    code, _, err = program("chat", "-p", "x")
    assert code == 1
    assert "Traceback" not in err


def test_an_answer_without_a_history_to_go_on_with(program: Run, tmp_path: Path) -> None:
    code, out, err = program("chat", SCRIPTED, "-c", "-p", "first")
    assert (code, out) == (0, "first\n")
    assert "this is a new one" in err
    code, out, err = program("chat", "-c", "-p", "second")
    assert (code, out, err) == (0, "second\n", "")


def test_a_broken_history_is_told_and_answers_come_all_the_same(program: Run, tmp_path: Path) -> None:
    (tmp_path / "conversations.sqlite").write_bytes(b"broken" * 999)
    code, out, err = program("chat", SCRIPTED, "-c", "-p", "first")
    assert (code, out) == (0, "first\n")
    assert "can't be used" in err
