"""What the strategies that learn from rewards share: the reward side, and how it is watched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from modelforge.common.console import say, warn
from modelforge.common.paths import IsPath
from modelforge.config import REWARD_MODEL, Choice, Config, RewardEntry, Rewards
from modelforge.errors import ConfigError, Problem
from modelforge.strategies.sampled import Sampled, SampledSettings
from modelforge.strategy import STAND_IN_WORD, LongestBatch, Measure, Parts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

RewardModel = Annotated[str, IsPath(True, "reward model"), Field(min_length=1)]
RewardModels = RewardModel | Annotated[list[RewardModel | RewardEntry], Field(min_length=1)]

# What TRL's trainers that sample measure in an evaluation. Some need a KL term, a loss, or vLLM.
_LENGTHS = [f"{which}_{of}length" for which in ("mean", "min", "max") for of in ("", "terminated_")]
_CLIPPED = ("low_mean", "low_min", "high_mean", "high_max", "region_mean")
_FIGURES = (
    *("loss", "reward", "reward_std", "reward_stderr", "reward_greedy", "reward_greedy_stderr"),
    *("frac_reward_zero_std", "entropy", "kl", "aux_loss"),
    *(f"completions/{name}" for name in (*_LENGTHS, "clipped_ratio")),
    *(f"clip_ratio/{name}" for name in _CLIPPED),
    *("policy_loss", "cispo_clip_ratio", "vespo/phi_seq_mean"),
    *(f"sampling/sampling_logp_difference/{name}" for name in ("mean", "max")),
    *(f"sampling/importance_sampling_ratio/{name}" for name in ("min", "mean", "max")),
)


class RewardedSettings(SampledSettings):
    """What learning from rewards adds to ModelForge's keys."""

    rewards: Annotated[
        Rewards | None,
        Field(description="The rewards by name, each with its weight and arguments."),
    ] = None
    reward_model: Annotated[
        RewardModels | None,
        Field(
            description="The reward models: run folder, model folder or hub id, with weights. One "
            "trained on the policy's own base costs the memory of its adapter alone."
        ),
    ] = None
    judge_model: Annotated[
        Annotated[str, IsPath(True, "judge")] | None,
        Field(
            description="A reward model that scores but is not trained on: it shows whether the "
            "reward rises because the answers are better.",
            min_length=1,
        ),
    ] = None


class Rewarded(Sampled):
    """Samples answers to prompts and learns from what rewards say of them.

    Args:
        functions: Reward functions (or models) in TRL's form with their weights, besides those
            of the config: for code that has them at hand.
    """

    settings = RewardedSettings
    measure = Measure("eval_reward", "held-out mean reward", higher_is_better=True)
    ignored = {
        "data_seed": "set seed",
        "label_smoothing_factor": "remove it: there are no labels to smooth",
        "length_column_name": "remove it: prompts come in groups, in a random order",
        "train_sampling_strategy": "remove it, or set shuffle_dataset",
    }
    unsloth = (
        False,
        "its trainer evaluates as if it trained: the held-out reward goes missing",
    )

    def __init__(self, functions: Sequence[tuple[Callable[..., Any], float]] = ()) -> None:
        self.functions = list(functions)
        self.scorers: list[Callable[..., Any]] = []  # of the trainer that was built last

    def check(self, config: Config) -> Iterable[Problem]:
        settings = config.settings
        assert isinstance(settings, RewardedSettings)
        yield from super().check(config)
        if settings.reward_model is not None:
            yield from lora_alone(config, "a reward model may share the policy's base")
        if config.get("remove_unused_columns"):
            yield Problem(
                f"{config.name}: remove_unused_columns",
                "true takes away the columns that the rewards compare with",
                "leave it out",
            )
        from modelforge.rewards.of_a_run import parse

        try:
            parse(config)
        except ConfigError as error:
            yield from error.problems

    def uses_reference(self, config: Config) -> bool:
        return bool(config.get("beta", self.defaults.get("beta", (0.0, ""))[0]))

    def check_data(self, config: Config, rows: Dataset) -> Mapping[str, Choice]:
        from modelforge.rewards import reward_columns
        from modelforge.rewards.of_a_run import parse

        names = sorted(rows.column_names)
        found = parse(config)
        if not (self.functions or found["rewards"] or found["reward_model"]):
            if config.given("rewards"):
                what, fix = "is null, and nothing else rewards", "leave it out, or name one"
                raise ConfigError(Problem(f"{config.name}: rewards", what, fix))
            return {"rewards": _reward_of(config, rows)}
        needed = reward_columns(found["rewards"], base_dir=config.base_dir)
        missing = sorted(needed - set(names))
        if missing:
            raise ConfigError(
                *(
                    Problem(
                        f"{config.name}: rewards",
                        f"needs a column '{name}', which the data lacks",
                        f"columns: {', '.join(names)}",
                    )
                    for name in missing
                )
            )
        return {}

    def try_out(self, config: Config, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
        from modelforge.rewards.tried import try_rewards

        _warn_of_sampling(config)
        try_rewards(config, rows, tokenizer)

    def figures(self, config: Config) -> Collection[str]:
        """TRL's, those of each reward, and none where a function may log some of its own."""
        from modelforge.rewards.of_a_run import may_log_more, names

        if may_log_more(config, self.functions):
            return ()
        named = [name for name, _ in names(config, self.functions)]
        rewards = [f"rewards/{name}/{part}" for name in named for part in ("mean", "std")]
        return (*_FIGURES, *rewards)

    def reward_models(self, config: Config) -> list[str]:
        """Folders and hub ids of the reward models that are learned from."""
        assert isinstance(config.settings, RewardedSettings)
        said = config.settings.reward_model or []
        entries = said if isinstance(said, list) else [said]
        return [entry if isinstance(entry, str) else entry.name for entry in entries]

    def longest_batch(self, config: Config, args: Any) -> LongestBatch:
        """A rollout of the longest prompts and completions, scored by whatever models there are."""
        assert isinstance(config.settings, RewardedSettings)
        judge = config.settings.judge_model
        new = args.max_completion_length
        prompt = max(1, config.settings.max_seq_length - new)
        sequences = args.per_device_train_batch_size * args.steps_per_generation
        return LongestBatch(
            [{"prompt": " ".join([STAND_IN_WORD] * prompt)}] * sequences,
            tokens=args.per_device_train_batch_size * (prompt + new),
            supervised=new / (prompt + new - 1),
            rollout=(sequences, prompt, new),
            scored_by=(*self.reward_models(config), *([judge] if judge else [])),
        )

    def weigh(self, args: Any, rewards: Sequence[tuple[Callable[..., Any], float]]) -> None:
        """Tell TRL's config object what each of the rewards counts."""
        args.reward_weights = [weight for _, weight in rewards]

    def stand_ins(self, parts: Parts) -> dict[str, Any]:
        """Functions by the names that the rewards will have; none of them is loaded."""
        from modelforge.rewards.callables import StandIn
        from modelforge.rewards.of_a_run import names

        # Without any, a stage before this one trains the reward model.
        named = names(parts.config, self.functions) or [(REWARD_MODEL, 1.0)]
        rewards = [(StandIn(name), weight) for name, weight in named]
        self.weigh(parts.args, rewards)
        return {"reward_funcs": [function for function, _ in rewards]}

    def build_trainer(self, parts: Parts, *, callbacks: list[Any], **arguments: Any) -> Any:
        from modelforge.callbacks.alarms import Alarms
        from modelforge.callbacks.rollouts import Rollouts
        from modelforge.rewards.of_a_run import build
        from modelforge.rewards.shared_base import SharedBaseReward, beside_lora

        shape = parts.peft_config or getattr(parts.model, "peft_config", {}).get("default")
        adapted = shape is not None and not beside_lora(vars(shape))
        if shape is not None and not adapted and parts.config.get("reward_model"):
            say("reward models stand beside the policy, whose adapter is not LoRA alone")
        rewards = build(
            parts.config,
            self.functions,
            tokenizer=parts.tokenizer,
            policy=parts.model,
            # To vLLM TRL sends all that is on the policy, an adapter's score head too. And sharded
            # weights cannot be used by an adapter between two steps.
            adapted=adapted
            and not parts.args.use_vllm
            and not parts.config.settings.distributed.shards_weights,
            device=str(parts.args.device),
            batch_size=parts.args.per_device_train_batch_size,
        )
        self.weigh(parts.args, rewards)
        rollouts = Rollouts(parts.run_dir)
        arguments["reward_funcs"] = [rollouts.recording(function) for function, _ in rewards]
        trainer: Any = super().build_trainer(parts, callbacks=callbacks, **arguments)
        self.scorers = [function for function, _ in rewards]
        for function in self.scorers:
            if isinstance(function, SharedBaseReward):
                function.attach(trainer.model)
        for at in range(len(rewards), len(trainer.reward_funcs)):  # an environment's own
            trainer.reward_funcs[at].__name__ = trainer.reward_func_names[at]
            trainer.reward_funcs[at] = rollouts.recording(trainer.reward_funcs[at])
        trainer.add_callback(rollouts)
        trainer.add_callback(Alarms(parts.run_dir))
        return trainer


def _warn_of_sampling(config: Config) -> None:
    """Say what samples from another distribution than the policy that is updated."""
    settings = config.settings
    assert isinstance(settings, RewardedSettings)
    penalty = config.get("repetition_penalty")
    cuts = {
        "generation.top_p": settings.generation.top_p < 1,
        "generation.top_k": settings.generation.top_k > 0,
        "min_p": bool(config.get("min_p")),
        "repetition_penalty": penalty is not None and penalty != 1,
    }
    for key in (key for key, cut in cuts.items() if cut):
        warn(
            f"{key}: answers are sampled from another distribution than the policy's own, by which "
            "ratio and KL are computed: both are biased → leave it out while training"
        )


def _reward_of(config: Config, rows: Dataset) -> Choice:
    """The reward that suits the data, where the config names none.

    Raises:
        ConfigError: If there are no reference answers, or they are not numbers.
    """
    from modelforge.rewards.tried import number_answers

    columns = ", ".join(rows.column_names)
    what = f"is missing, and the data has no column 'answer' to compare with (columns: {columns})"
    if "answer" in rows.column_names:
        reason = number_answers(rows)
        if reason:
            return Choice([{"name": "numeric_answer"}], "data", reason)
        first = str(next((cell for cell in rows[:8]["answer"] if cell), ""))[:40]
        what = f"is missing, and the reference answers are not numbers (such as {first!r})"
    fix = (
        'set "rewards": ["exact_match"] where an answer is to be met word for word, a function '
        '"rewards.py:my_function", or a reward_model'
    )
    raise ConfigError(Problem(f"{config.name}: rewards", what, fix))


def lora_alone(config: Config, why: str) -> Iterable[Problem]:
    """The problem of an adapter of another kind where PEFT is to hold several on one base."""
    kind = config.settings.lora.get("peft_type", "LORA")
    if kind != "LORA":
        what = f"is {kind}: {why}, and PEFT mixes no kinds of adapters there"
        yield Problem(f"{config.name}: lora.peft_type", what, "remove it")
