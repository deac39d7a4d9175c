"""What the strategies share that sample answers to prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field

from modelforge.common.console import say
from modelforge.config import Choice, Config, Generation, Settings
from modelforge.errors import Problem
from modelforge.machine import vllm
from modelforge.strategy import Parts, Strategy

# Tokens of the longest answer, where the user does not say. TRL's own default is 256. A thinking
# model needs its thoughts whole.
ANSWER, THOUGHT = 512, 2048
BY_TASK = {"summarization": 128, "question-answering": 256}


class SampledSettings(Settings):
    """What sampling answers adds to ModelForge's keys."""

    generation: Annotated[
        Generation, Field(description="The settings that completions are sampled with.")
    ] = Generation()
    eval_prompts: Annotated[
        int,
        Field(
            description="The number of held-out prompts that each evaluation answers; each costs "
            "a generation.",
            ge=1,
        ),
    ] = 64


class Sampled(Strategy):
    """Samples answers to prompts as it trains."""

    data_kind = "prompt"
    settings = SampledSettings
    generates = True

    def check(self, config: Config) -> Iterable[Problem]:
        settings = config.settings
        assert isinstance(settings, SampledSettings)
        new_tokens = settings.generation.max_new_tokens
        if new_tokens is not None and new_tokens >= settings.max_seq_length:
            yield Problem(
                f"{config.name}: generation.max_new_tokens",
                f"is {new_tokens}: nothing of max_seq_length "
                f"({settings.max_seq_length}) is left for the prompt",
                "lower it, or raise max_seq_length",
            )
        yield from vllm.config_problems(config)

    def derived_defaults(self, config: Config) -> Mapping[str, Choice]:
        settings = config.settings
        assert isinstance(settings, SampledSettings)
        choices: dict[str, Choice] = {}
        if not config.given("per_device_eval_batch_size"):
            at_once = config.get("steps_per_generation")
            rollout = config.micro_batch * (
                at_once or config.get("gradient_accumulation_steps") or 1
            )
            why = "as many as a rollout generates at once"
            choices["per_device_eval_batch_size"] = Choice(rollout, "default", why)
        if config.get("use_vllm") and not config.given("vllm_max_model_length"):
            length = Choice(settings.max_seq_length, "default", "no row is longer")
            choices["vllm_max_model_length"] = length
        return choices

    def completion_tokens(self, config: Config) -> int:
        """The longest completion, in tokens."""
        assert isinstance(config.settings, SampledSettings)
        longest = config.settings.max_seq_length
        return config.settings.generation.max_new_tokens or min(ANSWER, longest // 2)

    def answer_tokens(self, config: Config, *, thinks: bool) -> tuple[int, str]:
        task = config.settings.task
        if thinks:
            return THOUGHT, "the chat template thinks before it answers"
        return BY_TASK.get(task, ANSWER), f"answers of {task}"

    def max_row_tokens(self, config: Config) -> int:
        return config.settings.max_seq_length - self.completion_tokens(config)

    def arguments(self, config: Config) -> dict[str, Any]:
        settings = config.settings
        assert isinstance(settings, SampledSettings)
        return {
            "max_completion_length": self.completion_tokens(config),
            "temperature": settings.generation.temperature,
            "top_k": settings.generation.top_k,
            "top_p": settings.generation.top_p,
            **self._penalty(config),
            "chat_template_kwargs": settings.chat_template_kwargs or None,
        }

    def _penalty(self, config: Config) -> dict[str, float]:
        """transformers takes a float alone, and breaks on 2 once it generates."""
        penalty = config.get("repetition_penalty")
        return {} if penalty is None else {"repetition_penalty": float(penalty)}

    def datasets(self, parts: Parts) -> Any:
        train, evaluation = super().datasets(parts)
        assert isinstance(parts.config.settings, SampledSettings)
        count = parts.config.settings.eval_prompts
        if evaluation is not None and len(evaluation) > count:
            say(f"evaluating on the first {count} of {len(evaluation)} held-out prompts")
            evaluation = evaluation.select(range(count))
        return train, evaluation
