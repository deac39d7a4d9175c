"""What is learned, whatever the card: rate, rank, alpha and the rows of a step.

A profile and the plan decide how these rows are computed, and never how many they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any

from modelforge.config import Choice, Config
from modelforge.machine.launch import processes_of
from modelforge.models.rates import FULL

if TYPE_CHECKING:
    from modelforge.strategy import Strategy

MICRO, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"
LENGTH, STEP = "max_seq_length", 64
RANKS = (16, 32, 64)
# Tokens of one pass that keep a machine busy: beyond them memory grows and speed does not.
ROOM = 4096
# Tokens of a packed block, where no row is longer.
BLOCK = 1024


@dataclass(frozen=True)
class Size:
    """A model's family and size.

    Attributes:
        model_type: As in its config.json.
        weights: How many it has; 0 where that is unknown.
        per_rank: Weights that a LoRA of rank 1 on all linear layers adds; 0 where unknown.
    """

    model_type: str = ""
    weights: int = 0
    per_rank: int = 0


def rate(config: Config, strategy: Strategy, size: Size) -> dict[str, Choice]:
    """The learning rate: a fixed one among the strategy's defaults, or by the model's size."""
    by_size = strategy.learning_rate(size.model_type, size.weights)
    found = strategy.defaults.get("learning_rate") or by_size
    if found is None:
        return {}
    value, why = found
    if config.settings.lora_r == 0:
        value, why = value / FULL, f"all weights are trained: a tenth of LoRA's rate ({why})"
    return {"learning_rate": Choice(float(f"{value:.3g}"), "strategy", why)}


def rank(strategy: Strategy, size: Size, tokens: float | None) -> dict[str, Choice]:
    """The LoRA rank, by the strategy and the number of tokens that are trained on.

    An adapter learns as all weights do while it has at least as many weights as there are tokens to
    learn. That is a rough rule of Tinker's LoRA primer. Schulman et al. (LoRA Without Regret, 2025)
    show how an adapter that is too small falls behind.

    Args:
        strategy: The strategy.
        size: The model's.
        tokens: Those that the training rows supervise, counted once; None before they are read.
    """
    least, most = strategy.ranks
    allowed = [r for r in RANKS if least <= r <= most] or [least]
    if tokens is None or len(allowed) == 1 or not size.per_rank:
        why = f"enough for {strategy.name}; alpha stays, so the rate holds for any rank"
        return {"lora_r": Choice(least, "strategy", why)}
    enough = next((r for r in allowed if r * size.per_rank >= tokens), most)
    why = (
        f"{tokens:,.0f} tokens are trained on, and rank {enough} adds {enough * size.per_rank:,} "
        "weights: at least one for each token is wanted"
    )
    return {"lora_r": Choice(enough, "data", why)}


def batch(config: Config, strategy: Strategy) -> dict[str, Choice]:
    """Micro-batch and accumulation that make up the rows of a step; the plan divides them anew.

    What the user says of one of the two stays. A micro-batch alone is a whole step, as in TRL.
    Where it holds no whole groups of answers, a step takes as few as make them up.
    """
    processes, group = processes_of(config), strategy.group(config)
    if config.given(MICRO) and not (config.given(ACCUMULATION) or config.given("prompts_per_step")):
        accumulation = group // gcd(group, config.micro_batch * processes)
        why = f"{MICRO} says the rows of a step"
        why += f"; whole groups of {group} answers take {accumulation}" if accumulation > 1 else ""
        return {ACCUMULATION: Choice(accumulation, "default", why)}
    rows, why = strategy.rows_per_step(config)
    share, least = -(-rows // processes), strategy.least_micro_batch(config)
    if config.given(MICRO) and config.given(ACCUMULATION):
        return {}
    if config.given(ACCUMULATION):
        accumulation = config.get(ACCUMULATION)
        micro = max(least, share // accumulation)
        while micro * accumulation * processes % group:
            micro += 1
    else:
        micro = config.micro_batch
        if not config.given(MICRO):
            fitting = [n for n in range(least, share + 1) if share % n == 0]
            micro = max([n for n in fitting if n <= max(micro, least)], default=least)
        accumulation = max(1, -(-share // micro))
        while micro * accumulation * processes % group:
            accumulation += 1
    total = micro * accumulation * processes
    reason = f"{total} rows a step: {why}" if total == rows else f"{total} rows a step"
    return {
        MICRO: Choice(micro, "profile", f"of {reason}; memory alone decides it"),
        ACCUMULATION: Choice(accumulation, "strategy", reason),
    }


def presets() -> Mapping[str, Mapping[str, object]]:
    """The settings that `preset` names: those that a file may ask for in one word."""
    import json
    from importlib.resources import files

    folder = files("modelforge.configs") / "presets"
    return {
        entry.name.removesuffix(".json"): json.loads(entry.read_text(encoding="utf-8"))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
    }


def preset(config: Config, strategy: Strategy) -> dict[str, Choice]:
    """The values of the preset that the config names."""
    name = config.settings.preset
    if name is None:
        return {}
    values: dict[str, Any] = dict(presets()[name])
    if config.given("prompts_per_step"):  # which says the rows of a step already
        del values[MICRO], values[ACCUMULATION]
    elif values[MICRO] < (least := strategy.least_micro_batch(config)):
        values |= {MICRO: least, ACCUMULATION: values[MICRO] * values[ACCUMULATION] // least}
    return {k: Choice(v, "preset", f"preset {name}") for k, v in values.items()}


def of_the_step(
    config: Config, strategy: Strategy, *, mean: float, longest: int
) -> dict[str, Choice]:
    """How the rows of a step are shared out, by how long they are; their number stays.

    Args:
        config: With the defaults so far.
        strategy: The strategy.
        mean: Tokens of the mean training row.
        longest: Tokens of the longest one, within the model's context.
    """
    if any(config.given(key) for key in (MICRO, ACCUMULATION)) or config.settings.preset:
        return {}
    processes = processes_of(config)
    if config.get("packing"):
        block = config.settings.max_seq_length
        choices = {}
        if not config.given(LENGTH):
            whole = max(longest, min(round(strategy.batch_rows[0] * mean / processes), BLOCK))
            block = min(-(-whole // STEP) * STEP, block)
            choices[LENGTH] = Choice(block, "data", "a block holds the longest row, and several")
        blocks = max(1, round(strategy.batch_rows[0] * mean / block / processes))
        rows = blocks * processes * block / mean
        why = f"about {rows:.0f} rows a step, in blocks of {block} tokens: {strategy.batch_rows[1]}"
        micro = max(
            n for n in range(1, blocks + 1) if (blocks % n == 0 and n * block <= ROOM) or n == 1
        )
        choices[MICRO] = Choice(micro, "data", why)
        return choices | {ACCUMULATION: Choice(blocks // micro, "data", why)}
    chosen = config.choices.get(MICRO)
    if not config.get("padding_free") or chosen is None or chosen.source != "profile":
        return {}
    rows = config.micro_batch * (config.get(ACCUMULATION) or 1)
    micro = max(n for n in range(1, rows + 1) if rows % n == 0 and (n * mean <= ROOM or n == 1))
    if micro <= config.micro_batch:
        return {}
    why = f"{micro} rows of {mean:.0f} tokens in one pass, which holds {ROOM} tokens"
    kept = f"{rows * processes} rows a step: {strategy.batch_rows[1]}"
    return {
        MICRO: Choice(micro, "data", why),
        ACCUMULATION: Choice(rows // micro, "data", kept),
    }


def of_the_rows(
    config: Config, strategy: Strategy, size: Size, *, tokens: float | None, longest: int | None,
    thinks: bool, context: int | None,
) -> dict[str, Choice]:  # fmt: skip
    """Rank and lengths, where the user left them open.

    Args:
        config: With what does not follow from the rows.
        strategy: The strategy.
        size: The model's.
        tokens: That the training rows supervise; None where they are not known.
        longest: Tokens of the longest prompt; None where that is not known.
        thinks: Whether the model thinks before it answers.
        context: The model's context, where it tells.
    """
    choices: dict[str, Choice] = {}
    ranked = config.choices.get("lora_r")
    if ranked is not None and ranked.source == "strategy" and tokens is not None:
        choices |= rank(strategy, size, tokens)
    wanted, why = strategy.answer_tokens(config, thinks=thinks)
    if not wanted:
        return choices
    generation = config.get("generation")
    length, most = config.settings.max_seq_length, context or config.settings.max_seq_length
    fixed = config.given(LENGTH) or config.settings.preset is not None
    if generation.max_new_tokens is None:
        most = length if fixed else most
        new = min(wanted, most // 2)
        why = why if new == wanted else f"half of {most} tokens"
        generation = generation.model_copy(update={"max_new_tokens": new})
        choices["generation"] = Choice(generation.model_dump(), "default", why)
    if longest is not None and not fixed:
        new = generation.max_new_tokens
        length = -(-longest // STEP) * STEP + new
        length = min(length, context) if context else length
        why = f"the longest prompt ({longest} tokens) and {new} new tokens"
        choices[LENGTH] = Choice(max(length, new + 1), "data", why)
    return choices
