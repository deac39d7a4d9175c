"""What a PPO checkpoint holds besides the policy's adapter, its optimiser and random state.

checkpoint-N/
    ppo/value_head.safetensors    the value head
    ppo/critic/, ppo/reference/    their adapters, where there are any
    ppo/state.json                KL coefficient, running moments, counters, metrics
    ppo/rollout-R.pt              process R's rollout, so that a resume within its epochs
                                  goes on with it in place of generating another
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from peft import set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from modelforge.errors import Problem, RunError
from modelforge.ppo.roles import CRITIC, POLICY, REFERENCE


def save(trainer: Any, checkpoint: Path) -> None:
    """Write the ``ppo`` folder of a checkpoint, before transformers writes the rest."""
    folder = checkpoint / "ppo"
    folder.mkdir(parents=True, exist_ok=True)
    rank = trainer.accelerator.process_index
    torch.save(trainer._buffered_inputs, folder / f"rollout-{rank}.pt")
    if not trainer.args.should_save:
        return
    policy = trainer._policy()
    head = {key: value.contiguous() for key, value in trainer.critic.head.state_dict().items()}
    save_file(head, folder / "value_head.safetensors")
    adapters = [name for name in (CRITIC, REFERENCE) if name in policy.peft_config]
    if adapters:
        policy.save_pretrained(str(folder), selected_adapters=adapters)
    state = {
        "kl_coef": trainer.kl.coef,
        "moments": trainer.shaper.moments.state(),
        "step": trainer._step,
        "train_tokens": trainer._total_train_tokens,
        "metrics": trainer._metrics["train"],
        "rollout_metrics": trainer.rollout_metrics,
        "stopped": trainer.stopped,
        "last_ref_update": trainer.last_ref_update,
        "processes": trainer.accelerator.num_processes,
    }
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")


def load(trainer: Any, checkpoint: Path) -> None:
    """Bring a trainer back to where ``checkpoint`` was written, in the middle of a rollout too.

    Raises:
        RunError: no PPO checkpoint, or one of another number of processes.
    """
    path = checkpoint / "ppo" / "state.json"
    if not path.is_file():
        what = "is no complete PPO checkpoint: ppo/state.json is missing"
        raise RunError(Problem(str(checkpoint), what, "resume from an earlier one"))
    state = json.loads(path.read_text(encoding="utf-8"))
    processes = trainer.accelerator.num_processes
    if state["processes"] != processes:
        what = f"was written by {state['processes']} processes, and there are {processes}"
        raise RunError(Problem(str(checkpoint), what, "resume with as many"))
    load_weights(trainer, checkpoint)
    trainer.kl.coef = state["kl_coef"]
    trainer.shaper.moments.load(state["moments"])
    trainer._step = state["step"]
    trainer._total_train_tokens = state["train_tokens"]
    trainer._metrics["train"].update(state["metrics"])
    trainer.rollout_metrics = state["rollout_metrics"]
    trainer.stopped = state["stopped"]
    trainer.last_ref_update = state["last_ref_update"]
    rollout = checkpoint / "ppo" / f"rollout-{trainer.accelerator.process_index}.pt"
    batches = torch.load(rollout, map_location="cpu", weights_only=True)
    trainer._buffered_inputs = [send_to_device(b, trainer.accelerator.device) for b in batches]


def load_weights(trainer: Any, checkpoint: Path) -> None:
    """The policy, the value head and adapter, and the reference of a checkpoint."""
    policy = trainer._policy()
    _load_adapter(policy, checkpoint, POLICY)
    for name in (CRITIC, REFERENCE):
        if name in policy.peft_config:
            _load_adapter(policy, checkpoint / "ppo" / name, name)
    trainer.critic.head.load_state_dict(load_file(checkpoint / "ppo" / "value_head.safetensors"))


def _load_adapter(policy: Any, folder: Path, name: str) -> None:
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise RunError(Problem(str(folder), "holds no adapter", "resume from an earlier one"))
    result: Any = set_peft_model_state_dict(policy, load_file(path), adapter_name=name)
    missing = [key for key in result.missing_keys if f".{name}." in key]
    if missing or result.unexpected_keys:
        key = [*missing, *result.unexpected_keys][0]
        what = f"does not fit the adapter '{name}' of this run: {key}"
        raise RunError(Problem(str(folder), what, "resume with the settings it was begun with"))
