"""A session without a terminal, for the tests of the terminal."""

from collections.abc import Callable
from typing import Any

from engineroom import ChatModel, Prompt, Reply, SamplingParams, ScriptedEngine
from engineroom.cli.store import ConversationStore
from engineroom.cli.terminal import commands
from engineroom.cli.terminal.outcome import Outcome, Stream
from engineroom.cli.terminal.session import Answer, Session

THINKING_TEMPLATE = """\
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""

Answering = Callable[[Prompt, SamplingParams], str | Reply]


class Chat:
    """A session, and the slash commands on it, as a user would type them."""

    def __init__(
        self,
        *replies: str | Reply,
        answering: Answering | None = None,
        arguments: dict[str, Any] | None = None,
        template: str | None = None,
        store: ConversationStore | None = None,
        edit: Callable[[str], str | None] = lambda text: None,
        **options: Any,
    ) -> None:
        script = answering or (replies or ["Hello!"])
        engine = ScriptedEngine(script, **({"chat_template": template} if template else {}))
        self.engine = engine
        self.session = Session(ChatModel(arguments or {}, engine=engine), store=store, **options)
        self.context = commands.Context(self.session, edit)

    def type(self, line: str) -> Outcome | str:
        """What a line led to; an answer as its text."""
        outcome = commands.run(self.context, line) or Stream(self.session.ask(line.strip()))
        return drain(outcome.answer) if isinstance(outcome, Stream) else outcome

    @property
    def said(self) -> list[tuple[str, str]]:
        return [(message.role, message.text) for message in self.session.messages]

    @property
    def last_prompt(self) -> str:
        return self.engine.requests[-1][0].text

    def close(self) -> None:
        self.session.model.close()


Making = Callable[..., Chat]
"""Makes a chat, of what :class:`Chat` takes."""


def drain(answer: Answer) -> str:
    return "".join(delta.text for delta in answer)
