"""Many questions at once from asynchronous code. Each has parameters of its own."""

import asyncio

from engineroom import ChatModel, Response

QUESTIONS = ["What is 3 plus 4?", "What is the capital of Japan?", "Spell cat.", "Who are you?"]


async def main() -> None:
    with ChatModel() as model:

        async def ask(place: int, question: str) -> Response:
            answers = await model.achat(question, temperature=0.2 * place, seed=place)
            return answers[0]

        for answer in await asyncio.gather(*(ask(i, question) for i, question in enumerate(QUESTIONS))):
            print(answer.response_text)


asyncio.run(main())
