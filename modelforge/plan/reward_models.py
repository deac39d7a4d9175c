"""The reward models of a run: adapters on the policy's base, or models beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from modelforge.models.lora import lora_config
from modelforge.models.source import local_folder
from modelforge.plan.architectures import find_architecture
from modelforge.plan.model import meta_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from modelforge.config import Config, Settings

# Scores so many texts.
Scorer = Callable[[int], None]


def put_reward_models(
    trainer: Any,
    names: Sequence[str],
    config: Config,
    architecture: PretrainedConfig,
    batch: int,
) -> list[Scorer]:
    """Put reward models where the run would, and give what scores with each.

    A model that is an adapter, or that a stage before will train, shares the policy's base; any
    other stands beside it.

    Args:
        trainer: Built, on the meta device.
        names: Folders and hub ids; empty for one that is yet to be trained.
        config: Of the run.
        architecture: Of the policy.
        batch: Texts that are scored at once.
    """
    scorers: list[Scorer] = []
    beside: list[Any] = []
    for number, name in enumerate(names):
        folder = local_folder(name, config.base_dir) if name else None
        adapted = _lora_alone(trainer.model, config.settings) and _is_adapter(name, folder)
        beside_it = config.get("use_vllm") or config.settings.distributed.shards_weights
        if not adapted or beside_it:
            found = find_architecture(
                name or config.settings.model_name,
                base_dir=config.base_dir,
                revision=None,
                where="reward_model",
            )
            settings = config.settings.model_copy(update={"use_4bit": False, "use_8bit": False})
            model = meta_model(
                found.architecture, settings, head="reward", dtype=torch.bfloat16
            ).requires_grad_(False)
            beside.append(model)
            scorers.append(_scorer(_score_with(model), config, batch))
        else:
            scorers.append(_scorer(_on_base(trainer.model, config, number), config, batch))
    # Beside the policy as TRL's own reference is: weights that are there all the time.
    trainer.models_beside = beside
    return scorers


def _lora_alone(policy: Any, settings: Settings) -> bool:
    """Whether a policy's adapter lets others stand beside it on its base."""
    from modelforge.models.lora import starts_as_base
    from modelforge.rewards.shared_base import beside_lora

    shape = getattr(policy, "peft_config", {}).get("default")
    # How it begins is not in its shape here, where there are no weights.
    return shape is not None and starts_as_base(settings) and not beside_lora(vars(shape))


def _is_adapter(name: str, folder: Path | None) -> bool:
    if not name or folder is None:
        return not name
    inner = folder / "model" if (folder / "model").is_dir() else folder
    return (inner / "adapter_config.json").is_file()


def _on_base(policy: Any, config: Config, number: int) -> Callable[..., Any]:
    """PPO's own scoring on the shared base, under an adapter of the policy's shape."""
    from modelforge.models.adapters import adapter_parameters
    from modelforge.rewards.shared_base import hold_score_heads, score_on_base

    adapter = f"reward_{number}"
    hold_score_heads(policy.get_base_model())
    shape: Any = lora_config(config.settings, head="reward")
    # "all-linear" would by now mean the value head too.
    shape.target_modules = policy.peft_config["default"].target_modules
    policy.add_adapter(adapter, shape)
    for parameter in adapter_parameters(policy, adapter).values():
        parameter.data = parameter.data.to("meta")
        parameter.requires_grad_(False)
    return partial(score_on_base, policy, adapter, pad_token_id=-1)


def _score_with(model: Any) -> Callable[..., Any]:
    @torch.no_grad()
    def score(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        ids, mask = input_ids.to("meta"), attention_mask.to("meta")
        return model(input_ids=ids, attention_mask=mask, use_cache=False).logits

    return score


def _scorer(score: Callable[..., Any], config: Config, batch: int) -> Scorer:
    length = config.settings.max_seq_length

    def run(texts: int) -> None:
        for start in range(0, min(texts, 2 * batch), batch):  # the rest is as the second
            ids = torch.ones((min(batch, texts - start), length), dtype=torch.long)
            score(input_ids=ids, attention_mask=ids)

    return run
