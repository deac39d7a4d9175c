"""From a config to the trainer that would run: its class, its arguments, its longest batch.

All that depends on the strategy is asked of it: `Strategy.planned` and `Strategy.longest_batch`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelforge import registry
from modelforge.errors import Problem
from modelforge.machine.launch import processes_of
from modelforge.machine.precision import train_in_float32
from modelforge.models.lora import lora_config, rows_trained
from modelforge.plan.model import attach_adapter, meta_model
from modelforge.plan.result import NotPlanned
from modelforge.plan.reward_models import put_reward_models
from modelforge.plan.step import MetaRun, stand_in_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from modelforge.config import Config
    from modelforge.machine.hardware import Hardware
    from modelforge.strategy import LongestBatch

# What belongs to the machine, the hub or another program, and changes no tensor of a step.
_LEFT_OUT = """
    deepspeed fsdp fsdp_config torch_compile torch_compile_backend torch_compile_mode push_to_hub
    eval_strategy load_best_model_at_end use_vllm use_liger_kernel resume_from_checkpoint
    parallelism_config ddp_backend debug
"""


def build_meta_run(
    config: Config,
    architecture: PretrainedConfig,
    hardware: Hardware,
    *,
    adapter: Path | None,
    output_dir: Path,
) -> MetaRun:
    """The trainer a config would run.

    Args:
        config: With every value filled in.
        architecture: Of the model.
        hardware: Of the machine that the run is planned for.
        adapter: Folder of an adapter that is trained on, or None.
        output_dir: A folder that a trainer may write to.

    Raises:
        NotPlanned: If the strategy does not say what its longest batch is.
        ConfigError: If TRL refuses a value.
    """
    asked = registry.get_strategy(config.settings.strategy)()
    strategy, config = asked.planned(config, adapted=adapter is not None)
    kept = {k: v for k, v in config.trl.items() if k not in _LEFT_OUT.split()}
    args = strategy.build_args(
        replace(config, trl=kept | _whole_groups(config)),
        output_dir=output_dir,
        device=_device_fields(config, hardware),
    )
    args.report_to = []
    batch = asked.longest_batch(config, args)
    if batch is None:
        what = f"{config.settings.strategy} does not say its longest batch, so there is no plan"
        fix = f"give {type(asked).__name__} the hook longest_batch (docs/architecture.md)"
        raise NotPlanned(Problem(f"{config.name}: strategy", what, fix))
    arguments = _arguments(
        batch, args, config, architecture, hardware, adapter=adapter, head=strategy.head
    )
    scorers: list[Callable[[int], None]] = []
    if batch.teacher is not None:
        arguments["teacher_model"] = _teacher(batch.teacher, config, architecture, hardware)
    elif batch.rollout is not None:
        arguments["reward_funcs"] = [_scored_by(scorers)]

    def prepare(trainer: Any) -> None:
        train_in_float32(trainer.model)
        size = args.per_device_train_batch_size
        scorers.extend(put_reward_models(trainer, batch.scored_by, config, architecture, size))

    return MetaRun(
        strategy.trl_trainer_class(),
        arguments,
        batch.rows,
        batch.tokens,
        share_true=batch.supervised,
        padded=batch.padded,
        generates=batch.rollout,
        by_vllm=bool(config.get("use_vllm")),
        prepare=prepare,
    )


def _whole_groups(config: Config) -> dict[str, int]:
    """The size of group that one process holds whole, where several make up a group together.

    What an answer takes does not depend on the others of its group.
    """
    group = config.get("num_generations") or 1
    passes = config.get("steps_per_generation") or config.get("gradient_accumulation_steps") or 1
    rows = config.micro_batch * passes
    if rows % group == 0 or rows * processes_of(config) % group:
        return {}
    return {"num_generations": gcd(group, rows)}


def _device_fields(config: Config, hardware: Hardware) -> dict[str, bool]:
    from modelforge.machine.hardware import device_arguments

    chosen = {k: c.value for k, c in device_arguments(hardware, config.said).items()}
    # float16 and bfloat16 are of one size, and the CPU that this runs on refuses the former.
    mixed = bool(chosen.get("bf16") or chosen.get("fp16"))
    return {"use_cpu": True, "bf16": mixed, "fp16": False}


def _arguments(
    batch: LongestBatch,
    args: Any,
    config: Config,
    architecture: PretrainedConfig,
    hardware: Hardware,
    *,
    adapter: Path | None,
    head: Literal["causal-lm", "reward"],
) -> dict[str, Any]:
    """What the trainer is built from, but for its rewards."""
    from datasets import Dataset

    from modelforge.models.providers.huggingface import weights_dtype

    dtype = weights_dtype(config, hardware)
    model: Any = meta_model(architecture, config.settings, head=head, dtype=dtype)
    rows = range(rows_trained(config.settings))
    peft_config: Any = lora_config(config.settings, head=head, model=model, rows=rows)
    if adapter is not None:
        model, peft_config = attach_adapter(model, adapter, head=head), None
    arguments = {
        "model": model,
        "args": args,
        "train_dataset": Dataset.from_list(batch.dataset or batch.rows),
        "processing_class": stand_in_tokenizer(),
        "peft_config": peft_config,
    }
    if batch.reference:
        reference: Any = meta_model(architecture, config.settings, head=head, dtype=dtype)
        arguments["ref_model"] = reference.requires_grad_(False)
    return arguments


def _teacher(
    named: tuple[str, bool], config: Config, architecture: PretrainedConfig, hardware: Hardware
) -> Any:
    """The teacher's shape beside the student, with as many words."""
    from modelforge.models.providers.huggingface import weights_dtype
    from modelforge.plan.architectures import find_architecture

    name, in_4bit = named
    where = f"{config.name}: teacher_model"
    found = find_architecture(name, base_dir=config.base_dir, revision=None, where=where)
    shape = found.architecture
    shape.get_text_config().vocab_size = architecture.get_text_config().vocab_size
    settings = config.settings.model_copy(update={"use_4bit": in_4bit, "use_8bit": False})
    model: Any = meta_model(
        shape, settings, head="causal-lm", dtype=weights_dtype(config, hardware)
    )
    return model.requires_grad_(False)


def _scored_by(scorers: list[Callable[[int], None]]) -> Callable[..., list[float]]:
    """A reward function that lets these models score, and gives one value to all."""

    def constant(completions: list[Any], **columns: Any) -> list[float]:
        for scorer in scorers:
            scorer(len(completions))
        return [1.0] * len(completions)

    return constant
