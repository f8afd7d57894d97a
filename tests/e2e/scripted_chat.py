"""The program with a scripted model that pauses, for the tests of the terminal.

``wait`` in a message: the answer pauses after its first word until a line comes through the named pipe in
``$RESUME_PIPE``. ``long``: two paragraphs, cut at ``max_new_tokens``. Any other message is said again.
"""

import os
import threading
from pathlib import Path

from engineroom import ChatModel, Prompt, Reply, SamplingParams, ScriptedEngine
from engineroom.cli import loading, main
from engineroom.config import Arguments

LONG = "The first paragraph is **here**.\n\nThe second one ends now."


def answer(prompt: Prompt, params: SamplingParams) -> Reply:
    head, _, begun = prompt.text.rpartition("<|im_start|>assistant\n")
    question = head.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
    if "wait" in question:
        text = "Streaming then the rest."
        return Reply(text[len(begun) :], pause_at=None if begun else 9, resume=RESUME)
    if "long" in question:
        return Reply(LONG[len(begun) :])
    return Reply(f"You said: {question}"[len(begun) :])


def load(arguments: Arguments) -> ChatModel:
    return ChatModel(arguments, engine=ScriptedEngine(answer, context_length=1024))


RESUME = threading.Event()


def wait_for_resume() -> None:
    with Path(os.environ["RESUME_PIPE"]).open() as pipe:
        pipe.readline()
    RESUME.set()


if "RESUME_PIPE" in os.environ:
    threading.Thread(target=wait_for_resume, daemon=True).start()
loading.load_model = load
main()
