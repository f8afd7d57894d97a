"""What the model nearly said: each token with its probability and the runners-up."""

from math import exp

from engineroom import ChatModel

with ChatModel() as model:
    for delta in model.stream_deltas("What is 7 plus 5?", temperature=0, logprobs=3):
        for token in delta.logprobs or ():
            runners_up = ", ".join(
                f"{model.tokenizer.decode([token_id], skip_special_tokens=False)!r} {exp(logprob):.1%}"
                for token_id, logprob in token.top
            )
            print(f"{delta.text!r:12} {exp(token.logprob):6.1%}   of: {runners_up}")
