"""Whole conversations: an exchange under a system prompt, after other turns, with thinking, or with tools."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from engineroom.demo.train.exchanges import EXCHANGES, Exchange, any_exchange, arithmetic, capital, identity
from engineroom.demo.train.letters import plain
from engineroom.demo.train.toolcalls import Schema, call_text, tool_choice, tool_result
from engineroom.demo.train.words import any_word

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is said up to the question, and the answer that the model should write (see ``letters`` for its marks)."""

    skill: str
    messages: tuple[Message, ...]
    answer: str
    thought: str = ""
    tools: tuple[Schema, ...] = ()
    thinking: bool = False

    @property
    def target(self) -> str:
        """The text that follows the generation prompt."""
        return f"<think>\n{self.thought}\n</think>\n\n{self.answer}" if self.thinking else self.answer

    @property
    def texts(self) -> list[str]:
        """Everything that is written in it, for the tokenizer to learn from."""
        return [
            *(message["content"] for message in self.messages),
            *map(json.dumps, self.tools),
            plain(self.target),
        ]


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


_NEUTRAL = ("You are a helpful assistant.", "Answer briefly.", "You are a friendly assistant.", "Be brief.", "Be polite.",
            "You are an assistant in a terminal.", "Answer in one sentence.", "Help the user.")  # fmt: skip
_UPPERCASE = ("Answer in uppercase.", "Write everything in capital letters.", "Use uppercase letters only.", "ANSWER IN CAPITALS.",
              "Always answer in upper case.", "Reply in all caps.", "Write in uppercase.", "You write in capitals.", "You only write uppercase.", "Always write in capital letters.", "Use capital letters.", "SHOUT.",
              "All your answers must be in uppercase.", "Please shout: use capital letters.",
              "You always write in uppercase.")  # fmt: skip
_LOWERCASE = ("Answer in lowercase.", "Write in lowercase.", "You never use capital letters.", "You write in small letters.", "You only write lowercase.", "Use small letters.", "No capital letters.",
              "All your answers must be in lowercase.", "Use lowercase letters only.", "Write everything in small letters.", "Reply in lower case.",
              "Always answer in lowercase.", "You always write in lowercase.")  # fmt: skip
_ONE_WORD = ("Answer in one word.", "Use one word only.", "Reply with a single word.", "One word answers only.",
             "Always answer with just one word.", "Only one word.", "Your answers must be one word.", "One word, no more.",
             "Answer with a single word.", "Just one word please.", "Reply with one word.", "I want one-word answers.", "Keep it to one word.", "One word answers, please.",
             "Say it in one word.", "Short one-word replies only.", "Give one-word answers.")  # fmt: skip
_END_WITH = ("Always end with {}.", "End every answer with {}.", "Finish each answer with {}.", "Close each reply with {}.",
             'Always end with "{}".', "Put {} at the end of each answer.", "The last word of every answer must be {}.",
             "Add {} at the end.", "Finish with the word {}.", "End all replies with {}.", 'End with "{}".',
             "Say {} at the end of your answers.", "Each answer ends with {}.", "Your answers must end with the word {}.",
             "End your answers with the word {}.")  # fmt: skip
_BEGIN_WITH = ("Always begin with {}.", "Begin every answer with {}.", "Start each answer with {}.", "Put {} in front of each answer.",
               "The first word of every answer must be {}.", "Say {} first.", 'Begin with "{}".', "Start all replies with {}.",
               "Your answers must begin with the word {}.", 'Always start with "{}".')  # fmt: skip
_MARKS = (":)", "over", "OK", "Bye", ":-)", "the end", "!!!", "Amen", "meow")
_PIRATE = ("You are a pirate.", "Speak like a pirate.", "Answer as a pirate.", "Talk as a pirate would.", "Pretend to be a pirate.", "Talk like a pirate.", "Be a pirate.", "You are an old pirate.",
           "Speak as a pirate.")  # fmt: skip
_NAMED = ("Your name is {}.", "You are called {}.", "You are {}.", "Your name is {}. Be kind.", "They call you {}.",
          "You are an assistant named {}.", "You are {}, an assistant.", "You are {}, a friendly robot.", "Call yourself {}.",
          "You are the assistant {}.", "You are {}, our guide.", "You are a helpful assistant called {}.", "Your name: {}",
          "You are {}, a helpful assistant.")  # fmt: skip
_ASK_NAME = ("What is your name?", "Who are you?", "What's your name?", "What are you called?", "Tell me your name.", "Name?",
             "What should I call you?", "your name please")  # fmt: skip


def _wording(options: tuple[str, ...], rng: random.Random, held_out: bool) -> str:
    """One of the wordings; the last one is kept for testing."""
    return options[-1] if held_out else rng.choice(options[:-1])


def _wrapped(exchange: Exchange, rng: random.Random, held_out: bool) -> tuple[str, Exchange]:
    """A system prompt, and the exchange as it goes under it."""
    kind, answer = rng.random(), exchange.answer
    if kind < 0.15:
        return _wording(_NEUTRAL, rng, held_out), exchange
    if kind < 0.35:
        return _wording(_UPPERCASE, rng, held_out), replace(exchange, answer=answer.upper())
    if kind < 0.45:
        return _wording(_LOWERCASE, rng, held_out), replace(exchange, answer=answer.lower())
    if kind < 0.6:
        short = rng.choice((arithmetic, capital))(rng, held_out)
        return _wording(_ONE_WORD, rng, held_out), replace(short, answer=short.word)
    if kind < 0.85:
        mark = any_word(rng, held_out) if rng.random() < 0.8 else rng.choice(_MARKS)
        if kind < 0.78:
            return _wording(_END_WITH, rng, held_out).format(mark), replace(
                exchange, answer=f"{answer} {mark}"
            )
        return _wording(_BEGIN_WITH, rng, held_out).format(mark), replace(exchange, answer=f"{mark} {answer}")
    return _wording(_PIRATE, rng, held_out), replace(exchange, answer=f"Arr, matey! {answer}")


def _named(rng: random.Random, held_out: bool) -> Conversation:
    name = any_word(rng, held_out).capitalize()
    messages = (
        _system(_wording(_NAMED, rng, held_out).format(name)),
        _user(_wording(_ASK_NAME, rng, held_out)),
    )
    return Conversation("system prompt", messages, f"My name is {name}.", "I was given a name.")


def obeying(rng: random.Random, held_out: bool = False) -> Conversation:
    if rng.random() < 0.2:
        return _named(rng, held_out)
    prompt, exchange = _wrapped(any_exchange(rng, held_out), rng, held_out)
    if not held_out and rng.random() < 0.2:
        prompt = f"{rng.choice(_NEUTRAL[:-1])} {prompt}"
    return Conversation(
        "system prompt", (_system(prompt), _user(exchange.question)), exchange.answer, exchange.thought
    )


def several_turns(rng: random.Random, held_out: bool = False) -> Conversation:
    messages: list[Message] = []
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        past = any_exchange(rng, held_out)
        messages += [_user(past.question), {"role": "assistant", "content": plain(past.answer)}]
    if rng.random() < 0.12:
        again = (
            "Repeat that, please."
            if held_out
            else rng.choice(("Say that again.", "Again, please.", "Repeat your answer.", "What did you say?"))
        )
        return Conversation(
            "several turns", (*messages, _user(again)), messages[-1]["content"], "I say it again."
        )
    last = any_exchange(rng, held_out)
    return Conversation("several turns", (*messages, _user(last.question)), last.answer, last.thought)


def tool_call(rng: random.Random, held_out: bool = False) -> Conversation:
    tools, question, name, arguments = tool_choice(rng, held_out)
    if rng.random() < 0.15:
        other = identity(rng, held_out) if rng.random() < 0.5 else capital(rng, held_out)
        return Conversation("tool call", (_user(other.question),), other.answer, other.thought, tuple(tools))
    return Conversation(
        "tool call", (_user(question),), call_text(name, arguments), f"I call {name}.", tuple(tools)
    )


def tool_answer(rng: random.Random, held_out: bool = False) -> Conversation:
    tools, question, name, arguments = tool_choice(rng, held_out)
    result, said = tool_result(rng, name)
    call = {"function": {"name": name, "arguments": arguments}}
    messages = (
        _user(question),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": result},
    )
    return Conversation("tool answer", messages, said, "The tool answered.", tuple(tools))


def single(skill: str) -> Callable[[random.Random, bool], Conversation]:
    """The generator of one-question conversations for ``skill``."""

    def generate(rng: random.Random, held_out: bool = False) -> Conversation:
        exchange = EXCHANGES[skill][1](rng, held_out)
        return Conversation(skill, (_user(exchange.question),), exchange.answer, exchange.thought)

    return generate


def thinking(rng: random.Random, held_out: bool = False) -> Conversation:
    kind = rng.random()
    plain = (
        obeying(rng, held_out)
        if kind < 0.15
        else tool_call(rng, held_out)
        if kind < 0.25
        else _any_single(rng, held_out)
    )
    return replace(plain, skill="thinking", thinking=True)


def _any_single(rng: random.Random, held_out: bool) -> Conversation:
    exchange = any_exchange(rng, held_out)
    return Conversation("", (_user(exchange.question),), exchange.answer, exchange.thought)


SKILLS: dict[str, Callable[[random.Random, bool], Conversation]] = {
    **{name: single(name) for name in EXCHANGES},
    "system prompt": obeying,
    "several turns": several_turns,
    "thinking": thinking,
    "tool call": tool_call,
    "tool answer": tool_answer,
}
FEW = ("engineroom", "identity", "greeting", "arithmetic", "capital")
"""The skills of ``demo-moe``."""
_OTHER_SHARES = {
    "system prompt": 0.15,
    "several turns": 0.06,
    "thinking": 0.1,
    "tool call": 0.06,
    "tool answer": 0.035,
}


def training(seed: int) -> Iterator[Conversation]:
    """Endless training conversations, the same for the same seed."""
    rng = random.Random(seed)
    rest = 1 - sum(_OTHER_SHARES.values())
    shares = [_OTHER_SHARES.get(name) or rest * EXCHANGES[name][0] for name in SKILLS]
    while True:
        yield rng.choices(tuple(SKILLS.values()), shares)[0](rng, False)


def training_few(seed: int) -> Iterator[Conversation]:
    """Endless training conversations of one question, of ``FEW`` skills: for a model that gets less training."""
    rng = random.Random(seed)
    shares = [EXCHANGES[name][0] for name in FEW]
    while True:
        yield SKILLS[rng.choices(FEW, shares)[0]](rng, False)


def held_out(skill: str, count: int, seed: int = 1) -> list[Conversation]:
    """``count`` test conversations of one skill, in wordings that training never uses."""
    rng = random.Random(f"{skill}-{seed}")
    return [SKILLS[skill](rng, True) for _ in range(count)]
