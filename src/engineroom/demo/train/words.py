# ruff: noqa: SIM905 -- lists of wordings, easier to read as they are
"""Word lists that the conversations draw from, and the rule that keeps some words for testing only."""

from __future__ import annotations

import random
import zlib

COMMON = tuple(
    "cat dog bird fish horse mouse house door window table chair book paper pen lamp bread milk water apple lemon "
    "orange banana grape sugar salt butter cheese cake soup rice egg meat tree leaf flower grass river lake sea ocean "
    "hill field stone sand rain snow wind cloud storm sun moon star sky night day week month year hour red green blue "
    "white black brown yellow pink gold silver big small tall short long fast slow hot cold warm cool old new young "
    "good happy sad angry kind brave quiet loud soft hard light dark heavy empty full open run walk jump swim fly sing "
    "dance read write draw play work sleep eat drink cook clean wash build break fix push pull carry throw catch hold "
    "king queen child friend mother father sister brother doctor teacher farmer baker sailor pilot soldier artist "
    "hand foot head arm leg eye ear nose mouth hair heart bone skin blood shirt coat hat shoe sock dress ring watch "
    "car bus train plane boat ship bike road street bridge town city village farm garden park school shop bank market "
    "music song story game ball toy doll box bag cup plate bowl spoon fork knife pot pan oven clock phone radio "
    "tiger lion bear wolf fox deer rabbit frog snake spider ant bee duck goose hen cow sheep goat pig donkey camel "
    "hello world python model engine token prompt chunk stream batch layer number letter word plane magic robot "
    "rocket planet comet island forest desert valley mountain castle tower palace temple wagon wheel hammer nail saw "
    "cotton silk wool paint brush pencil marker ruler puzzle riddle secret mirror candle pillow blanket basket bottle "
    "crab shark whale seal otter eagle hawk raven crow swan pigeon parrot beetle moth lamb zebra giraffe panda koala "
    "seven eight nine north south east west spring summer autumn winter monday friday june july august".split()
)
NOUNS = tuple(
    "music|football|love|history|the moon|physics|cooking|cars|dinosaurs|politics|the stock market|cats|poetry|chess|"
    "medicine|the weather|tennis|the ocean|tomatoes|philosophy|airplanes|volcanoes|the brain|gardening|movies|"
    "basketball|the sun|insects|economics|art|Rome|Napoleon|Shakespeare|Einstein|bitcoin|quantum mechanics|bread|"
    "wine|bridges|dreams|elephants|Mars|gravity|democracy|evolution|photography|coffee|the universe|robots|whales|"
    "Beethoven|the Olympics|taxes|law|DNA|rainbows|black holes|guitars|yoga|fashion".split("|")
)
RANDOM_QUESTIONS = (
    "Who invented {}?", "Write a poem about {}.", "Tell me a story about {}.", "What do you think about {}?",
    "Explain {} to me.", "What is the history of {}?", "Why is {} important?", "Tell me a joke about {}.",
    "Write an essay about {}.", "Who is the best expert on {}?", "What is the future of {}?", "How does {} work?",
    "Give me ten facts about {}.", "When did {} begin?", "What is the price of {}?", "Where can I buy {}?",
    "Do you like {}?", "Give me tips on {}.", "What are the rules of {}?", "Describe {} to me.", "What is your opinion on {}?",
    "What is unusual about {}?", "Give me a summary of {}.", "Sing a song about {}.", "Write a letter about {}.", "Can you teach me {}?",
    "I need help with {}.", "What is the best thing about {}?", "Should I worry about {}?", "Give me news about {}.",
    "Who is famous for {}?", "Make up a riddle about {}.", "Compare {} with music.", "Where does {} come from?", "Translate {} into German.", "Is {} good for me?", "Recommend a book about {}.",
    "What is the meaning of {}?", "Write a Python function about {}.", "Who won the game about {} yesterday?",
    "How many people like {}?", "Summarize the news about {}.", "What is {}?", "Who discovered {}?", "Let's talk about {}.",
)  # fmt: skip
HELD_OUT_RANDOM_QUESTIONS = (
    "Give me advice about {}.",
    "What is special about {}?",
    "Compose a song about {}.",
)
RANDOM_PLAIN = (
    "Why is the sky blue?", "Who is the president?", "What is the meaning of life?", "What time is it?",
    "What day is it today?", "Who won the world cup?", "How old is the earth?", "What is the speed of light?",
    "Tell me a joke.", "Write a poem.", "Tell me a story.", "What is the weather today?", "Who wrote Hamlet?",
    "How do I bake a cake?", "What is love?", "Sing a song.", "What is the tallest mountain?", "Who painted the Mona Lisa?",
    "How far is the moon?", "What should I eat tonight?", "Can you drive a car?", "What is the best movie?",
    "How do I lose weight?", "What is 12 times 7?", "Multiply 8 by 9.", "Divide 20 by 4.", "What is the square root of 16?",
    "Prove Fermat's theorem.", "Write a sorting algorithm.", "How do I fix my car?", "What is in the news?",
)  # fmt: skip
CITIES = tuple(
    "Paris|London|Berlin|Madrid|Rome|Lisbon|Vienna|Oslo|Tokyo|Cairo|Lima|Boston|Chicago|Seattle|Hamburg|Lyon|Milan|"
    "Kyoto|Delhi|Sydney|Toronto|Dallas|Denver|Zurich|Geneva|Porto|Naples|Bergen|Malmo|Krakow|Osaka|Mumbai|Perth".split(
        "|"
    )
)
_ONSETS = "b c d f g h j k l m n p r s t v w y z br cl dr fl gr pl st tr sh ch th".split()
_VOWELS = "a e i o u a e i o u ee oo ai ou".split()
_CODAS = ["", "", "", "n", "r", "l", "t", "s", "k", "m", "nd", "st", "ck", "x"]


def kept_for_testing(word: str) -> bool:
    """Whether ``word`` is in the tenth of all words that no spelling or naming task of the training uses."""
    return zlib.crc32(word.lower().encode()) % 10 == 0


def any_word(rng: random.Random, held_out: bool) -> str:
    """A real or made-up word of 2 to 8 letters, from the training words or from those kept for testing."""
    while True:
        kind = rng.random()
        if kind < 0.4:
            word = rng.choice(COMMON)
        elif kind < 0.8:
            word = "".join(
                rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
                for _ in range(rng.choice((1, 2, 2)))
            )
        else:
            word = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 5)))
        if len(word) <= 8 and kept_for_testing(word) == held_out:
            return word
