"""The measures of `modelforge evaluate`: what each is, which way is up, and what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from modelforge.errors import ConfigError, Problem, did_you_mean

#: What a measure is made from: the data's answers, both sides of pairs, the model's own answers,
#: or those beside the model it began from.
Needs = Literal["reference", "pair", "answers", "start", "reward", "classifier", "constraints"]


@dataclass(frozen=True)
class Metric:
    """One measure.

    Attributes:
        name: Under which it is kept.
        label: For a reader.
        unit: Of its value.
        better: Whether more is better; None where neither is.
        needs: What it is made from.
        weight: The column that a row counts by; None where all rows count alike.
        primary: Whether it takes part in the verdict.
    """

    name: str
    label: str
    unit: str
    better: bool | None
    needs: Needs
    weight: str | None = None
    primary: bool = True


_TABLE = (
    Metric("bits_per_byte", "bits per byte of the data's answers", "bits", False, "reference",
           "bytes"),
    Metric("loss", "loss on the data's answers", "nats a token", False, "reference", "tokens",
           primary=False),
    Metric("accuracy", "pairs whose better answer is likelier", "share", True, "pair"),
    Metric("margin", "by how much the better answer is likelier", "nats", True, "pair"),
    Metric("reward", "reward of its answers", "score", True, "reward"),
    Metric("kl", "KL from the start along its answers", "nats a token", None, "start",
           "answer_tokens"),
    Metric("kl_k3", "the same, estimated from the tokens drawn", "nats a token", None, "start",
           "answer_tokens", primary=False),
    Metric("entropy", "entropy along its answers", "nats a token", None, "start",
           "answer_tokens"),
    Metric("ended", "answers that stop by themselves", "share", True, "answers"),
    Metric("length", "length of an answer", "tokens", None, "answers"),
    Metric("distinct_1", "words of an answer that differ", "share", None, "answers",
           primary=False),
    Metric("distinct_2", "pairs of words of an answer that differ", "share", None, "answers",
           primary=False),
    Metric("toxicity", "toxicity of its answers", "share", False, "classifier"),
    Metric("safety_violations", "constraints that an answer breaks", "violations", False,
           "constraints"),
)  # fmt: skip
METRICS = {metric.name: metric for metric in _TABLE}
#: What ``margin`` is of a reward model.
SCORE_MARGIN = Metric("margin", "by how much the better answer is scored higher", "score", True,
                      "pair")  # fmt: skip

#: Measures that follow from another one's rows: its name, and in words how.
DERIVED = {"perplexity": ("loss", "the exponential of the mean loss")}

#: Other names of the same.
ALIASES = {
    "reward_score": "reward",
    "avg_reward": "reward",
    "kl_divergence": "kl",
    "avg_length": "length",
    "diversity_score": "distinct_2",
    "ppl": "perplexity",
    "bpb": "bits_per_byte",
}
# Kept together: one pass makes them all.
_ALONG = {"kl": ("kl", "kl_k3", "entropy"), "entropy": ("kl", "kl_k3", "entropy")}


def reward_name(function: str) -> str:
    """What a reward function is called here: as it is, unless a measure has that name already."""
    taken = function in METRICS or function in DERIVED or function in ALIASES
    return f"{function}_reward" if taken else function


def of_reward(name: str) -> Metric:
    """The measure of a reward function, which is called as it is."""
    return Metric(name, f"{name} of its answers", "score", True, "answers")


def of_pass(name: str, k: int) -> Metric:
    """The measure of a reward function that is 1 for a right answer, by the best of k answers."""
    return Metric(f"pass@{k}", f"{name} by one of {k} answers", "share", True, "answers")


def chosen(
    names: Iterable[str] | None,
    *,
    available: Sequence[str],
    rewarded: bool = False,
    scores: bool = False,
) -> list[str]:
    """The measures that are asked for, under their own names; by default those that come free.

    Args:
        names: As the user wrote them; None for the default.
        available: Those that data and options allow.
        rewarded: Whether rewards read the data's answers: those are then no texts to be likely.
        scores: Whether the model is a reward model, which finds nothing likely and answers nothing.

    Raises:
        ConfigError: With every name that is none, or that these data and options do not give.
    """
    if names is None:
        costly = {"start", *(("reference",) if rewarded else ())}
        return [n for n in available if METRICS.get(n, of_reward(n)).needs not in costly]
    found: list[str] = []
    problems = []
    for given in names:
        name = ALIASES.get(given, given)
        if name in DERIVED:
            name = DERIVED[name][0]
        if name in available:
            found += _ALONG.get(name, (name,))
        elif name in METRICS and scores:
            fix = f"it has {' and '.join(available)}"
            problems.append(Problem(f"--metrics {given}", "is none of a reward model", fix))
        elif name in METRICS:
            problems.append(Problem(f"--metrics {given}", *_MISSING[METRICS[name].needs]))
        else:
            known = [*METRICS, *DERIVED, *ALIASES, *available]
            fix = did_you_mean(given, known) or f"one of {', '.join(available)}"
            problems.append(Problem(f"--metrics {given}", "is no measure", fix))
    if problems:
        raise ConfigError(*problems)
    return list(dict.fromkeys(found))


_MISSING: dict[Needs, tuple[str, str]] = {
    "reference": ("needs rows with an answer", "give data with prompts and answers"),
    "pair": ("needs pairs of a better and a worse answer", "give data with chosen and rejected"),
    "answers": ("needs prompts and a model that answers", "give data with prompts"),
    "start": ("needs the model that this one began from", "name it with --start"),
    "reward": ("needs a reward model", "name it with --reward-model"),
    "constraints": ("needs constraints", "name their file with --constraints"),
    "classifier": ("needs a classifier of texts", "name its folder with --classifier"),
}
