"""How answers look, on a terminal and elsewhere."""

import io
from collections.abc import Iterable
from typing import Any

import pytest
from rich.console import Console

from engineroom.cli.conversation import Said
from engineroom.cli.terminal.answer_view import printable
from engineroom.cli.terminal.markdown import split_finished
from engineroom.cli.terminal.meter import Meter, tokens_per_second
from engineroom.cli.terminal.outcome import Table
from engineroom.cli.terminal.screen import Screen
from engineroom.errors import ModelNotFoundError
from engineroom.types import Channel, Delta, Usage

MARKDOWN = """\
# Title
one
two

- a
- b
  - c

```python
print(1)

print(2)
```
<b>html</b> <tool_call>

| a | b |
|---|---|
| 1 | 2 |

> quote

[1]: https://example.org

last **bold**
"""


def deltas(text: str, channel: Channel = "answer", size: int = 3) -> Iterable[Delta]:
    return [Delta(text[i : i + size], channel=channel) for i in range(0, len(text), size)]


def screen(*, terminal: bool, width: int = 60, **options: Any) -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, height=20, highlight=False, **options)
    return Screen(console, None if terminal else Console(file=io.StringIO())), out


def shown(answer: Iterable[Delta], **options: Any) -> str:
    """What is left on a terminal after the answer, without its control sequences."""
    import pyte

    view, out = screen(terminal=True, **options)
    view.answer((d for d in answer), ("<think>", "</think>"))  # type: ignore[arg-type]
    display = pyte.Screen(60, 200)
    pyte.Stream(display).feed(out.getvalue().replace("\n", "\r\n"))
    return "\n".join(line.rstrip() for line in display.display).rstrip()


# --- blocks --------------------------------------------------------------------------------------------------------


def test_no_character_is_lost_wherever_the_text_is_cut() -> None:
    for end in range(len(MARKDOWN) + 1):
        finished, last = split_finished(MARKDOWN[:end])
        assert "".join(finished) + last == MARKDOWN[:end]


def test_a_finished_block_stays_finished() -> None:
    before: list[str] = []
    for end in range(len(MARKDOWN) + 1):
        finished, _ = split_finished(MARKDOWN[:end])
        assert [b.strip() for b in finished[: len(before)]] == [b.strip() for b in before]
        before = finished
    assert len(before) == 8


def test_what_looks_finished_but_may_change_is_held() -> None:
    assert split_finished("a title\n") == ([], "a title\n")
    assert split_finished("a title\n===\n") == ([], "a title\n===\n")
    assert split_finished("```\ncode\n\nmore\n")[0] == []


# --- the terminal --------------------------------------------------------------------------------------------------


def test_everything_that_was_said_is_shown() -> None:
    look = shown(deltas(MARKDOWN))
    words = ["Title", "one", "two", "• a", "• c", "print(1)", "print(2)", "<b>html</b> <tool_call>", "quote"]
    places = [look.index(word) for word in [*words, "[1]: https://example.org", "last bold"]]
    assert places == sorted(places)
    assert "\n\n\n" not in look
    for word in ("Title", "• b", "print(2)", "last bold"):
        assert look.count(word) == 1


def test_the_look_does_not_depend_on_how_the_text_was_cut() -> None:
    assert shown(deltas(MARKDOWN, size=1)) == shown(deltas(MARKDOWN, size=1000))


def test_line_breaks_stay_where_the_model_made_them() -> None:
    assert shown(deltas("roses are red\nviolets are blue")) == "roses are red\nviolets are blue"


def test_thoughts_stand_apart() -> None:
    thought = deltas("<think>\nfirst\n\nthen\n</think>", "reasoning", size=100)
    assert shown([*thought, *deltas("\n\n12.")]) == "│ first\n\n│ then\n\n12."


def test_an_answer_longer_than_the_screen_is_whole_in_the_end() -> None:
    text = "\n".join(f"- item {i}" for i in range(100))
    assert shown(deltas(text)).splitlines() == [f" • item {i}" for i in range(100)]


def test_a_model_can_not_steer_the_terminal() -> None:
    assert printable("a\x1b]0;owned\x07b\x9b31m\r\nc\td") == "a�]0;owned�b�31m\nc\td"
    assert "\x1b]0" not in shown(deltas("\x1b]0;owned\x07 `\x1b[31m`"))


@pytest.mark.parametrize(
    "text", ["[bold]x[/bold]", "[/]", ":smile:", "<script>", "a\n\n\n\nb", "**", "`", "|", "1."]
)
def test_markup_of_others_is_text(text: str) -> None:
    assert shown(deltas(text)) == text.replace("\n\n\n\n", "\n\n")


# --- elsewhere -----------------------------------------------------------------------------------------------------


def test_what_is_no_terminal_gets_the_plain_answer() -> None:
    view, out = screen(terminal=False)
    answer = [*deltas("<think>\nhm\n</think>", "reasoning"), *deltas("\n\n**bold** \x1b[1m [link](x)\n")]
    view.answer((d for d in answer), ("<think>", "</think>"))  # type: ignore[arg-type]
    assert out.getvalue() == "**bold** \x1b[1m [link](x)\n\n"
    view.notice("not here")
    assert "not here" not in out.getvalue()


def test_a_dumb_terminal_gets_plain_text_that_can_not_steer_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    view, out = screen(terminal=True)
    view.answer((d for d in deltas("**bold** \x1b[1m")), None)  # type: ignore[arg-type]
    assert out.getvalue() == "**bold** �[1m\n"


# --- footer, tables, errors ----------------------------------------------------------------------------------------


def foot(answer: Said, used: int | None = 30, size: int | None = 2048) -> str:
    view, out = screen(terminal=True, width=200, no_color=True)
    view.footer(answer, used, size)
    return out.getvalue().replace("\x1b[2m", "").replace("\x1b[0m", "").strip()


def test_the_footer_says_how_the_answer_came_about() -> None:
    answer = Said(
        "assistant",
        "x",
        ended="stop",
        completion_tokens=11,
        first_token_seconds=0.5,
        seconds=1.5,
        prompt_tokens=19,
    )
    assert foot(answer) == "0.50 s to first token · 10.0 tokens/s · context 30 of 2,048 · finished"
    assert foot(Said("assistant", "x", ended="abort"), None, None) == "given up by the engine"


@pytest.mark.parametrize(("ended", "word"), [("length", "cut at the token limit"), ("stopped", "stopped")])
def test_the_footer_offers_to_go_on(ended: str, word: str) -> None:
    assert foot(Said("assistant", "x", ended=ended)).endswith(f"{word}: /continue")


def test_the_footer_tells_an_empty_answer() -> None:
    assert foot(Said("assistant", "", ended="stop")).startswith("an empty answer")
    assert foot(Said("assistant", "", reasoning="hm", ended="length")).startswith("no answer yet")


def test_tables_and_errors_show_every_word() -> None:
    view, out = screen(terminal=True, width=40)
    view.table(Table((("name", "[value]"), ("x",)), note="a [note]"))
    view.error(ModelNotFoundError("what [1]", why="why [2]", fix="fix [3]"))
    for word in ("[value]", "a [note]", "what [1]", "why [2]", "fix [3]"):
        assert word in out.getvalue()


# --- the meter -----------------------------------------------------------------------------------------------------


def test_the_meter_measures() -> None:
    ticks = iter([0.0, 2.0, 4.0])
    meter = Meter(clock=lambda: next(ticks))
    meter.push(Delta("", token_ids=()))
    meter.push(Delta("a", token_ids=(1,)))
    meter.push(Delta("b", token_ids=(2, 3), finish_reason="stop", usage=Usage(7, 3)))
    said = meter.said()
    assert (said.text, said.ended, said.prompt_tokens, said.completion_tokens) == ("ab", "stop", 7, 3)
    assert (said.first_token_seconds, said.seconds) == (2.0, 4.0)
    assert tokens_per_second(said) == 1.0
    assert tokens_per_second(Said("assistant", "", completion_tokens=1, seconds=1.0)) is None
