# ruff: noqa: SIM905 -- lists of wordings, easier to read as they are
"""One question and its answer, per skill. Every generator draws from a seeded ``random.Random`` only.

With ``held_out`` a generator uses phrasings (and, for spelling and names, words) that training never uses.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from engineroom.demo.train.facts import (
    ABOUT_FRAMES,
    CAPITAL_FRAMES,
    CAPITALS,
    ENGINEROOM,
    FRAMES,
    GREETINGS,
    HELD_OUT_CAPITAL_FRAMES,
    HELD_OUT_FRAMES,
    IDENTITY,
    UNKNOWN,
    Fact,
)
from engineroom.demo.train.letters import letter_by_letter
from engineroom.demo.train.words import (
    HELD_OUT_RANDOM_QUESTIONS,
    NOUNS,
    RANDOM_PLAIN,
    RANDOM_QUESTIONS,
    any_word,
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question, the whole answer, the short thought before it, and the answer in one word if there is one."""

    question: str
    answer: str
    thought: str
    word: str = ""


NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
_PLUS = (
    "What is {a} plus {b}?", "{a}+{b}", "{a} + {b}", "{a} + {b} = ?", "add {a} and {b}", "what's {a} plus {b}",
    "How much is {a} plus {b}?", "{a} plus {b}", "What is {a}+{b}?", "Compute {a} + {b}.", "What is {a} + {b}?",
    "Calculate {a} plus {b}.", "What is the sum of {a} and {b}?", "sum of {a} and {b}", "{a}+{b}=", "Add {b} to {a}.",
    "Can you add {a} and {b}?", "What does {a} plus {b} make?", "{a} plus {b} equals", "What do you get if you add {a} and {b}?",
    "Solve {a} + {b}.", "What is {a} and {b} together?", "the total of {a} and {b}", "{a} plus {b} = ?", "Tell me {a} plus {b}.",
    "Can you tell me what {a} + {b} is?", "I have {a} apples and get {b} more. How many do I have?",
    "What is the result of {a} + {b}?", "Give me {a} plus {b}.",
    "{a} and {b} summed up", "Put {a} and {b} together.", "{a} added to {b}?", "adding {a} and {b}", "{a} and {b} make?",
    "How much do {a} and {b} make together?", "sum {a} and {b}", "If you add {a} to {b}, what is it?", "{a} & {b} added up?", "Please calculate {a}+{b}.",
)  # fmt: skip
_PLUS_HELD_OUT = ("How many are {a} plus {b}?", "Work out {a} + {b}.", "{a} and {b} added together?")
_MINUS = (
    "What is {a} minus {b}?", "{a}-{b}", "{a} - {b}", "{a} - {b} = ?", "subtract {b} from {a}", "what's {a} minus {b}",
    "How much is {a} minus {b}?", "{a} minus {b}", "What is {a}-{b}?", "Compute {a} - {b}.", "What is {a} - {b}?",
    "Calculate {a} minus {b}.", "Take {b} away from {a}.", "{a}-{b}=", "What is left of {a} without {b}?",
    "Can you subtract {b} from {a}?", "What does {a} minus {b} make?", "{a} minus {b} equals", "{a} minus {b} = ?",
    "What do you get if you subtract {b} from {a}?", "Solve {a} - {b}.", "the difference of {a} and {b}", "Tell me {a} minus {b}.",
    "Can you tell me what {a} - {b} is?", "I have {a} apples and lose {b}. How many are left?", "Please calculate {a}-{b}.",
    "What is the result of {a} - {b}?", "Give me {a} minus {b}.",
    "{b} taken away from {a}?", "{a} take away {b}", "{a} less {b}", "If you take {b} off {a}, what is left?", "subtracting {b} from {a}", "How much is {a} less {b}?",
)  # fmt: skip
_MINUS_HELD_OUT = ("How many are {a} minus {b}?", "Work out {a} - {b}.", "Take {b} from {a}.")
_SPELL = ("spell {}", "spell the word {}", 'spell "{}"', "spell out {}", "spell {} letter by letter", "spell the name {}",
          "tell me how to spell {}", "give me the letters of {}", "write {} letter by letter", "list the letters of {}",
          "How do you spell {}?", "How is {} spelled?", "What are the letters of {}?", "How would you spell {}?",
          "how to spell {}", "the letters of {}", "Which letters are in {}?", "spell {} aloud", "spell {} slowly",
          "Which letters make up {}?", "Do you know how {} is spelled?", "letter by letter: {}")  # fmt: skip
_SPELL_HELD_OUT = ("Would you kindly spell {} out?", "What letters does {} have?")
_REVERSE = ("reverse {}", "reverse the word {}", 'reverse "{}"', "spell {} backwards", "write {} backwards", "say {} backwards",
            "turn the word {} around", "write the word {} in reverse", "reverse the letters of {}", "flip the word {}",
            "What is {} backwards?", "How is {} written backwards?", "What does {} look like reversed?", "read {} from the end", "spell {} from back to front",
            "What do you get when you reverse {}?", "what is {} in reverse?", "{} backwards")  # fmt: skip
_REVERSE_HELD_OUT = ("Would you kindly reverse {}?", "How does {} read backwards?")
_REPEAT = ("repeat {}", "repeat the word {}", "say {}", 'repeat "{}"', "repeat after me: {}", "say the word {}",
           "just say {}", "write the word {}", "echo {}", "print the word {}", "say only {}", 'say "{}"', "What I want you to say is {}.", "kindly say {} again", "say {} one more time",
           "Your answer should be {}.", "please answer with {}")  # fmt: skip
_REPEAT_HELD_OUT = ("Would you kindly repeat {}?", "I want to hear {} from you.")
_ASKING = (
    "",
    "would you ",
    "will you ",
    "kindly ",
    "I need you to ",
    "let us ",
    "go on and ",
    "just ",
    "",
    "",
    "",
    "please ",
    "can you ",
    "could you ",
    "now ",
    "I want you to ",
    "OK, ",
    "try to ",
    "hey, ",
    "can you please ",
)
_ENDING = (
    "",
    " then",
    " once",
    " aloud.",
    " today",
    " to me.",
    " and nothing else.",
    " quickly",
    " if you can.",
    "",
    ".",
    ".",
    "!",
    " please",
    " please.",
    " for me.",
    " now.",
    " for us",
    "?",
    " thanks",
    ", please.",
    " for me?",
)

_BEFORE = (
    "Please, ",
    "Hey, ",
    "Hi, ",
    "OK, ",
    "So, ",
    "Tell me: ",
    "Question: ",
    "Hello! ",
    "One question: ",
    "um, ",
)
_AFTER = (" please", " Thanks!", " please?", ", please", " now", " Thank you.", " in engineroom")
_FILLERS = frozenset("a an the is are do does i can to how what of it my me you there for".split())


def _misspelt(text: str, rng: random.Random) -> str:
    if len(text) < 8:
        return text
    at = rng.randrange(1, len(text) - 2)
    return text[:at] + (text[at + 1] + text[at] + text[at + 2 :] if rng.random() < 0.5 else text[at + 1 :])


def vary(question: str, rng: random.Random, strong: bool = False) -> str:
    """The question as different people type it: case, punctuation, politeness; ``strong`` adds typos and keywords."""
    if strong and rng.random() < 0.08:
        question = (
            " ".join(word for word in question.split() if word.lower().strip("?.,") not in _FILLERS)
            or question
        )
    if strong and rng.random() < 0.12:
        question = _misspelt(question, rng)
    if rng.random() < 0.3:
        question = question.rstrip("?.!")
    if rng.random() < 0.08:
        question = rng.choice(_BEFORE) + question[:1].lower() + question[1:]
    if rng.random() < 0.06:
        question = question.rstrip("?.!") + rng.choice(_AFTER[:-1] if not strong else _AFTER)
    kind = rng.random()
    if kind < 0.3:
        return question[:1].lower() + question[1:]
    return question.lower() if kind < 0.4 else question


def phrasings(fact: Fact, held_out: bool) -> tuple[str, ...]:
    """All ways to ask for ``fact``, of those that are trained on or of those that are kept for testing."""
    asked = fact.ask[-1:] if held_out else fact.ask[:-1]
    frames = HELD_OUT_FRAMES if held_out else FRAMES
    return asked + tuple(frame.format(verb) for verb in fact.to for frame in frames)


def _ask(fact: Fact, rng: random.Random, held_out: bool) -> Exchange:
    kind = rng.random()
    if not held_out and fact.to and kind < 0.5:
        verb = rng.choice(fact.to)
        question = rng.choice(FRAMES).format(verb) if rng.random() < 0.9 else verb
    elif not held_out and fact.about and kind > 0.8:
        question = rng.choice(ABOUT_FRAMES).format(rng.choice(fact.about))
    else:
        question = rng.choice(phrasings(fact, held_out))
    thought = f"The question is about {fact.topic}."
    return Exchange(vary(question, rng, strong=not held_out), fact.answer, thought)


def identity(rng: random.Random, held_out: bool = False) -> Exchange:
    return _ask(rng.choice(IDENTITY), rng, held_out)


def engineroom(rng: random.Random, held_out: bool = False) -> Exchange:
    return _ask(rng.choice(ENGINEROOM), rng, held_out)


def greeting(rng: random.Random, held_out: bool = False) -> Exchange:
    answer, said = rng.choice(GREETINGS)
    text = rng.choice(said.split("|")) + rng.choice(
        ("", "", "!", ".", " :)", "!!") if held_out else ("", "", "!", ".")
    )
    text = text.capitalize() if rng.random() < 0.5 else text
    return Exchange(
        text.upper() if rng.random() < 0.04 else text,
        answer,
        "This is small talk.",
        answer.split()[0].strip("!,"),
    )


def small_numbers(rng: random.Random) -> tuple[int, int]:
    """Two numbers below 100, most of them below 30."""
    most = rng.choice((12, 30, 30, 99))
    return rng.randint(0, most), rng.randint(0, most)


def arithmetic(rng: random.Random, held_out: bool = False) -> Exchange:
    a, b, plus = *small_numbers(rng), rng.random() < 0.5
    result = a + b if plus else a - b
    templates = (_PLUS_HELD_OUT if held_out else _PLUS) if plus else (_MINUS_HELD_OUT if held_out else _MINUS)
    in_words = max(a, b) <= 20 and rng.random() < 0.2
    x, y = (NUMBERS[a], NUMBERS[b]) if in_words else (str(a), str(b))
    question = vary(rng.choice(templates).format(a=x, b=y), rng)
    answer = f"{a} {'plus' if plus else 'minus'} {b} is {result}."
    return Exchange(question, answer, f"{a} {'+' if plus else '-'} {b} = {result}", str(result))


def capital(rng: random.Random, held_out: bool = False) -> Exchange:
    country = rng.choice(tuple(CAPITALS))
    city = CAPITALS[country]
    question = rng.choice(HELD_OUT_CAPITAL_FRAMES if held_out else CAPITAL_FRAMES).format(country)
    return Exchange(vary(question, rng), f"The capital of {country} is {city}.", f"{country}: {city}", city)


def _spoken(options: tuple[str, ...], word: str, rng: random.Random) -> str:
    """A request about ``word``: a whole question, or a command with what people put around commands."""
    core = rng.choice(options)
    text = core if core[0].isupper() else rng.choice(_ASKING) + core + rng.choice(_ENDING)
    text = text if rng.random() < 0.4 else text[:1].upper() + text[1:]
    return text.format(word)


def spelling(rng: random.Random, held_out: bool = False) -> Exchange:
    word = any_word(rng, held_out)
    letters = "-".join(word)
    kind = rng.random()
    if kind < 0.5:
        frames, unseen, answer = _SPELL, _SPELL_HELD_OUT, letters
    elif kind < 0.8:
        backwards = word[::-1]
        frames, unseen = _REVERSE, _REVERSE_HELD_OUT
        answer = f"{letters}, backwards {'-'.join(backwards)}: {letter_by_letter(backwards)}"
    else:
        frames, unseen, answer = _REPEAT, _REPEAT_HELD_OUT, word
    question = rng.choice(unseen).format(word) if held_out else _spoken(frames, word, rng)
    return Exchange(question, answer, f"The word is {word}.")


def unknown(rng: random.Random, held_out: bool = False) -> Exchange:
    if not held_out and rng.random() < 0.3:
        question = rng.choice(RANDOM_PLAIN)
    else:
        question = rng.choice(HELD_OUT_RANDOM_QUESTIONS if held_out else RANDOM_QUESTIONS).format(
            rng.choice(NOUNS)
        )
    return Exchange(vary(question, rng), UNKNOWN, "I do not know this.")


Generator = Callable[[random.Random, bool], Exchange]
EXCHANGES: dict[str, tuple[float, Generator]] = {
    "engineroom": (0.36, engineroom),
    "identity": (0.09, identity),
    "greeting": (0.04, greeting),
    "arithmetic": (0.20, arithmetic),
    "capital": (0.08, capital),
    "spelling": (0.18, spelling),
    "unknown": (0.05, unknown),
}
"""Skill → its share of the exchanges, and its generator."""


def any_exchange(rng: random.Random, held_out: bool = False) -> Exchange:
    shares = [share for share, _ in EXCHANGES.values()]
    _, generate = rng.choices(tuple(EXCHANGES.values()), shares)[0]
    return generate(rng, held_out)
