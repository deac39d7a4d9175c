"""From a config to the trainer that would run: its class, its arguments, its longest batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelforge.config import Choice
from modelforge.errors import ConfigError, Problem
from modelforge.models.lora import lora_config
from modelforge.plan.model import attach_adapter, meta_model
from modelforge.plan.reward_models import reward_models
from modelforge.plan.step import MetaRun, stand_in_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, Trainer

    from modelforge.config import Config
    from modelforge.machine.hardware import Hardware

# What belongs to the machine, the hub or another program, and changes no tensor of a step.
_LEFT_OUT = """
    deepspeed fsdp fsdp_config torch_compile torch_compile_backend torch_compile_mode push_to_hub
    eval_strategy load_best_model_at_end use_vllm use_liger_kernel resume_from_checkpoint
    parallelism_config ddp_backend
"""
_TOKEN = 2  # of the stand-in tokenizer's word


@dataclass(frozen=True)
class _Wanted:
    """What a job is made of."""

    trainer_class: type[Trainer]
    args: Any
    config: Config
    architecture: PretrainedConfig
    hardware: Hardware
    adapter: Path | None

    @property
    def rows(self) -> int:
        return self.args.per_device_train_batch_size

    @property
    def length(self) -> int:
        return self.config.settings.max_seq_length


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
        ConfigError: If TRL refuses a value, or no trainer of TRL is behind the strategy.
    """
    from modelforge import registry

    config = _decided(config, adapter)
    # rlhf runs its stages as runs of their own; the policy's is the one that holds all roles.
    name = getattr(config.settings, "algorithm", config.settings.strategy)
    strategy = registry.get_strategy(name)()
    trainer_class = strategy.trl_trainer_class()
    kept = {k: v for k, v in config.trl.items() if k not in _LEFT_OUT.split()}
    args = strategy.build_args(
        replace(config, trl=kept), output_dir=output_dir, device=_device_fields(config, hardware)
    )
    args.report_to = []
    for base in trainer_class.__mro__:
        if base.__name__ in _MAKERS:
            make = _MAKERS[base.__name__]
            return make(_Wanted(trainer_class, args, config, architecture, hardware, adapter))
    what = f"cannot be planned: {trainer_class.__name__} is none of " + ", ".join(_MAKERS)
    raise ConfigError(Problem(f"{config.name}: strategy", what, "train without a plan"))


def _decided(config: Config, adapter: Path | None) -> Config:
    """With PPO's reference decided, which would look for weights."""
    section = getattr(config.settings, "ppo", None)
    if section is None or section.reference != "auto":
        return config
    reference = "base" if adapter is None else "initial"
    values = section.model_dump() | {"reference": reference}
    return config.with_choices({"ppo": Choice(values, "plan")})


def _device_fields(config: Config, hardware: Hardware) -> dict[str, bool]:
    from modelforge.machine.hardware import device_arguments

    chosen = {k: c.value for k, c in device_arguments(hardware, config.said).items()}
    # float16 and bfloat16 are of one size, and the CPU that this runs on refuses the former.
    mixed = bool(chosen.get("bf16") or chosen.get("fp16"))
    return {"use_cpu": True, "bf16": mixed, "fp16": False}


def _arguments(
    wanted: _Wanted, dataset: list[dict[str, Any]], *, head: Literal["causal-lm", "reward"]
) -> dict[str, Any]:
    from datasets import Dataset

    from modelforge.models.providers.huggingface import weights_dtype

    settings = wanted.config.settings
    dtype = weights_dtype(wanted.config, wanted.hardware)
    model: Any = meta_model(wanted.architecture, settings, head=head, dtype=dtype)
    peft_config: Any = lora_config(settings, head=head)
    if wanted.adapter is not None:
        model, peft_config = attach_adapter(model, wanted.adapter), None
    return {
        "model": model,
        "args": wanted.args,
        "train_dataset": Dataset.from_list(dataset),
        "processing_class": stand_in_tokenizer(),
        "peft_config": peft_config,
    }


def _sft(wanted: _Wanted) -> MetaRun:
    """Rows of the full length, all of it supervised; packed rows hold many documents."""
    row = {"input_ids": [_TOKEN] * wanted.length, "labels": [_TOKEN] * wanted.length}
    rows = [row] * wanted.rows
    if wanted.args.packing:
        rows = [{**row, "seq_lengths": [wanted.length]} for row in rows]
        # What is here is one packed row already.
        wanted.args.dataset_kwargs = {"skip_prepare_dataset": True}
    arguments = _arguments(wanted, rows, head="causal-lm")
    tokens, padded = wanted.rows * wanted.length, wanted.rows > 1 or wanted.args.packing
    if wanted.config.settings.attn_implementation.startswith("flash"):
        # As sdpa without a mask: rows of the full length, one after the other or side by side.
        wanted.args.padding_free, padded = False, False
    return MetaRun(wanted.trainer_class, arguments, rows, tokens, padded=padded)


def _dpo(wanted: _Wanted) -> MetaRun:
    """Pairs of the full length with a prompt of one token: the most to score."""
    words = " ".join(["a"] * 8)
    dataset = [{"prompt": "a", "chosen": words, "rejected": words}]
    completion = [_TOKEN] * (wanted.length - 1)
    rows = [{"prompt_ids": [_TOKEN], "chosen_ids": completion, "rejected_ids": completion}]
    rows *= wanted.rows
    arguments = _arguments(wanted, dataset, head="causal-lm")
    tokens = 2 * wanted.rows * wanted.length
    if wanted.config.settings.lora_r == 0 and not wanted.args.precompute_ref_log_probs:
        arguments["ref_model"] = _frozen_copy(wanted)
    return MetaRun(wanted.trainer_class, arguments, rows, tokens, padded=True)


def _reward(wanted: _Wanted) -> MetaRun:
    ids = [_TOKEN] * wanted.length
    rows = [{"chosen_ids": ids, "rejected_ids": ids}] * wanted.rows
    arguments = _arguments(wanted, rows, head="reward")
    tokens = 2 * wanted.rows * wanted.length
    return MetaRun(wanted.trainer_class, arguments, rows, tokens, padded=True)


def _grpo(wanted: _Wanted) -> MetaRun:
    """A rollout of the longest prompts and completions, scored by whatever models there are."""
    args = wanted.args
    new = args.max_completion_length
    prompt = max(1, wanted.length - new)
    rows = [{"prompt": " ".join(["a"] * prompt)}] * (wanted.rows * args.steps_per_generation)
    arguments = _arguments(wanted, rows, head="causal-lm")
    scorers: list[Callable[[int], None]] = []

    def constant(completions: list[Any], **columns: Any) -> list[float]:
        for scorer in scorers:
            scorer(len(completions))
        return [1.0] * len(completions)

    def prepare(trainer: Any) -> None:
        scorers.extend(reward_models(trainer, wanted.config, wanted.architecture, wanted.rows))

    return MetaRun(
        wanted.trainer_class,
        arguments | {"reward_funcs": [constant]},
        rows,
        wanted.rows * (prompt + new),
        share_true=new / (prompt + new - 1),
        padded=True,
        generates=(len(rows), prompt, new),
        by_vllm=bool(wanted.config.get("use_vllm")),
        prepare=prepare,
    )


def _frozen_copy(wanted: _Wanted) -> Any:
    """The reference that TRL loads a second time when all weights are trained."""
    from modelforge.models.providers.huggingface import weights_dtype

    dtype = weights_dtype(wanted.config, wanted.hardware)
    model = meta_model(wanted.architecture, wanted.config.settings, head="causal-lm", dtype=dtype)
    return model.requires_grad_(False)


_MAKERS: dict[str, Callable[[_Wanted], MetaRun]] = {
    "SFTTrainer": _sft,
    "DPOTrainer": _dpo,
    "RewardTrainer": _reward,
    "GRPOTrainer": _grpo,
    "RLOOTrainer": _grpo,
}
