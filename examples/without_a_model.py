"""Test your own program without any model: the scripted engine says what you tell it to, in milliseconds."""

from engineroom import ChatModel, ScriptedEngine


def summarise(model: ChatModel, text: str) -> str:
    """Some program of yours that uses a model."""
    return model.chat(f"Summarise: {text}", temperature=0)[0].response_text.strip()


engine = ScriptedEngine(["  It is about cats.  "])
with ChatModel(engine=engine) as model:
    assert summarise(model, "A long text on cats.") == "It is about cats."
    prompt, params = engine.requests[0]
    print(f"asked with {len(prompt)} tokens at temperature {params.temperature}: {prompt.text!r}")
