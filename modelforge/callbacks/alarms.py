"""Warnings when a run that learns from rewards goes wrong."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modelforge.common.console import say, warn
from modelforge.config import JUDGE
from modelforge.errors import Problem
from modelforge.runs import files

WINDOW = 8  # logs that a tendency is judged by, at the beginning and at the end

# Nats a token. A policy that keeps its language stays well below: at 1 each token of its answers
# is e times as likely as under the reference.
FAR_FROM_REFERENCE = 1.0


# Nats a token between the policy of a rollout and the one after its last epoch. float32 alone gives
# about 1e-8; a policy that learns moves by more than 1e-5.
STILL = 1e-7


# Steps after which a run whose rewards never differed is told so.
FIRST_STEPS = 5
# Share of answers that may be cut at their longest.
CUT = 0.1


class Alarms(TrainerCallback):
    """Says once of each thing that goes wrong what it is and what helps; `warnings.jsonl`."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / files.WARNINGS
        self.train: list[dict[str, Any]] = []
        self.eval: list[dict[str, Any]] = []
        self.said: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Load the logs of the run that is resumed, and the warnings that it has had."""
        for logs in state.log_history:
            self._keep(logs)
        self.said = self.before(args)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at the run as it stands."""
        self._keep(logs or {})
        if not state.is_world_process_zero:
            return
        if "loss" in (logs or {}) and state.global_step <= FIRST_STEPS:
            for line in first_words(self.train[-1], args, first=len(self.train) == 1):
                say(f"step {state.global_step}: {line}")
        for problem in self.found(args, state.global_step):
            if problem is not None and problem.where not in self.said:
                self.said.add(problem.where)
                warn(str(problem), step=state.global_step)
                row = {"step": state.global_step, **vars(problem)}
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def before(self, args: Any) -> set[str]:
        """What a run that is resumed was told."""
        found = [*findings(self.train, self.eval, args), too_many_cut(self.train, args)]
        return {problem.where for problem in found if problem is not None}

    def found(self, args: Any, step: int) -> list[Problem | None]:
        """What is wrong as it stands.

        Args:
            args: The TRL config.
            step: The last one.
        """
        found: list[Problem | None] = [*findings(self.train, self.eval, args)]
        if step >= FIRST_STEPS:
            found += [no_signal(self.train, args), too_many_cut(self.train, args)]
        return found

    def _keep(self, logs: Mapping[str, Any]) -> None:
        if "loss" in logs:
            self.train.append(dict(logs))
        elif "eval_reward" in logs:
            self.eval.append({key.removeprefix("eval_"): value for key, value in logs.items()})


def no_signal(logs: Sequence[Mapping[str, Any]], args: Any) -> Problem | None:
    """That the rewards of no step told one answer from another; None where some did.

    A penalty for answers without an end is no reward: such a run learns to end, and no more.

    Args:
        logs: Of the trainer, all that there are.
        args: The TRL config.
    """
    train = [log for log in logs if "loss" in log and "reward" in log]
    if not train or any(_differ(log) for log in train):
        return None
    scored = [log for log in train if _is_number(log.get("reward"))]
    what = (
        "was the same for all answers to a prompt, in every step: nothing can be learned from it"
        if scored
        else "could be given for no answer, in any step: nothing can be learned"
    )
    if getattr(args, "missing_eos_penalty", None):
        what += " but where to end, from ppo.missing_eos_penalty"
    fix = (
        "look at rollouts.jsonl; set rewards that tell these answers apart, or easier prompts, "
        "more num_generations or a higher generation.temperature"
    )
    return Problem("reward", what, fix)


def first_words(log: Mapping[str, Any], args: Any, *, first: bool) -> list[str]:
    """What the first steps' logs mean: groups without a signal, and answers that were cut.

    Args:
        log: Of one step.
        args: The TRL config (its penalty for answers that are cut, where it has one).
        first: Whether it is the run's first: then it is explained.
    """
    same, cut = log.get("frac_reward_zero_std"), log.get("completions/clipped_ratio")
    shares = []
    if _is_number(same):
        shares.append(f"{same:.0%} of the groups have no signal")
    if _is_number(cut):
        penalty = getattr(args, "missing_eos_penalty", None)
        costs = f", and each loses {penalty:g} of its score" if penalty and cut else ""
        shares.append(f"{cut:.0%} of the answers are cut{costs}")
    if not shares:
        return []
    lines = [", ".join(shares)]
    if first and _is_number(same):
        lines.append(
            "a group without a signal has answers that all score alike, and teaches nothing; a "
            "loss near 0 is normal, since a group's advantages add up to 0"
        )
    return lines


def too_many_cut(logs: Sequence[Mapping[str, Any]], args: Any) -> Problem | None:
    """That more than a tenth of the answers ends at its longest; None where fewer do.

    Args:
        logs: Of the trainer, all that there are.
        args: The TRL config.
    """
    key = "completions/clipped_ratio"
    share = _mean(logs[-WINDOW:], key)
    if share is None or share <= CUT:
        return None
    longest = getattr(args, "max_completion_length", None)
    what = f"is {share:.0%}: so many answers are cut at {longest} tokens, and scored unfinished"
    fix = "raise generation.max_new_tokens"
    if hasattr(args, "missing_eos_penalty"):
        if args.missing_eos_penalty:
            first = _mean(logs[:WINDOW], key)
            if len(logs) < 2 * WINDOW or first is None or share < first:
                return None  # the penalty teaches to end, or has not had the time
            what += ", and ppo.missing_eos_penalty does not make them fewer"
            fix += '; a model that never ends its answers needs "stages": ["sft", "reward", "ppo"]'
        else:
            fix += ", or set ppo.missing_eos_penalty"
    elif not getattr(args, "mask_truncated_completions", False):
        fix += ", or set mask_truncated_completions to true"
    return Problem(key, what, fix)


def too_short_to_tell(logs: Sequence[Mapping[str, Any]], steps: int) -> bool:
    """Whether a run without a signal may be one that only began: few steps, all of them without a
    success, as hard prompts give it."""
    rewards = [log["reward"] for log in logs if "loss" in log and "reward" in log]
    return steps < FIRST_STEPS and all(reward == 0 for reward in rewards)


def _differ(log: Mapping[str, Any]) -> bool:
    """Whether the rewards of a log's steps differed: within a prompt, or (PPO) in a rollout."""
    if not _is_number(log.get("reward")):
        return False
    same: Any = log.get("frac_reward_zero_std")
    spread: Any = log.get("reward_std")
    return same < 1 if _is_number(same) else _is_number(spread) and spread > 0


def findings(
    train: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]], args: Any
) -> list[Problem]:
    """What is wrong with a run by its logs: the metric, what it does, what helps.

    Args:
        train: The logs of training, oldest first.
        evaluations: The logs of evaluation, oldest first, names as in training.
        args: The TRL config (its KL target is looked at, where it has one).
    """
    found = _of_a_short_run(train, args)
    if len(train) >= 2 * WINDOW:
        found += [_kl(train, getattr(args, "kl_target", None)), _entropy(train), _length(train)]
        found.append(_hacking(train, WINDOW) or _hacking(evaluations, 1))
    return [problem for problem in found if problem is not None]


def _of_a_short_run(train: Sequence[Mapping[str, Any]], args: Any) -> list[Problem | None]:
    """What the first steps show already."""
    if len(train) < FIRST_STEPS:
        return []
    return [_critic(train), _still(train, args)]


def _critic(train: Sequence[Mapping[str, Any]]) -> Problem | None:
    key = "value/explained_variance"
    values = [float(log[key]) for log in train[-WINDOW:] if _is_number(log.get(key))]
    # A rollout serves several updates, and at 0 the critic has only begun.
    if len(values) < FIRST_STEPS or max(values) >= 0 or len(set(values)) < 3:
        return None
    what = f"is {sum(values) / len(values):.2g}: the critic foresees less than a constant would"
    fix = "lower ppo.value_learning_rate, or set ppo.value_mode to adapter"
    return Problem(key, what, fix)


def _still(train: Sequence[Mapping[str, Any]], args: Any) -> Problem | None:
    """The policy is where it began, after steps that had something to learn from."""
    key = "kl/old_policy"
    moved = [float(log[key]) for log in train if _is_number(log.get(key))]
    rate = [float(log["learning_rate"]) for log in train if _is_number(log.get("learning_rate"))]
    warm = getattr(args, "value_warmup_steps", 0) or 0
    if len(moved) - warm < 2 * WINDOW or not any(map(_differ, train)) or not any(rate):
        return None
    if max(moved) > STILL:
        return None
    what = f"is at most {max(moved):.1e} nats a token: the updates do not move the policy"
    return Problem(key, what, "raise learning_rate")


def _kl(train: Sequence[Mapping[str, Any]], target: float | None) -> Problem | None:
    completion, token = _mean(train[-WINDOW:], "kl/reference"), "kl/reference_token"
    advice = "raise ppo.kl_coef, or lower learning_rate or ppo.ppo_epochs"
    if target is not None and completion is not None and completion > 3 * target:
        what = f"is {completion:.3g} nats a completion, over three times kl_target ({target:g})"
        return Problem("kl/reference", what, advice)
    for key in (token, "kl"):  # GRPO and RLOO call it kl
        kl = _mean(train[-WINDOW:], key)
        if kl is not None and kl > FAR_FROM_REFERENCE:
            what = f"is {kl:.3g} nats a token: the policy has left the reference"
            return Problem(key, what, advice if key == token else "raise beta")
    return None


def _entropy(train: Sequence[Mapping[str, Any]]) -> Problem | None:
    first, last = _mean(train[:WINDOW], "entropy"), _mean(train[-WINDOW:], "entropy")
    if first is None or last is None or last > 0.2 * first or first < 1e-3:
        return None
    what = f"fell from {first:.3g} to {last:.3g} nats a token: answers hardly vary any more"
    fix = "raise ppo.entropy_coef or ppo.kl_coef, or stop at an earlier checkpoint"
    return Problem("entropy", what, fix)


def _length(train: Sequence[Mapping[str, Any]]) -> Problem | None:
    key = "completions/mean_length"
    first, last = _mean(train[:WINDOW], key), _mean(train[-WINDOW:], key)
    cut = _mean(train[-WINDOW:], "completions/clipped_ratio") or 0.0
    if first is None or last is None or last < 2 * first or cut < 0.25:
        return None
    what = f"grew from {first:.0f} to {last:.0f} tokens, and {cut:.0%} of the answers do not end"
    fix = "set ppo.missing_eos_penalty, or add a reward for length; long answers may score more"
    return Problem(key, what, fix)


def _hacking(logs: Sequence[Mapping[str, Any]], window: int) -> Problem | None:
    """The reward rises and the judge's falls, both beyond twice their standard error."""
    if len(logs) < 2 * window or len(logs) < 3:
        return None
    judge = f"rewards/{JUDGE}/mean"
    reward, verdict = _change(logs, "reward", window), _change(logs, judge, window)
    if reward is None or verdict is None or not (reward > 2 and verdict < -2):
        return None
    what = "falls while the reward rises: the policy exploits the reward model (reward hacking)"
    fix = "stop at an earlier checkpoint, raise ppo.kl_coef, or train a stronger reward model"
    return Problem(judge, what, fix)


def _change(logs: Sequence[Mapping[str, Any]], key: str, window: int) -> float | None:
    """How far the last logs lie above the first ones, in standard errors of the difference."""
    values = [float(log[key]) for log in logs if _is_number(log.get(key))]
    if len(values) < max(2 * window, 3):
        return None
    first, last = values[:window], values[-window:]
    # The spread from one log to the next is noise, a tendency apart.
    steps = [b - a for a, b in itertools.pairwise(values)]
    noise = math.sqrt(sum(step**2 for step in steps) / (2 * len(steps)))
    error = noise * math.sqrt(2 / window)
    change = sum(last) / window - sum(first) / window
    return change / error if error else math.copysign(math.inf, change) if change else 0.0


def _mean(logs: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [float(log[key]) for log in logs if _is_number(log.get(key))]
    return sum(values) / len(values) if values else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
