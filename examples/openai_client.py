"""OpenAI's own Python client and a server. Here the script starts it; on a command line it is `engineroom api`."""

import re
import subprocess
import sys
from typing import Literal

from openai import OpenAI
from pydantic import BaseModel

server = subprocess.Popen(
    [sys.executable, "-m", "engineroom", "api", "--port", "0"], stderr=subprocess.PIPE, text=True
)
assert server.stderr is not None
url = next(found[1] for line in server.stderr if (found := re.search(r" answers at (\S+)", line)))
client = OpenAI(base_url=url, api_key="-")

for chunk in client.chat.completions.create(
    model="demo", messages=[{"role": "user", "content": "What is 7 plus 5?"}], stream=True
):
    print(chunk.choices[0].delta.content or "", end="")
print()

print(client.responses.create(model="demo", input="What is the capital of Germany?").output_text)


class Animal(BaseModel):
    name: Literal["cat", "dog"]
    legs: Literal[2, 4]


answer = client.responses.parse(model="demo", input="Name an animal.", text_format=Animal)
print(answer.output_parsed)

client.close()
server.terminate()
server.wait()
server.stderr.close()
