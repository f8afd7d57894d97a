"""Anthropic's own Python client and a server. Here the script starts it; on a command line it is `engineroom api`."""

import re
import subprocess
import sys

from anthropic import Anthropic

server = subprocess.Popen(
    [sys.executable, "-m", "engineroom", "api", "--port", "0"], stderr=subprocess.PIPE, text=True
)
assert server.stderr is not None
url = next(found[1] for line in server.stderr if (found := re.search(r" answers at (\S+)/v1", line)))
client = Anthropic(base_url=url, api_key="-")  # without /v1, which this client adds

with client.messages.stream(
    model="demo", max_tokens=100, messages=[{"role": "user", "content": "What is 7 plus 5?"}]
) as stream:
    for text in stream.text_stream:
        print(text, end="")
    print()
    print(stream.get_final_message().usage.output_tokens, "tokens")

client.close()
server.terminate()
server.wait()
server.stderr.close()
