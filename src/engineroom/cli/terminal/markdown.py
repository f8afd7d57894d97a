"""Markdown that grows: which blocks of it are finished, and how a block looks."""

from __future__ import annotations

import itertools
import re
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement
from rich.syntax import Syntax
from rich.text import Text

# Raw HTML and link definitions stay text: Rich leaves them out, and what the model said would vanish without a word.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable("reference")


class _PlainHeading(Heading):
    """A heading at the left margin; Rich centres it in a box."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = Text(self.text.plain, style="bold underline" if self.tag == "h1" else "bold")
        yield text


class _PlainCode(CodeBlock):
    """Code at the left margin, so that what is copied from the terminal runs; Rich indents it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Syntax(str(self.text).rstrip(), self.lexer_name, theme=self.theme, word_wrap=True)


class Block(Markdown):
    """A piece of an answer as it looks on the screen. Line breaks stay where the model made them."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _PlainHeading,
        "fence": _PlainCode,
        "code_block": _PlainCode,
    }

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=True)
        self.markup = text
        self.parsed = _PARSER.parse(text)
        if not any(token.content or token.type == "hr" for token in self.parsed):
            self.parsed = _literally(text)  # "12." is a list without a word in it: Rich shows nothing of it
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"


def _literally(text: str) -> list[Token]:
    """A paragraph of the text as it is."""
    word = Token("text", "", 0, content=text.strip())
    inline = Token("inline", "", 0, content=text, children=[word], block=True, level=1)
    return [Token("paragraph_open", "p", 1), inline, Token("paragraph_close", "p", -1)]


def split_finished(text: str) -> tuple[list[str], str]:
    """Growing Markdown as the blocks that can't change any more, and the last one, which can.

    The last block may grow, or turn into something else: a paragraph into a heading or a table by the line after it.
    """
    starts = [token.map[0] for token in _PARSER.parse(text) if _begins_block(token) and token.map]
    if len(starts) < 2:
        return [], text
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)  # splitlines() knows more line ends than Markdown does
    cuts = [0, *starts[1:]]
    finished = ["".join(lines[a:b]) for a, b in itertools.pairwise(cuts)]
    return finished, "".join(lines[cuts[-1] :])


def _begins_block(token: Token) -> bool:
    return token.level == 0 and token.nesting >= 0
