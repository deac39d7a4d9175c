"""The reward side of a run: from the config's reward keys to what TRL's trainers call.

A reward model that was trained on the policy's own base is scored on that base, under its adapter;
any other is loaded beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.config import JUDGE, REWARD_MODEL, Config
from modelforge.errors import ConfigError, Problem
from modelforge.models.source import local_folder
from modelforge.rewards import RewardSpec, parse_rewards

if TYPE_CHECKING:
    from modelforge.strategy import Parts


@dataclass(frozen=True)
class Source:
    """One reward of the config.

    Attributes:
        spec: What to call; a judge's weight is 0.
        key: The config's key it comes from: ``rewards``, ``reward_model`` or ``judge_model``.
    """

    spec: RewardSpec
    key: str

    @property
    def trained_on(self) -> bool:
        """Whether the policy learns from it."""
        return self.key != "judge_model"


@dataclass(frozen=True)
class Reward:
    """A function in TRL's form, and its share of the reward."""

    function: Callable[..., Any]
    weight: float


def parse(config: Config) -> list[Source]:
    """The config's rewards, models and judge, checked; nothing is loaded.

    Raises:
        ConfigError: With every problem found.
    """
    values = config.resolved()
    sources: list[Source] = []
    problems: list[Problem] = []
    for key in ("rewards", "reward_model", "judge_model"):
        given = values.get(key)
        if given is None:
            continue
        entries = given if isinstance(given, list) else [given]
        if key != "rewards":
            entries = [_found(entry, config.base_dir) for entry in entries]
        where = f"{config.name}: {key}"
        try:
            specs = parse_rewards(entries, where=where, base_dir=config.base_dir)
        except ConfigError as error:
            problems.extend(error.problems)
            continue
        for spec in specs:
            if key != "rewards" and spec.kind != "model":
                fix = "give the folder of a reward model, or put it in rewards"
                problems.append(Problem(where, f"'{spec.name}' is no reward model", fix))
            folder = local_folder(spec.name, config.base_dir) if spec.kind == "model" else None
            weight = 0.0 if key == "judge_model" else spec.weight
            found = RewardSpec(str(folder or spec.name), weight, spec.arguments)
            sources.append(Source(found, key))
    if problems:
        raise ConfigError(*problems)
    return sources


def _found(entry: Any, base_dir: Path) -> dict[str, Any]:
    """An entry in its full form, its folder looked up as ``model_name`` is."""
    entry = {"name": entry} if isinstance(entry, str) else dict(entry)
    folder = local_folder(entry["name"], base_dir)
    return entry if folder is None else entry | {"name": str(folder)}


class OnPolicyBase:
    """A reward model that scores on the policy's base, once the trainer has made the policy."""

    def __init__(self, folder: Path, name: str, *, max_length: int, batch_size: int) -> None:
        self.folder, self.__name__ = folder, name
        self.max_length, self.batch_size = max_length, batch_size
        self.reward: Callable[..., list[float]] | None = None

    def attach(self, policy: Any) -> None:
        """Load the adapter and its head onto the policy.

        Raises:
            ModelError: It is no reward adapter, or does not fit this base.
        """
        from transformers import AutoTokenizer

        from modelforge.rewards.folder import reward_folder
        from modelforge.rewards.shared_base import SharedBaseReward

        folder = reward_folder(self.folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        self.reward = SharedBaseReward(
            policy,
            self.folder,
            name=self.__name__,
            tokenizer=tokenizer,
            max_length=self.max_length,
            batch_size=self.batch_size,
        )

    def __call__(self, **kwargs: Any) -> list[float]:
        assert self.reward is not None, "attached when the trainer was built"
        return self.reward(**kwargs)


def build(parts: Parts, functions: Sequence[tuple[Callable[..., Any], float]] = ()) -> list[Reward]:
    """The rewards of a run, each under its own name; the judge last.

    Args:
        parts: The run's: its config, its model, which may not have its adapter yet.
        functions: Rewards passed in code, with their weights.

    Raises:
        ModelError: A reward model cannot be loaded.
    """
    from modelforge.rewards import build_rewards

    config = parts.config
    sources = parse(config)
    plain = [source.spec for source in sources if source.spec.kind != "model"]
    made, weights = build_rewards(
        plain,
        tokenizer=parts.tokenizer,
        base_dir=config.base_dir,
        device=str(parts.args.device),
    )
    rewards = [Reward(f, w) for f, w in zip(made, weights, strict=True)]
    rewards += [Reward(f, weight) for f, weight in functions]
    models = [s for s in sources if s.spec.kind == "model" and s.key != "judge_model"]
    for number, source in enumerate(models, start=1):
        name = REWARD_MODEL if len(models) == 1 else f"{REWARD_MODEL}_{number}"
        rewards.append(Reward(_model(source.spec, name, parts), source.spec.weight))
    rewards += [
        Reward(_model(source.spec, JUDGE, parts), 0.0)
        for source in sources
        if source.key == "judge_model"
    ]
    return rewards


def _model(spec: RewardSpec, name: str, parts: Parts) -> Callable[..., Any]:
    """A reward model: on the policy's base where it was trained on that, else loaded beside it."""
    from modelforge.rewards.model import RewardModel
    from modelforge.rewards.shared_base import shares_base

    config, folder = parts.config, Path(spec.name)
    arguments = {
        "max_length": config.settings.max_seq_length,
        # As many texts at once as the policy is trained on: it is the same base.
        "batch_size": parts.args.per_device_train_batch_size,
        **spec.arguments,
    }
    adapted = parts.peft_config is not None or hasattr(parts.model, "peft_config")
    # To vLLM TRL sends all that is on the policy, an adapter's score head too: then beside it.
    adapted = adapted and not parts.args.use_vllm
    if adapted and folder.is_dir() and shares_base(parts.model, folder):
        arguments.pop("use_4bit", None)
        return OnPolicyBase(folder, name, **arguments)
    reward = RewardModel.load(spec.name, device=str(parts.args.device), **arguments)
    reward.__name__ = name
    return reward
