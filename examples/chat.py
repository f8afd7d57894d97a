"""Ask a model, then ask again with the answer as part of the conversation."""

from engineroom import ChatModel

with ChatModel() as model:  # the shipped model; or ChatModel({"model_name_or_path": "a/folder"})
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    answer = model.chat(messages, temperature=0)[0]
    print(answer.response_text)
    print(f"{answer.prompt_length} tokens in, {answer.response_length} out, ended by {answer.finish_reason}")

    messages += [
        {"role": "assistant", "content": answer.response_text},
        {"role": "user", "content": "What is 7 plus 5?"},
    ]
    for piece in model.stream_chat(messages, system="Answer briefly.", temperature=0):
        print(piece, end="", flush=True)
    print()
