"""Fuzz what is trained on: random dialogues under each chat template that TRL and ModelForge ship.

    OMP_NUM_THREADS=1 python benchmarks/fuzz_masks.py --cases 5000 --seed 0

Each case is a dialogue of random turns: system messages, functions, calls, thoughts, empty turns,
any Unicode, and the template's own tokens inside the words. It is rendered and tokenised as a run
does it. What is trained on must be the words of the assistant's turns, with their thoughts and
calls, each turn to its end token, and nothing that another role says. Or the row is refused, or a
turn is left out, with the reason in the ledger. ``--first 4711 --cases 1`` runs one case again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import sys
import time
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

MODEL = Path(__file__).parents[1] / "examples" / "tiny" / "model"
# What a template writes as one token.
SPECIAL = re.compile(r"<\|[\w ]+\|>|<[a-z_]+_of_turn>|</?think>|</?tool_call>|<｜[^｜]+｜>|</s>")
WORDS = [
    "blue",
    "42",
    "é\n\nü",
    "日本語",
    "🙂",
    " lead",
    "trail ",
    "a\tb",
    "{x}",
    "\\n",
    "\u200b",
    "ﬁ",
]
END = re.compile(
    r"(<\|[^|]*\|>|<[a-z_]+_of_turn>|<｜[^｜]*｜>|</s>|<turn\|>|<tool_call\|>|<\|tool_response>|<end_of_utterance>)\s*$"
)
# Writes the words of a turn that calls a function into the turn behind what was returned.
JOINS = {"diffusion_gemma"}


@cache
def templates() -> dict[str, str]:
    """Name → Jinja text: TRL's, and ModelForge's own."""
    from modelforge.data import built_in_templates
    from modelforge.data.template import trl_templates

    return trl_templates() | {f"our {name}": text for name, text in built_in_templates().items()}


@cache
def tokenizer_of(name: str) -> Any:
    """The tiny model's tokenizer with a template and the tokens that it writes."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    text = templates()[name]
    tokenizer.add_tokens(sorted(set(SPECIAL.findall(text))), special_tokens=True)
    tokenizer.chat_template = text
    return tokenizer


def words(random: Random, mark: str, tokens: list[str]) -> str:
    """A few words around a mark that stands nowhere else; a template's token now and then."""
    around = [random.choice(WORDS) for _ in range(random.randint(0, 4))]
    if tokens and random.random() < 0.1:
        around.append(random.choice(tokens))
    random.shuffle(around)
    return " ".join([mark, *around])


def dialogue(random: Random, tokens: list[str]) -> dict[str, Any]:
    """A row in normal form; each message has a mark of its own (m0z, m1z, …)."""
    messages: list[dict[str, Any]] = []

    def say(role: str, **more: Any) -> dict[str, Any]:
        mark = f"m{len(messages)}z"
        message = {"role": role, "content": words(random, mark, tokens), **more}
        messages.append(message)
        return message

    if random.random() < 0.4:
        say("system")
    tools = None
    for _ in range(random.randint(1, 4)):
        say("user")
        if random.random() < 0.2:
            name, number = f"f{len(messages)}z", len(messages)
            calls = [
                {
                    "type": "function",
                    "function": {
                        "name": name,
                        "arguments": {"city": words(random, f"v{number}{letter}z", [])},
                    },
                }
                for letter in ("", "a", "b")[: random.choice((1, 1, 2, 3))]  # in parallel
            ]
            say("assistant", tool_calls=calls)
            if random.random() < 0.5:
                messages[-1]["content"] = ""
            for _ in calls:
                say("tool", name=name)
            parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
            function = {"name": name, "description": "d", "parameters": parameters}
            tools = [*(tools or []), {"type": "function", "function": function}]
        answer = say("assistant")
        if random.random() < 0.25:
            thought = f"t{len(messages)}z"
            if random.random() < 0.5:
                answer["reasoning_content"] = thought
            else:
                answer["content"] = f"<think>\n{thought}\n</think>\n\n{answer['content']}"
        if random.random() < 0.08:
            answer["content"] = ""
        if random.random() < 0.08:
            answer["train"] = False
    row: dict[str, Any] = {"messages": messages}
    return row | {"tools": tools} if tools and random.random() < 0.8 else row


def flaw(name: str, row: dict[str, Any]) -> tuple[str, str]:
    """What became of a row (``trained``, ``cut`` or ``refused``), and what is wrong with that."""
    from modelforge.data.render import RenderError
    from modelforge.data.tokens import How, encode

    tokenizer = tokenizer_of(name)
    (found,) = encode([row], kind="demonstration", tokenizer=tokenizer, how=How())
    if isinstance(found, RenderError):
        return "refused", "" if found.reason else "no reason"
    ids, borders = found.ids[0].tolist(), iter(found.spans or ())
    pieces = [tokenizer.decode(ids[a:b]) for a, b in zip(borders, borders, strict=True)]
    trained = "".join(pieces)
    outcome = "cut" if found.findings else "trained"
    for i, message in enumerate(row["messages"]):
        marks = marks_of(message, i)
        wanted = message["role"] == "assistant" and message.get("train") is not False
        inside = [mark in trained for mark in marks]
        if not wanted and any(inside):
            return outcome, f"a {message['role']} message is trained on"
        if wanted and any(inside) and not all(inside):
            return outcome, "a turn is trained on in part"
        if wanted and marks and not any(inside) and not found.findings:
            return outcome, "a turn is not trained on, and nothing says so"
        if wanted and all(inside) and message["content"].strip():
            said = re.sub(r".*</think>", "", message["content"], flags=re.DOTALL).strip()
            if said not in trained and "".join(said.split()) not in "".join(trained.split()):
                return outcome, "the words of a turn are not all trained on"
    closed = name in JOINS or all(END.search(piece) for piece in pieces if piece.strip())
    if not closed:
        return outcome, "a turn is trained on without its end token"
    return outcome, ""


def marks_of(message: dict[str, Any], i: int) -> list[str]:
    """The words of a message that stand nowhere else."""
    calls = message.get("tool_calls", [])
    texts = [message["content"], message.get("reasoning_content") or ""]
    texts += [call["function"]["arguments"]["city"] for call in calls]
    return [mark for text in texts for mark in re.findall(r"\b[mtv]\d+[ab]?z\b", text)]


def fuzz(
    cases: int, seed: int, first: int = 0
) -> tuple[Counter[str], Counter[str], dict[str, str]]:
    """Run cases; what became of them, the failures, and the first case of each failure."""
    outcomes: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    examples: dict[str, str] = {}
    names = sorted(templates())
    for number in range(first, first + cases):
        random = Random(f"masks {seed} {number}")
        name = random.choice(names)
        tokens = sorted(set(SPECIAL.findall(templates()[name])))
        row = dialogue(random, tokens)
        outcome, wrong = flaw(name, row)
        outcomes[outcome] += 1
        if wrong:
            failures[wrong] += 1
            examples.setdefault(
                wrong, f"{number} under {name}: {json.dumps(row, ensure_ascii=False)}"
            )
    return outcomes, failures, examples


def main() -> int:
    """Print the table; the exit code is 1 where a case failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    options = parser.parse_args()
    start = time.perf_counter()
    outcomes, failures, examples = fuzz(options.cases, options.seed, options.first)
    print("| dialogues | templates | trained | trained in part, said | refused, said | failures |")
    print("|---|---|---|---|---|---|")
    counts = [outcomes["trained"], outcomes["cut"], outcomes["refused"], failures.total()]
    print(
        f"| {options.cases:,} | {len(templates())} | " + " | ".join(f"{n:,}" for n in counts) + " |"
    )
    print(
        f"\n(seed {options.seed}, {time.perf_counter() - start:.0f} s, {datetime.date.today()}, "
        f"{os.cpu_count()}-core {platform.machine()} CPU, Python {platform.python_version()})"
    )
    for failure, count in failures.most_common():
        print(f"FAILED {count} ×: {failure} (first: {examples[failure]})", file=sys.stderr)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
