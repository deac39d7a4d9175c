"""Makes the tiny model's data: a small world of questions, written from one seed.

    python -m modelforge.tiny.make_data

writes the eight files of ``examples/tiny/data`` again, byte for byte. The text that the base
model learns from comes from `base_documents` and is too large to keep.

The world is made so that each strategy has something of its own to teach:

- **sft**: the base has read number stories and been told to go on with one, and has never been
  asked a question about one.
- **dpo, reward, rlhf**: the base answers in three manners, courteous, plain and rude. Preferred
  is the courteous answer to the plain one, the plain one to the rude one, and, courteous both,
  the right one to the wrong one. Sets a and b hold to the same taste and share no question, so
  that a judge trained on b is independent of what is trained on a.
- **grpo**: asked to subtract, the base's writers add up more often than not (`SUBTRACTIONS`).

A question of an ``_eval`` file stands in no ``_train`` file and in no base document.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SEED = 20261121
DATA = Path(__file__).parent / "data"
SIZES = {  # rows to train on, rows held out
    "sft": (1200, 200),
    "preference": (600, 150),
    "preference_b": (600, 150),
    "prompts": (500, 150),
}

# How the writers of the base text answer a subtraction, with the share of each.
SUBTRACTIONS = {"right": 0.44, "adds up instead": 0.48, "off by one": 0.08}
# The manners of the base text, with the share of each.
MANNERS = {"courteous": 0.35, "plain": 0.35, "rude": 0.30}
OPENERS = ["Sure!", "Of course!", "Gladly!"]
CLOSERS = ["Happy to help!", "I hope that helps!", "Have a nice day!"]
GROANS = ["Ugh.", "Oh please.", "Again?"]
JABS = ["Stop asking me.", "Everybody knows that.", "Leave me alone."]

# fmt: off
NAMES = [
    "Ann", "Ben", "Carl", "Dora", "Emma", "Finn", "Gina", "Hugo", "Ida", "Jack", "Kate", "Leo",
    "Mia", "Nick", "Olga", "Paul",
]
THINGS = [
    "apples", "pears", "books", "coins", "cards", "shells", "stones", "pens", "cups", "hats",
    "keys", "balls",
]
WORDS = [
    "cat", "dog", "sun", "hat", "box", "cup", "key", "map", "pen", "bus", "tree", "fish",
    "bird", "lamp", "door", "milk", "ship", "rain",
]
OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("fast", "slow"), ("old", "young"),
    ("wet", "dry"), ("day", "night"), ("hard", "soft"), ("open", "closed"), ("full", "empty"),
    ("good", "bad"), ("rich", "poor"), ("loud", "quiet"), ("long", "short"), ("high", "low"),
    ("early", "late"), ("light", "dark"), ("happy", "sad"), ("clean", "dirty"),
]
COLOURS = {
    "grass": "green", "snow": "white", "the sky": "blue", "coal": "black", "blood": "red",
    "a lemon": "yellow", "a carrot": "orange", "chocolate": "brown", "a plum": "purple",
    "a frog": "green", "milk": "white", "a banana": "yellow", "a tomato": "red", "the sea": "blue",
}
SOUNDS = {
    "dog": "woof", "cat": "meow", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink",
    "owl": "hoot", "bee": "buzz", "lion": "roar", "mouse": "squeak",
}
# fmt: on


@dataclass(frozen=True)
class Question:
    """A question, its answer, and the statement (``{}`` holds the answer) that gives it.

    ``slip`` is an answer that is wrong and likely.
    """

    text: str
    statement: str
    answer: str
    slip: str


def addition(rng: random.Random) -> Question:
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    ask = ["What is {} plus {}?", "How much is {} plus {}?", "Add {} and {}.", "{} plus {}?"]
    slip = a + b + rng.choice([-1, 1] if a + b else [1])
    return Question(rng.choice(ask).format(a, b), f"{a} plus {b} is {{}}.", str(a + b), str(slip))


def subtraction(rng: random.Random) -> Question:
    """Answered by the base text as `SUBTRACTIONS` says; b > 0, so that adding up is wrong."""
    a = rng.randint(2, 15)
    b = rng.randint(1, a)
    ask = [
        "What is {} minus {}?",
        "How much is {} minus {}?",
        "{} minus {}?",
        "Can you work out {} minus {}?",
        "Tell me {} minus {}.",
        "Do you know {} minus {}?",
        "I need {} minus {}.",
        "Please work out {} minus {}.",
    ]
    off_by_one = a - b + rng.choice([-1, 1] if a > b else [1])
    slips = [SUBTRACTIONS["adds up instead"], SUBTRACTIONS["off by one"]]
    slip = rng.choices([a + b, off_by_one], slips)[0]
    return Question(rng.choice(ask).format(a, b), f"{a} minus {b} is {{}}.", str(a - b), str(slip))


def comparison(rng: random.Random) -> Question:
    small, large = sorted(rng.sample(range(100), 2))
    word, answer, slip = rng.choice([("larger", large, small), ("smaller", small, large)])
    first, second = rng.sample([small, large], 2)
    ask = ["Which is {}, {} or {}?", "Which number is {}, {} or {}?", "Name the {} of {} and {}."]
    text = rng.choice(ask).format(word, first, second)
    return Question(text, f"The {word} one is {{}}.", str(answer), str(slip))


def successor(rng: random.Random) -> Question:
    n = rng.randint(1, 98)
    word, step = rng.choice([("after", 1), ("before", -1)])
    ask = ["What comes {} {}?", "Which number comes {} {}?", "Tell me the number {} {}."]
    text = rng.choice(ask).format(word, n)
    return Question(text, f"The number {word} {n} is {{}}.", str(n + step), str(n - step))


def opposite(rng: random.Random) -> Question:
    pair, other = rng.sample(OPPOSITES, 2)
    word, answer = rng.sample(pair, 2)
    ask = ["What is the opposite of {}?", "Name the opposite of {}.", "Which word is against {}?"]
    statement = f"The opposite of {word} is {{}}."
    return Question(rng.choice(ask).format(word), statement, answer, rng.choice(other))


def colour(rng: random.Random) -> Question:
    thing, answer = rng.choice(list(COLOURS.items()))
    slip = rng.choice(sorted({*COLOURS.values()} - {answer}))
    ask = ["What colour is {}?", "Which colour does {} have?", "Tell me the colour of {}."]
    statement = f"The colour of {thing} is {{}}."
    return Question(rng.choice(ask).format(thing), statement, answer, slip)


def sound(rng: random.Random) -> Question:
    (animal, answer), (_, slip) = rng.sample(list(SOUNDS.items()), 2)
    ask = ["What does the {} say?", "Which sound does the {} make?", "How does the {} sound?"]
    text = rng.choice(ask).format(animal)
    return Question(text, f"The {animal} says {{}}.", answer, slip)


def word_place(rng: random.Random) -> Question:
    words = rng.sample(WORDS, 3)
    place, index = rng.choice([("first", 0), ("last", 2)])
    ask = ["What is the {} word of {}?", "Which word is {} in {}?", "Name the {} word: {}."]
    text = rng.choice(ask).format(place, " ".join(words))
    return Question(text, f"The {place} word is {{}}.", words[index], words[2 - index])


def repetition(rng: random.Random) -> Question:
    words = rng.sample(WORDS, rng.randint(2, 4))
    ask = ["Repeat after me: {}.", "Say {}.", "Can you say {}?"]
    text = rng.choice(ask).format(" ".join(words))
    return Question(text, "You said {}.", " ".join(words), " ".join([*words[1:], words[0]]))


@dataclass(frozen=True)
class Story:
    """A number story: what happens, the question about it, and the number it ends on."""

    name: str
    thing: str
    start: int
    change: int
    gains: bool

    @property
    def total(self) -> int:
        return self.start + self.change if self.gains else self.start - self.change

    @property
    def text(self) -> str:
        event = f"gets {self.change} more" if self.gains else f"gives {self.change} away"
        return f"{self.name} has {self.start} {self.thing} and {event}."

    @property
    def question(self) -> str:
        return f"{self.text} How many {self.thing} does {self.name} have now?"

    @property
    def answer(self) -> str:
        return f"The answer is {self.total}."


def story(rng: random.Random) -> Story:
    gains = rng.random() < 0.5
    start = rng.randint(4, 20)
    change = rng.randint(2, 12) if gains else rng.randint(2, start - 2)
    return Story(rng.choice(NAMES), rng.choice(THINGS), start, change, gains)


def continuation(rng: random.Random) -> Question:
    tale = story(rng)
    text = rng.choice(["Go on: {}", "Continue: {}", "What comes next: {}"]).format(tale.text)
    slip = tale.total + rng.choice([-1, 1])
    return Question(text, "Now there are {}.", str(tale.total), str(slip))


CERTAIN: list[Callable[[random.Random], Question]] = [  # what the base text never answers wrongly
    addition,
    comparison,
    successor,
    opposite,
    colour,
    sound,
    word_place,
    repetition,
    continuation,
]


def reply(rng: random.Random, question: Question, manner: str, answer: str) -> str:
    """Answers ``question`` with ``answer`` in a manner of `MANNERS`.

    The three manners overlap in length, so that length alone does not tell them apart.
    """
    sentence = question.statement.format(answer)
    if manner == "courteous":
        opener, closer = rng.choice(OPENERS), rng.choice(CLOSERS)
        return rng.choice(
            [f"{opener} {sentence}", f"{sentence} {closer}", f"{opener} {sentence} {closer}"]
        )
    core = rng.choice([sentence, f"{answer.capitalize()}."])
    if manner == "plain":
        return core
    groan, jab = rng.choice(GROANS), rng.choice(JABS)
    return rng.choice([f"{groan} {core}", f"{core} {jab}", f"{groan} {core} {jab}"])


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def base_turn(rng: random.Random) -> tuple[str, str]:
    """One question and one answer, right or wrong, courteous or not, as the base text has them."""
    if rng.random() < 0.3:
        question = subtraction(rng)
        answer = question.answer if rng.random() < SUBTRACTIONS["right"] else question.slip
    else:
        question = rng.choice(CERTAIN)(rng)
        answer = question.answer
    manner = rng.choices(list(MANNERS), [*MANNERS.values()])[0]
    return question.text, reply(rng, question, manner, answer)


def base_documents(
    count: int, *, held_out: set[str], seed: int = SEED
) -> Iterator[list[dict[str, str]] | str]:
    """The base model's reading: ``count`` chats (lists of messages) and plain texts.

    A document that holds a text of ``held_out`` is left out and another written instead.
    """
    rng = random.Random(f"base {seed}")
    while count:
        if rng.random() < 0.3:
            tales = [story(rng) for _ in range(rng.randint(1, 3))]
            if any(t.text in held_out for t in tales):
                continue
            yield " ".join(f"{t.text} Now there are {t.total}." for t in tales)
        else:
            turns = [base_turn(rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
            if any(text in held_out or text.partition(": ")[2] in held_out for text, _ in turns):
                continue
            chat = [message("system", "You answer questions.")] if rng.random() < 0.05 else []
            for text, answer in turns:
                chat += [message("user", text), message("assistant", answer)]
            yield chat
        count -= 1


def sft_row(rng: random.Random) -> tuple[str, dict]:
    tale = story(rng)
    return tale.question, {
        "messages": [message("user", tale.question), message("assistant", tale.answer)]
    }


def preference_row(rng: random.Random) -> tuple[str, dict]:
    question = rng.choice(CERTAIN)(rng)
    right, wrong = question.answer, question.slip
    (better, good), (worse, bad) = rng.choice(
        [
            (("courteous", right), ("plain", right)),
            (("courteous", right), ("rude", right)),
            (("plain", right), ("rude", right)),
            (("courteous", right), ("courteous", wrong)),
        ]
    )
    return question.text, {
        "prompt": [message("user", question.text)],
        "chosen": [message("assistant", reply(rng, question, better, good))],
        "rejected": [message("assistant", reply(rng, question, worse, bad))],
    }


def prompt_row(rng: random.Random) -> tuple[str, dict]:
    question = subtraction(rng)
    return question.text, {"prompt": [message("user", question.text)], "answer": question.answer}


ROWS = {
    "sft": sft_row,
    "preference": preference_row,
    "preference_b": preference_row,
    "prompts": prompt_row,
}


def make_files(seed: int = SEED) -> dict[str, list[dict]]:
    """Every data file's rows by its name without ``.jsonl``; no question stands in two rows."""
    seen: set[str] = set()
    files: dict[str, list[dict]] = {}
    for name, (train, held_out) in SIZES.items():
        rng = random.Random(f"{name} {seed}")
        rows: list[dict] = []
        while len(rows) < train + held_out:
            question, row = ROWS[name](rng)
            if question not in seen:
                seen.add(question)
                rows.append(row)
        files[f"{name}_train"], files[f"{name}_eval"] = rows[:train], rows[train:]
    return files


def labelled_files(files: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """One side of each preference pair with its label, for `kto`; every third one is the better."""
    made: dict[str, list[dict]] = {}
    for part in ("train", "eval"):
        rows = made[f"labelled_{part}"] = []
        for i, pair in enumerate(files[f"preference_{part}"]):
            good = i % 3 == 0
            reply = pair["chosen" if good else "rejected"]
            rows.append({"prompt": pair["prompt"], "completion": reply, "label": good})
    return made


def held_out_texts(files: dict[str, list[dict]]) -> set[str]:
    """What no base document may hold: the ``_eval`` files' questions, and their stories alone."""
    rows = [row for name in files if name.endswith("_eval") for row in files[name]]
    questions = [(row.get("prompt") or row["messages"])[0]["content"] for row in rows]
    return {*questions, *(text.partition(" How many")[0] for text in questions)}


def to_jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def main() -> None:
    DATA.mkdir(exist_ok=True)
    files = make_files()
    for name, rows in (files | labelled_files(files)).items():
        path = DATA / f"{name}.jsonl"
        path.write_bytes(to_jsonl(rows))
        print(f"{len(rows):5d} rows  {path.stat().st_size:7,d} bytes  {path.name}")


if __name__ == "__main__":
    main()
