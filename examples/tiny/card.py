"""Writes the tiny model's card, ``model/README.md``, from ``model/figures.json``.

python -m modelforge.tiny.card

`make_model` and `measure` do it too, so that no figure is written twice by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

MODEL = Path(__file__).parent / "model"

CARD = """\
---
license: mit
language: en
library_name: transformers
pipeline_tag: text-generation
---
# The tiny model

A Llama of {parameters:,} parameters that answers short questions about a small made world: sums,
comparisons, opposites, colours, animals' sounds, words to repeat. It is a real language model with
its tokenizer (byte-level BPE, 512 tokens, any text goes in) and chat template, small enough that
each of ModelForge's strategies shows its effect on two CPU cores in about a minute. It is of no
other use: it knows nothing outside its world.

What it cannot do is made on purpose, and told in `examples/tiny/make_data.py`: it has never been
asked about a number story (sft), it answers in a courteous, a plain or a rude manner by chance
(dpo, reward, rlhf), and it adds up more often than not when asked to subtract (grpo).

## How it was made

    python -m modelforge.tiny.make_data
    OMP_NUM_THREADS=2 python -m modelforge.tiny.make_model
    OMP_NUM_THREADS=1 python -m modelforge.tiny.measure

Seed {seed}, on {date}; one pass over {base_tokens:,} tokens that the first script's rules write,
in {seconds} s on {threads} threads of a {cores}-core CPU that other work shared (float32). The data
come out the same to the byte anywhere, the weights nearly so: float sums depend on the processor.

## What was measured

On held-out rows, whose questions stand in no training file and not in the base text; each strategy
is TRL's trainer with LoRA (rank 16), with the settings in `figures.json`.

| strategy | figure | before | after | steps | s a step |
|---|---|---|---|---|---|
{rows}

- **loss**: nats a token of the answer, EOS included; **accuracy**: greedy answers equal to the
  letter.
- **preference_accuracy**: log p(chosen) > log p(rejected); **trl_rewards_accuracy**: the same of
  DPO's implicit rewards; **courteous**, **right**: shares of greedy answers.
- **pair_accuracy**: score(chosen) > score(rejected), on the set trained for and on set b;
  **margin**: their mean difference.
- **reward_greedy**, **reward_sampled**: answers whose last number is the right one, greedy and
  sampled at temperature 1.
"""


def card(figures: dict) -> str:
    """The card's text."""
    rows = []
    for name, seen in figures.get("strategies", {}).items():
        tail = f"{seen['settings']['max_steps']} | {seen['seconds_per_step']:.2f} |"
        for key, after in seen["after"].items():
            before = seen["before"].get(key)
            shown = "" if before is None else f"{before:.3f}"
            rows.append(f"| {name} | {key} | {shown} | {after:.3f} | {tail}")
    return CARD.format(rows="\n".join(rows), **figures)


def main() -> None:
    figures = json.loads((MODEL / "figures.json").read_text())
    (MODEL / "README.md").write_text(card(figures))


if __name__ == "__main__":
    main()
