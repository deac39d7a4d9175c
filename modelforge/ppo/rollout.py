"""How many answers a rollout of PPO has, and in which steps they are learned from."""

from __future__ import annotations

from modelforge.config import Choice, Config
from modelforge.machine.launch import processes_of
from modelforge.ppo.settings import PPOSection

# Answers of a rollout. InstructGPT takes 512 in steps of 64, OpenRLHF 1,024 in steps of 128, verl
# 1,024 in steps of 256. This is a small one, for few prompts; with 16, the critic overshoots
# (benchmarks/results/rlhf_real.md).
ROLLOUT = 128
MICRO, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"


def sized(
    config: Config, section: PPOSection, prompts: int | None
) -> tuple[dict[str, Choice], int | None, str]:
    """Whole steps that make up `ROLLOUT` answers, or as many as there are prompts for.

    Where the user says the rows of a step, a rollout is one step, as in TRL. Where they say the
    rollout, it is made of whole steps of at most as many rows as by default.

    Args:
        config: With the rows of a step.
        section: PPO's.
        prompts: How many there are to train on; None where the data are not read.

    Returns:
        The batch of a step where it changes, the answers of a rollout where they were left open,
        and why.
    """
    if any(map(config.given, (MICRO, ACCUMULATION))):
        return {}, None, ""
    at_once, passes = config.micro_batch * processes_of(config), config.get(ACCUMULATION) or 1
    said = section.rollout_size or config.get("generation_batch_size")
    said = said or at_once * (config.get("steps_per_generation") or 0)
    if said:
        return _whole_steps(config, said), None, ""
    most, batch = ROLLOUT if prompts is None else min(ROLLOUT, prompts), {}
    if most < at_once * passes:
        passes = max(most // at_once, 1)
        why = f"a step of {at_once * passes} rows: there are {prompts} prompts"
        batch[ACCUMULATION] = Choice(passes, "data", why)
    step = at_once * passes
    size = max(most // step, 1) * step
    steps = "1 step" if size == step else f"{size // step} steps"
    why = f"a rollout of {size} answers: {steps} of {step}, {section.ppo_epochs} times over"
    return batch, size, why


def _whole_steps(config: Config, rollout: int) -> dict[str, Choice]:
    """Micro-batch and accumulation of the largest step that makes up a rollout, within today's."""
    processes, micro = processes_of(config), config.micro_batch
    share, most = rollout // processes, micro * (config.get(ACCUMULATION) or 1)
    step = _divisor(share, most)
    if rollout % processes or step == most:
        return {}
    micro, why = _divisor(step, micro), f"a step of {step * processes} rows of {rollout} a rollout"
    return {
        MICRO: Choice(micro, "default", why),
        ACCUMULATION: Choice(step // micro, "default", why),
    }


def _divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is no more than this."""
    return max((n for n in range(1, most + 1) if number % n == 0), default=1)
