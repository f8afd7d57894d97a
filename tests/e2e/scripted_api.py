"""``engineroom api`` with a scripted model, for the tests of its clients.

``wait`` in a message: the answer pauses after its first word for good. ``fail``: the engine fails on it after a word.
``think``: it thinks before it answers. Any other message is said again.
"""

from engineroom import ChatModel, Prompt, Reply, SamplingParams, ScriptedEngine
from engineroom.bridge import Bridge
from engineroom.cli import loading, main
from engineroom.config import Arguments

TEMPLATE = """\
{#- <think> </think> -#}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def answer(prompt: Prompt, params: SamplingParams) -> Reply:
    head, _, begun = prompt.text.rpartition("<|im_start|>assistant\n")
    question = head.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
    if "wait" in question:
        return Reply("Streaming then the rest.", pause_at=9)
    if "fail" in question:
        return Reply("Hello", error=RuntimeError("the script says so"))
    if "think" in question:
        return Reply("<think>\nLet me see.\n</think>\n\nIt is 12.")
    return Reply(f"You said: {question}"[len(begun) :])


def load(arguments: Arguments, bridge: Bridge | None = None) -> ChatModel:
    return ChatModel(arguments, engine=ScriptedEngine(answer, chat_template=TEMPLATE), bridge=bridge)


if __name__ == "__main__":
    loading.load_model = load
    main()
