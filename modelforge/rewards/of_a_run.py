"""The reward side of a run: from the config's reward keys to what TRL's trainers call.

A reward model that was trained on the policy's own base is scored on that base, under its adapter;
any other is loaded beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from modelforge.config import JUDGE, REWARD_MODEL, Config, RewardEntry
from modelforge.errors import ConfigError, Problem
from modelforge.models.source import local_folder
from modelforge.rewards import build_rewards, parse_rewards
from modelforge.rewards.callables import StandIn, checked, name_of, unique
from modelforge.rewards.constrained import CONSTRAINTS, with_constraints
from modelforge.rewards.functions import may_log, source_of
from modelforge.rewards.spec import kind_of

#: A function in TRL's form, and its share of the reward.
Weighted = tuple[Callable[..., Any], float]


def parse(config: Config) -> dict[str, list[RewardEntry]]:
    """What ``rewards``, ``reward_model`` and ``judge_model`` name, checked; nothing is loaded.

    Returns:
        The entries of each of the three keys, with the folders of reward models looked up as
        ``model_name`` is.

    Raises:
        ConfigError: With every problem found.
    """
    found: dict[str, list[RewardEntry]] = {"rewards": [], "reward_model": [], "judge_model": []}
    problems: list[Problem] = []
    for key in found:
        given = config.get(key)
        if given is None:
            continue
        entries = given if isinstance(given, list) else [given]
        if key != "rewards":
            entries = [_with_folder(entry, config.base_dir) for entry in entries]
        else:
            held = config.get(CONSTRAINTS)
            entries = [with_constraints(_entry(entry), held) for entry in entries]
        where = f"{config.name}: {key}"
        try:
            checked = parse_rewards(entries, where=where, base_dir=config.base_dir)
        except ConfigError as error:
            problems.extend(error.problems)
            continue
        for entry in checked:
            is_model = kind_of(entry.name) == "model"
            if key != "rewards" and not is_model:
                fix = "give the folder of a reward model, or put it in rewards"
                problems.append(Problem(where, f"'{entry.name}' is no reward model", fix))
            found[key].append(_with_folder(entry, config.base_dir) if is_model else entry)
    if problems:
        raise ConfigError(*problems)
    return found


def _entry(said: str | RewardEntry) -> RewardEntry:
    return RewardEntry(name=said.strip()) if isinstance(said, str) else said


def _with_folder(said: str | RewardEntry, base_dir: Path) -> RewardEntry:
    entry = _entry(said)
    folder = local_folder(entry.name, base_dir)
    return entry if folder is None else entry.model_copy(update={"name": str(folder)})


def build(
    config: Config,
    functions: Sequence[Weighted] = (),
    *,
    tokenizer: Any,
    policy: Any,
    adapted: bool,
    device: str,
    batch_size: int,
) -> list[Weighted]:
    """The rewards of a run, each under its own name; the judge last, with weight 0.

    Args:
        functions: Rewards passed in code.
        tokenizer: The policy's.
        policy: The model that is trained; it may not have its adapter yet.
        adapted: Whether a reward adapter may stand on the policy's base.
        device: Where reward models of their own are put.
        batch_size: How many texts a reward model scores at once, where its entry does not say.

    Raises:
        ModelError: A reward model cannot be loaded.
    """
    found = parse(config)
    plain = [entry for entry in found["rewards"] if kind_of(entry.name) != "model"]
    made, weights = build_rewards(
        plain,
        tokenizer=tokenizer,
        base_dir=config.base_dir,
        device=device,
        template_arguments=config.get("chat_template_kwargs"),
    )
    load = partial(
        _model,
        policy=policy if adapted else None,
        revision=config.settings.model_revision,
        device=device,
        # The texts are as long, and as many at once, as the policy is trained on.
        defaults={"max_length": config.settings.max_seq_length, "batch_size": batch_size},
    )
    models = [entry for entry in found["rewards"] if kind_of(entry.name) == "model"]
    models += found["reward_model"]
    own = [function.__name__ for function in made] + [name_of(each) for each, _ in functions]
    rewards: list[Weighted] = []
    given = [*zip(made, weights, strict=True), *functions]
    for name, (function, weight) in zip(_beside_models(own), given, strict=True):
        rewards.append((checked(function, name), weight))
    for name, entry in zip(_model_names(len(models)), models, strict=True):
        rewards.append((load(entry, name), entry.weight))
    if rewards and all(weight == 0 for _, weight in rewards):
        what, fix = "all weights are 0: nothing is rewarded", "give one of them another weight"
        raise ConfigError(Problem(f"{config.name}: rewards", what, fix))
    rewards += [(load(entry, JUDGE), 0.0) for entry in found["judge_model"]]
    return rewards


def names(config: Config, functions: Sequence[Weighted] = ()) -> list[tuple[str, float]]:
    """The name and weight of each reward that `build` would make; nothing is loaded."""
    found = parse(config)
    plain = [entry for entry in found["rewards"] if kind_of(entry.name) != "model"]
    own = [
        source_of(entry.name, config.base_dir)[1] if ":" in entry.name else entry.name
        for entry in plain
    ]
    # A stage that is checked ahead has a stand-in for the reward model that it waits for.
    awaited = [weight for function, weight in functions if isinstance(function, StandIn)]
    functions = [pair for pair in functions if not isinstance(pair[0], StandIn)]
    own = unique(own) + [name_of(function) for function, _ in functions]
    weights = [entry.weight for entry in plain] + [weight for _, weight in functions]
    models = [e for e in found["rewards"] if kind_of(e.name) == "model"] + found["reward_model"]
    weights += [*(entry.weight for entry in models), *awaited]
    taken = [*_beside_models(own), *_model_names(len(models) + len(awaited))]
    return [*zip(taken, weights, strict=True)] + [(JUDGE, 0.0) for _ in found["judge_model"]]


def may_log_more(config: Config, functions: Sequence[Weighted] = ()) -> bool:
    """Whether one of the rewards is a function that may log figures which nobody can foretell."""
    for function, _ in functions:
        code = getattr(function, "__code__", None)
        known = code is not None and "log_metric" not in {*code.co_varnames, *code.co_consts}
        if not known and not isinstance(function, StandIn):
            return True
    own = [entry.name for entry in parse(config)["rewards"] if ":" in entry.name]
    return any(may_log(name, config.base_dir) for name in own)


def _model_names(count: int) -> list[str]:
    return [REWARD_MODEL] if count == 1 else [f"{REWARD_MODEL}_{n + 1}" for n in range(count)]


def is_model_name(name: str) -> bool:
    """Whether a reward of this name is a reward model that is learned from."""
    return re.fullmatch(rf"{REWARD_MODEL}(_\d+)?", name) is not None


def _beside_models(names: Sequence[str]) -> list[str]:
    """The names of functions, each its own, and none that a reward model or the judge goes by."""
    kept = [f"{n}_function" if is_model_name(n) or n == JUDGE else n for n in names]
    return unique(kept)


def _model(
    entry: RewardEntry,
    name: str,
    *,
    policy: Any,
    revision: str | None,
    device: str,
    defaults: dict[str, Any],
) -> Callable[..., Any]:
    """A reward model: on the policy's base where it was trained on that, else loaded beside it."""
    from transformers import AutoTokenizer

    from modelforge.rewards.folder import reward_folder, trained_as
    from modelforge.rewards.model import RewardModel
    from modelforge.rewards.shared_base import SharedBaseReward, shares_base

    arguments, folder = {**defaults, **entry.arguments}, Path(entry.name)
    asked = arguments.pop("use_4bit", None)
    local = folder.is_dir()
    may_share = policy is not None and local
    if may_share and shares_base(policy, folder, revision=revision, use_4bit=asked):
        tokenizer = AutoTokenizer.from_pretrained(reward_folder(folder), trust_remote_code=False)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return SharedBaseReward(folder, name=name, tokenizer=tokenizer, **arguments)
    trained_in = trained_as(folder)[1] if local else None
    use_4bit = bool(trained_in if asked is None else asked)
    reward = RewardModel.load(entry.name, device=device, use_4bit=use_4bit, **arguments)
    reward.__name__ = name
    return reward
