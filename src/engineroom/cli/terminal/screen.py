"""What the terminal shows. On anything else than a terminal: plain text, and answers only."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text
from rich.theme import Theme

from engineroom.cli.conversation import STOPPED, Said
from engineroom.cli.interrupt import Interrupts, quiet_keys
from engineroom.cli.terminal.answer_view import AnswerView, printable
from engineroom.cli.terminal.markdown import Block
from engineroom.cli.terminal.meter import tokens_per_second
from engineroom.cli.terminal.outcome import Table
from engineroom.cli.terminal.session import Answer, can_go_on
from engineroom.errors import EngineroomError

_THEME = Theme({"markdown.code": "cyan", "markdown.code_block": "", "markdown.block_quote": "italic"})


class Screen:
    """Writes to a console; answers go to ``out``, everything else too if that is a terminal, else to ``aside``."""

    def __init__(self, out: Console | None = None, aside: Console | None = None) -> None:
        self.out = out or Console(theme=_THEME, highlight=False)
        self.aside = aside or Console(theme=_THEME, highlight=False, stderr=True)
        self.is_rich = self.out.is_terminal and not self.out.is_dumb_terminal
        if self.out.is_terminal:
            self.aside = self.out

    # --- lines -------------------------------------------------------------------------------------------------

    def title(self, text: str) -> None:
        """The first line of a chat."""
        self.aside.print(Text(printable(text), style="bold"))

    def space(self) -> None:
        """Room between turns."""
        if self.is_rich:
            self.out.print()

    def notice(self, text: str) -> None:
        """A line about something other than the conversation."""
        self.aside.print(Text(printable(text), style="dim"))

    def error(self, error: EngineroomError) -> None:
        """What went wrong, why, and what to do."""
        lines = Text.assemble((printable(error.what), "red"))
        for label, text in (("why", error.why), ("fix", error.fix)):
            if text:
                lines.append(f"\n  {label}: ", style="dim")
                lines.append(printable(text))
        self.aside.print(lines)

    def table(self, table: Table) -> None:
        """Rows, the first column in bold."""
        grid = Grid.grid(padding=(0, 2))
        widest = max((len(row) for row in table.rows), default=1)
        for column in range(widest):
            grid.add_column(style="bold" if column == 0 else None, overflow="fold")
        for row in table.rows:
            grid.add_row(*(Text(printable(cell)) for cell in row))
        if table.rows:
            self.aside.print(grid)
        if table.note:
            self.notice(table.note)

    # --- answers -----------------------------------------------------------------------------------------------

    def answer(self, answer: Answer, thinking_tags: tuple[str, str] | None = None) -> bool:
        """Shows an answer as it comes. Ctrl-C stops it; what came stays. Returns whether it was stopped."""
        with Interrupts() as interrupts, closing(answer), quiet_keys():
            show = self._rich_answer if self.is_rich else self._plain_answer
            return show(answer, interrupts, thinking_tags)

    def _rich_answer(
        self, answer: Answer, interrupts: Interrupts, thinking_tags: tuple[str, str] | None
    ) -> bool:
        with AnswerView(self.out, thinking_tags) as view:
            for delta in interrupts.waiting_for(answer):
                view.push(delta)
        return interrupts.came

    def _plain_answer(
        self, answer: Answer, interrupts: Interrupts, thinking_tags: tuple[str, str] | None
    ) -> bool:
        begun = False
        for delta in interrupts.waiting_for(answer):
            if delta.channel == "answer":
                text = delta.text if begun else delta.text.lstrip("\n")
                begun = begun or bool(text)
                self.out.file.write(printable(text) if self.out.is_terminal else text)
                self.out.file.flush()
        self.out.file.write("\n")
        self.out.file.flush()
        return interrupts.came

    def footer(self, answer: Said, used: int | None, size: int | None) -> None:
        """How the answer came about, dim, below it."""
        parts: list[str] = []
        if answer.first_token_seconds is not None:
            parts.append(f"{answer.first_token_seconds:.2f} s to first token")
        if (speed := tokens_per_second(answer)) is not None:
            parts.append(f"{speed:.1f} tokens/s")
        if used is not None:
            parts.append(f"context {used:,} of {size:,}" if size else f"context {used:,}")
        parts.append(_ENDINGS.get(answer.ended or "", answer.ended or ""))
        if can_go_on(answer):
            parts[-1] += ": /continue"
        if not answer.text:
            parts.insert(0, "no answer yet" if answer.reasoning else "an empty answer")
        self.notice(" · ".join(part for part in parts if part))

    def recall(self, messages: Sequence[Said], last: int) -> None:
        """The end of a conversation, as it looked."""
        if len(messages) > last:
            self.notice(f"… {len(messages) - last} earlier messages")
        for message in messages[-last:]:
            if message.role == "user":
                self.space()
                self.question(message.text)
            elif self.is_rich:
                self.aside.print(Block(printable(message.text)))
            else:
                self.aside.print(Text(message.text))

    def question(self, text: str) -> None:
        """A message of the user's that was not just typed."""
        self.aside.print(Text.assemble(("> ", "bold cyan"), printable(text)))


_ENDINGS = {
    "stop": "finished",
    "length": "cut at the token limit",
    "abort": "given up by the engine",
    STOPPED: "stopped",
}
