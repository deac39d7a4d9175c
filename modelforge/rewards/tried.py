"""Rewards tried on the first rows before a model is loaded: what they give, and what they lack."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from modelforge.common.console import say, warn
from modelforge.config import Config, RewardEntry
from modelforge.errors import ConfigError, ModelForgeError, Problem
from modelforge.rewards.answers import extract_number, right_answers
from modelforge.rewards.build import build_rewards, tags_of
from modelforge.rewards.constrained import CONSTRAINTS
from modelforge.rewards.of_a_run import parse
from modelforge.rewards.spec import kind_of

# Rows that are tried first; and where no reward could score one of these, so many.
FEW, MORE = 8, 64
# Stands in for the reference where the data has none.
SOME_TEXT = "I do not know."


def try_rewards(config: Config, rows: Any, tokenizer: Any) -> None:
    """Call the config's functions and built-ins on the first rows' references; say what they give.

    Reward models are left out: they would have to be loaded.

    Args:
        config: With every value filled in.
        rows: A data set of prompts in normal form, with the columns of their files.
        tokenizer: The policy's.

    Raises:
        ConfigError: If a reward fails on them, or no reward can score any of them.
    """
    found = parse(config)
    plain = [entry for entry in found["rewards"] if kind_of(entry.name) != "model"]
    _see_that_tags_are_seen(config, plain, tokenizer)
    if config.get(CONSTRAINTS) is not None and CONSTRAINTS not in [e.name for e in plain]:
        say("constraints hold where the model answers; the reward `constraints` trains on them too")
    functions, weights = build_rewards(
        plain,
        tokenizer=tokenizer,
        base_dir=config.base_dir,
        template_arguments=config.get("chat_template_kwargs"),
    )
    scored: list[bool] = []
    sums: dict[int, float] = {}
    vary = False
    for function, weight, entry in zip(functions, weights, plain, strict=True):
        name = function.__name__
        where = f"{config.name}: rewards: {name}"
        own, others = _tried(function, rows, FEW, where)
        if not _numbers(own) and len(rows) > FEW:
            own, others = _tried(function, rows, MORE, where)
        scored.append(bool(_numbers(own)) and weight != 0)
        vary |= weight != 0 and len({*_numbers([*own, *others])}) > 1
        for i, score in enumerate([*own[:FEW], *others[:FEW]]):
            sums[i] = sums.get(i, 0.0) + weight * (score or 0.0)
        # What breaks a constraint is an answer's manner, and no reference need show it.
        right = "answer" in rows.column_names and entry.name != CONSTRAINTS
        _tell(name, own, others, references=right)
    alone = not found["reward_model"] and len(plain) == len(found["rewards"])
    if vary and alone and len(sums) > 2 and len({round(value, 6) for value in sums.values()}) == 1:
        warn(
            f"rewards: their weighted sum is {sums[0]:g} for right and for wrong answers alike, "
            "though not each of them is: they take each other away"
        )
    if functions and alone and not any(scored):
        what = f"can score none of the first {min(MORE, len(rows))} rows: nothing would be learned"
        fix = "see whether their column holds what they compare with, or set other rewards"
        raise ConfigError(Problem(f"{config.name}: rewards", what, fix))


def _see_that_tags_are_seen(config: Config, entries: Sequence[RewardEntry], tokenizer: Any) -> None:
    """TRL leaves special tokens out of the text that rewards see.

    Raises:
        ConfigError: If the tags of a `format` are such.
    """
    for entry in entries:
        special = {*tokenizer.all_special_tokens} & {*_texts_of_tags(entry)}
        if special:
            what = (
                f"would always give 0: {', '.join(sorted(special))} are special tokens of the "
                "tokenizer, and completions are given to rewards without those"
            )
            fix = "name other tags, or mark the tokens as not special in the tokenizer"
            raise ConfigError(Problem(f"{config.name}: rewards: {entry.name}", what, fix))


def _texts_of_tags(entry: RewardEntry) -> list[str]:
    return [text for name in tags_of(entry) for text in (f"<{name}>", f"</{name}>")]


def number_answers(rows: Any) -> str:
    """Why `numeric_answer` suits the references; empty where some of the first are no number."""
    answers = [right_answers(cell) for cell in rows[:MORE]["answer"]]
    texts = [texts[0] for texts in answers if texts]
    if not texts or not all(map(_states_a_number, texts)):
        return ""
    shown = ", ".join(text.rpartition("####")[2].strip()[:12] for text in texts[:3])
    return f"the reference answers are numbers ({shown}, …)"


def _states_a_number(text: str) -> bool:
    """Whether a text is a number, or a solution that marks the number it ends in."""
    if extract_number(text) is None:
        return False
    short = len(text.split()) == 1 and not any(c.isalpha() for c in text)
    return short or "####" in text or "\\boxed{" in text


def _tried(
    function: Callable[..., Any], rows: Any, count: int, where: str
) -> tuple[list[float | None], list[float | None]]:
    """What it gives for each row's own reference, and for that of the next row."""
    columns = rows[:count]
    prompts = columns.pop("prompt")
    texts = references(columns, len(prompts))
    return (
        called(function, prompts, texts, columns, where),
        called(function, prompts, [*texts[1:], *texts[:1]], columns, where),
    )


def references(columns: dict[str, list[Any]], count: int) -> list[str]:
    """The reference answers of so many rows; some text where there are none."""
    return [_reference(cell) for cell in columns.get("answer", [None] * count)]


def _reference(cell: Any) -> str:
    answers = right_answers(cell)
    return answers[0] if answers else SOME_TEXT


def called(
    function: Callable[..., Any],
    prompts: Sequence[Any],
    texts: Sequence[str],
    columns: dict[str, list[Any]],
    where: str,
    completions: Sequence[Any] | None = None,
) -> list[float | None]:
    """What a reward gives, called as in training.

    Args:
        function: The reward.
        prompts: As the data has them.
        texts: The answers.
        columns: Of the data.
        where: What messages name.
        completions: The answers in TRL's form, where they are more than a text.

    Raises:
        ConfigError: If it fails.
    """
    from transformers import TrainerState

    if completions is None:
        completions = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, texts, strict=True)
        ]
    asked = {
        "prompts": list(prompts),
        "completions": list(completions),
        "completion_ids": [[0] * (len(text.split()) or 1) for text in texts],
        "trainer_state": TrainerState(),
        "log_extra": lambda column, values: None,
        "log_metric": lambda name, value: None,
        **columns,
    }
    try:
        given = function(**asked)
        given = asyncio.run(given) if inspect.iscoroutine(given) else given
    except ModelForgeError:
        raise
    except Exception as error:  # a function of the user may raise anything
        what = f"fails on the first rows: {type(error).__name__}: {error}"
        fix = "mend the function; it is called as in training, with every column of the data"
        raise ConfigError(Problem(where, what, fix)) from error
    return list(given)


def _tell(
    name: str, own: list[float | None], others: list[float | None], *, references: bool
) -> None:
    scores, missing = _numbers(own), len(own) - len(_numbers(own))
    of_what = "the reference answers" if references else f"the answer {SOME_TEXT!r}"
    if not scores:
        warn(f"reward {name}: scores none of the first {len(own)} rows")
        return
    low, high = min(scores), max(scores)
    span = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    say(f"reward {name}: {span} on {of_what} of the first {len(own)} rows")
    if missing:
        warn(f"reward {name}: cannot score {missing} of the first {len(own)} rows")
    if references and len(own) > 1 and low == high and set(_numbers(others)) == {low}:
        warn(
            f"reward {name}: gives {low:g} to right and to wrong answers alike; "
            "a reward that is always the same teaches nothing"
        )


def _numbers(scores: Sequence[float | None]) -> list[float]:
    return [float(s) for s in scores if s is not None and not math.isnan(s)]
