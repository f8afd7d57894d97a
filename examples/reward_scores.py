"""Score texts and conversations with a reward model; the better one scores higher."""

from engineroom import ChatModel

question = {"role": "user", "content": "How do I leave the chat?"}
kind = [question, {"role": "assistant", "content": "Type /exit. Happy to help!"}]
rude = [question, {"role": "assistant", "content": "Go away, you idiot."}]

with ChatModel({"model_name_or_path": "demo-reward"}) as model:
    for name, score in zip(("kind", "rude"), model.get_scores([kind, rude]), strict=True):
        print(f"{name}: {score:.3f}")
