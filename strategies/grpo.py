"""Group relative policy optimisation: rewards that can be computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field

from modelforge.config import Choice, Config, Generation, Rewards, Settings
from modelforge.errors import ConfigError, Problem
from modelforge.strategy import Measure, Parts, Strategy


class GRPOSettings(Settings):
    """What grpo adds to ModelForge's keys."""

    rewards: Annotated[
        Rewards | None, Field(description="Rewards by name, with weights and arguments.")
    ] = None
    generation: Annotated[Generation, Field(description="How completions are sampled.")] = (
        Generation()
    )


class GRPO(Strategy):
    """GRPO (Shao et al. 2024): each completion against the others of its prompt."""

    name = "grpo"
    summary = "reinforcement learning from verifiable or learned rewards (LoRA)"
    data_kind = "prompt"
    settings = GRPOSettings
    defaults = {
        "learning_rate": (1e-5, "usual for GRPO with LoRA"),
        "num_train_epochs": (1, "each prompt is sampled several times a pass"),
        "num_generations": (8, "the paper samples 64; 8 is enough to rank and fits one card"),
        "beta": (0.0, "LoRA stays close to the start without a KL term"),
    }
    measure = Measure("eval_reward", "held-out mean reward", higher_is_better=True)

    @classmethod
    def trl_config_class(cls) -> type:
        from trl import GRPOConfig

        return GRPOConfig

    @classmethod
    def trl_trainer_class(cls) -> type:
        from trl import GRPOTrainer

        return GRPOTrainer

    def check(self, config: Config) -> Iterable[Problem]:
        from modelforge.rewards import parse_rewards

        settings = config.settings
        assert isinstance(settings, GRPOSettings)
        new_tokens = settings.generation.max_new_tokens
        if new_tokens is not None and new_tokens >= settings.max_seq_length:
            yield Problem(
                f"{config.name}: generation.max_new_tokens",
                f"is {new_tokens}: nothing of max_seq_length "
                f"({settings.max_seq_length}) is left for the prompt",
                "lower it, or raise max_seq_length",
            )
        if settings.rewards:
            try:
                parse_rewards(
                    config.resolved()["rewards"],
                    where=f"{config.name}: rewards",
                    base_dir=config.base_dir,
                )
            except ConfigError as error:
                yield from error.problems

    def check_data(self, config: Config, columns: Iterable[str]) -> Mapping[str, Choice]:
        from modelforge.rewards import parse_rewards, reward_columns

        names = sorted(columns)
        settings = config.settings
        assert isinstance(settings, GRPOSettings)
        if settings.rewards is None:
            if "answer" not in names:
                raise ConfigError(
                    Problem(
                        f"{config.name}: rewards",
                        "is missing, and the data has no column 'answer' to compare with "
                        f"(columns: {', '.join(names)})",
                        'set e.g. "rewards": ["exact_match"] or "rewards.py:my_function"',
                    )
                )
            reason = "the data has a column 'answer'"
            return {"rewards": Choice([{"name": "numeric_answer"}], "data", reason)}
        specs = parse_rewards(
            config.resolved()["rewards"], where=f"{config.name}: rewards", base_dir=config.base_dir
        )
        missing = sorted(reward_columns(specs, base_dir=config.base_dir) - set(names))
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

    def derived_defaults(self, config: Config) -> Mapping[str, Choice]:
        settings = config.settings
        assert isinstance(settings, GRPOSettings)
        choices: dict[str, Choice] = {}
        if not config.given("per_device_eval_batch_size"):
            group = config.get("num_generations_eval") or config.get("num_generations")
            why = "a group is evaluated as a whole"
            choices["per_device_eval_batch_size"] = Choice(group, "default", why)
        if settings.generation.max_new_tokens is None:
            half = {"max_new_tokens": settings.max_seq_length // 2}
            generation = settings.generation.model_copy(update=half).model_dump()
            why = "half of max_seq_length for the completion"
            choices["generation"] = Choice(generation, "default", why)
        return choices

    def max_row_tokens(self, config: Config) -> int:
        assert isinstance(config.settings, GRPOSettings)
        new_tokens = config.settings.generation.max_new_tokens
        assert new_tokens is not None, "filled by derived_defaults"
        return config.settings.max_seq_length - new_tokens

    def arguments(self, config: Config) -> dict[str, Any]:
        settings = config.settings
        assert isinstance(settings, GRPOSettings)
        return {
            "max_completion_length": settings.generation.max_new_tokens,
            "temperature": settings.generation.temperature,
            "top_k": settings.generation.top_k,
            "top_p": settings.generation.top_p,
        }

    def trainer_arguments(self, parts: Parts) -> dict[str, Any]:
        from modelforge.rewards import build_rewards, parse_rewards

        config = parts.config
        specs = parse_rewards(
            config.resolved()["rewards"], where=f"{config.name}: rewards", base_dir=config.base_dir
        )
        functions, weights = build_rewards(
            specs,
            tokenizer=parts.tokenizer,
            base_dir=config.base_dir,
            device=str(parts.args.device),
        )
        parts.args.reward_weights = weights
        return {"reward_funcs": functions}
