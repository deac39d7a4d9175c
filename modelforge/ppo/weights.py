"""The weights that a PPO checkpoint holds besides the policy's adapter.

checkpoint-N/
    ppo/value_head.safetensors    the value head
    ppo/critic/, ppo/reference/    their adapters, where there are any
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from modelforge.errors import Problem, RunError
from modelforge.ppo.reference import CRITIC, POLICY, REFERENCE

_HEAD = "value_head.safetensors"


def save(trainer: Any, checkpoint: Path) -> None:
    """Write the ``ppo`` folder of a checkpoint."""
    folder = checkpoint / "ppo"
    folder.mkdir(parents=True, exist_ok=True)
    policy = trainer._policy()
    head = {key: value.contiguous() for key, value in trainer.critic.head.state_dict().items()}
    save_file(head, folder / _HEAD)
    adapters = [name for name in (CRITIC, REFERENCE) if name in policy.peft_config]
    if adapters:
        policy.save_pretrained(str(folder), selected_adapters=adapters)


def load(trainer: Any, checkpoint: Path) -> None:
    """The policy, the value head and adapter, and the reference of a checkpoint.

    Raises:
        RunError: It is not PPO's, or does not fit this run.
    """
    if not (checkpoint / "ppo" / _HEAD).is_file():
        what = f"is no PPO checkpoint: ppo/{_HEAD} is missing"
        raise RunError(Problem(str(checkpoint), what, "resume from another one"))
    policy = trainer._policy()
    _load_adapter(policy, checkpoint, POLICY)
    for name in (CRITIC, REFERENCE):
        if name in policy.peft_config:
            _load_adapter(policy, checkpoint / "ppo" / name, name)
    trainer.critic.head.load_state_dict(load_file(checkpoint / "ppo" / _HEAD))


def _load_adapter(policy: Any, folder: Path, name: str) -> None:
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise RunError(Problem(str(folder), "holds no adapter", "resume from an earlier one"))
    result: Any = set_peft_model_state_dict(policy, load_file(path), adapter_name=name)
    missing = [key for key in result.missing_keys if f".{name}." in key]
    if missing or result.unexpected_keys:
        key = [*missing, *result.unexpected_keys][0]
        what = f"does not fit the adapter '{name}' of this run: {key}"
        raise RunError(Problem(str(folder), what, "resume with the run's first settings"))
