"""``PPOTrainer``: PPO as a subclass of TRL's ``GRPOTrainer``.

TRL generates, calls the reward functions, buffers the rollout, computes the clipped surrogate
(which takes an advantage for each token), logs and saves. This class adds what makes it PPO: the
value head, the KL penalty in the reward, GAE, the value loss. It leans on hooks of TRL that are
not public; ``HOOKS`` names them and a test holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from trl import GRPOTrainer

from modelforge.checkpointing.resumable import Resumable
from modelforge.errors import ConfigError, ModelError, Problem, RunError, did_you_mean
from modelforge.measuring.by_prompt import ByPrompt
from modelforge.models.adapters import inference, using
from modelforge.models.lora import exact_4bit_on_cpu
from modelforge.ppo import maths, weights
from modelforge.ppo.batches import completion_mask, drawn_anew, last_of, whole
from modelforge.ppo.config import MEANS_OF_ROWS, PPOConfig
from modelforge.ppo.metrics import OF_A_ROLLOUT, of_a_rollout
from modelforge.ppo.reference import POLICY, REFERENCE, copy_policy, finish_adapters
from modelforge.ppo.shaping import RewardShaper
from modelforge.ppo.value import Critic

#: What of TRL's and transformers' private parts this trainer overrides (name -> parameters it is
#: called with) or reads. A release that changes one fails the contract test, not a run.
HOOKS = {
    "_calculate_rewards": ["inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["inputs"],
    "_compute_loss": ["model", "inputs"],
    "_prepare_inputs": ["generation_batch"],
    "_get_per_token_logps_and_entropies": ["model"],
    "_save": ["output_dir", "state_dict"],
    "_load_from_checkpoint": ["resume_from_checkpoint", "model"],
    "_load_best_model": [],
}


# Of the critic over the policy, where it is not set: verl takes 10, OpenRLHF 9 to 18.
VALUE_RATE = 10


class PPOTrainer(ByPrompt, Resumable, GRPOTrainer):
    """Trains a LoRA policy with PPO; arguments as ``GRPOTrainer``'s, ``args`` a ``PPOConfig``.

    Raises:
        ModelError: the model has no LoRA adapter named ``default``.
        ConfigError: ``reward_ensemble`` names a reward that is not there.
        RunError: a sharding (FSDP, ZeRO-3) under which adapters cannot be switched in a step.
    """

    _tag_names = ["modelforge", "ppo"]
    _name = "PPO"
    # What transformers leaves optional, and is always there in this trainer.
    args: Any
    model: Any
    processing_class: Any

    def __init__(self, model: Any, reward_funcs: Any, args: PPOConfig, *more: Any, **kwargs: Any):
        super().__init__(model, reward_funcs, args, *more, **kwargs)
        policy = self._policy()
        if POLICY not in getattr(policy, "peft_config", {}):
            what = "PPO needs a LoRA adapter named 'default' on the model"
            raise ModelError(Problem("model", what, "pass a PeftModel, or peft_config"))
        stage = getattr(self.accelerator.state.deepspeed_plugin, "zero_stage", 0)
        if self.is_fsdp_enabled or stage == 3:
            what = "PPO switches adapters within a step, which sharded parameters do not allow"
            raise RunError(Problem("distributed", what, "use DDP or ZeRO-2"))
        exact_4bit_on_cpu(policy)
        self.critic = Critic(policy, args.value_mode)
        if args.reference == "initial":
            copy_policy(policy, REFERENCE)
        finish_adapters(policy, disable_dropout=args.disable_dropout)
        self.kl = maths.KLController(args.kl_coef, args.kl_target, args.kl_horizon)
        self.shaper = RewardShaper(
            self.reward_weights, self._ensemble(), args.reward_std_penalty,
            args.reward_normalization, args.reward_normalize_sources, args.reward_clip,
            args.reward_aggregation == "worst",
        )  # fmt: skip
        self.rollout_metrics: dict[str, float] = {}
        self.stopped = False
        self.begun = False  # whether the critic has seen a rollout
        self.last_ref_update = 0
        self._window: list[Tensor] = []  # KL to the old policy, of this update's micro-batches

    def _policy(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    def _ensemble(self) -> list[int]:
        names = self.args.reward_ensemble
        names = self.reward_func_names if names is None else names
        unknown = [name for name in names if name not in self.reward_func_names]
        if unknown:
            known = self.reward_func_names
            raise ConfigError(
                *(Problem("reward_ensemble", f"no reward '{n}'", did_you_mean(n, known))
                  for n in unknown)
            )  # fmt: skip
        worst, careful = self.args.reward_aggregation == "worst", self.args.reward_std_penalty
        if (careful or worst) and len(names) < 2:
            what = f"is about how far rewards differ, and {len(names)} of them is no ensemble"
            fix = "leave it out, or give several reward models"
            key = "reward_aggregation" if worst else "reward_std_penalty"
            raise ConfigError(Problem(key, what, fix))
        return [self.reward_func_names.index(name) for name in names]

    def _sum(self, x: Tensor) -> Tensor:
        return self.accelerator.reduce(x, "sum")

    # --- the forward pass: values come off the same one ------------------------------------------

    def _get_per_token_logps_and_entropies(self, model, input_ids, mask, logits_to_keep, *a, **k):
        with self.critic.reading(logits_to_keep) as values:
            out = super()._get_per_token_logps_and_entropies(
                model, input_ids, mask, logits_to_keep, *a, **k
            )
        # the critic's own adapter reads no trunk: its values come from a pass of its own
        self._logps, self._values = out[0], torch.cat(values) if values else torch.empty(0)
        return out

    def _forward(self, batch: dict[str, Tensor], size: int) -> None:
        """Leaves ``_logps`` and trunk ``_values`` (B, C) of a rollout, ``size`` rows at a time."""
        ids, mask = whole(batch)
        length = batch["completion_ids"].size(1)
        self._get_per_token_logps_and_entropies(self.model, ids, mask, length, batch_size=size)

    # --- the rollout -----------------------------------------------------------------------------

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        self._raw_rewards = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        return self._raw_rewards

    def _generate_and_score_completions(self, inputs):
        mode = "train" if self.model.training else "eval"
        log = self._metrics[mode]
        logged = {key: len(values) for key, values in log.items()}
        if mode == "train":
            self._update_reference()
        self._logps = None
        batch = super()._generate_and_score_completions(inputs)
        log.pop("frac_reward_zero_std", None)  # of a group of one
        batch.update(self._judge(batch, mode))
        if mode == "train":
            self.rollout_metrics = {
                key: values[-1] for key, values in log.items() if len(values) > logged.get(key, 0)
            }
        return batch

    def _update_reference(self) -> None:
        every = self.args.ref_update_steps
        if every is not None and self.state.global_step - self.last_ref_update >= every:
            copy_policy(self._policy(), REFERENCE)
            self.last_ref_update = self.state.global_step

    def _judge(self, batch: dict[str, Any], mode: str) -> dict[str, Tensor]:
        """Advantages and returns of a rollout, from rewards, KL and values; logs its metrics."""
        args, policy = self.args, self._policy()
        size = args.per_device_train_batch_size  # in evaluation too: what is known to fit
        with inference(policy):
            if self._logps is None:  # else TRL has just computed them, for the same purpose
                self._forward(batch, size)
            old_logps, values = self._logps, self._values
            if self.critic.apart:
                length = old_logps.size(1)
                with self.accelerator.autocast():
                    values = self.critic.own_pass(*whole(batch), length, size)
            with using(policy, REFERENCE if args.reference == "initial" else None):
                self._forward(batch, size)
                ref_logps = self._logps
        mask, score, truncated = self._score(batch, mode)
        kl = maths.kl_estimate(old_logps, ref_logps, args.kl_estimator, args.kl_cap) * mask
        rewards = -self.kl.coef * kl
        rows = torch.arange(len(mask), device=mask.device)
        rewards[rows, last_of(mask)] += score
        total = rewards.sum(1)
        if mode == "train" and not self.begun:
            # Before anything is learned the best of all lines, through the values of a critic that
            # begins as the reward model; a constant where they say nothing of the return.
            slope, gap = maths.line(values, total[:, None].expand_as(values), mask, self._sum)
            self.critic.fit(slope, gap)
            values, self.begun = slope * values + gap, True
        values = values * mask
        if args.whiten_rewards:
            rewards = maths.whiten(rewards, mask, self._sum, shift_mean=False)
        advantages, returns = maths.gae(
            rewards, values, mask, gamma=args.gamma, lam=args.gae_lambda
        )
        self._log_rollout(mode, mask, values, returns, advantages, kl, score, total, truncated)
        if args.normalize_advantages:
            advantages = maths.whiten(advantages, mask, self._sum)
        if args.loss_type in MEANS_OF_ROWS:  # TRL's count those that teach nothing too
            counts = self._sum(torch.stack([mask.any(1).sum(), mask.new_tensor(len(mask))]))
            advantages = advantages * counts[1] / counts[0].clamp(min=1)
        return {
            "advantages": advantages,
            "returns": returns,
            "old_values": values,
            "old_per_token_logps": old_logps,
            "loss_mask": mask,
            "tokens": self._sum(mask.sum()).clamp(min=1.0),
        }

    def _score(self, batch: dict[str, Any], mode: str) -> tuple[Tensor, Tensor, Tensor]:
        """Mask (B, C) of the tokens that count, score (B,) and whether it was cut off (B,)."""
        ids, mask = batch["completion_ids"], completion_mask(batch)
        rows = torch.arange(len(ids), device=ids.device)
        ends = ids[rows, last_of(batch["completion_mask"])]
        # TRL 1.14 has no such attribute: there the tokenizer's own end alone ends an answer.
        stops = getattr(self, "eos_token_ids", [self._tokenizer.eos_token_id])
        truncated = ~torch.isin(ends, torch.tensor(stops, device=ids.device))
        everyone = self.shaper(self._raw_rewards, update=mode == "train")
        begin = self.accelerator.process_index * len(ids)
        score = everyone[begin : begin + len(ids)].to(ids.device)
        # A completion that no reward could judge teaches nothing, neither policy nor value.
        mask = mask * (~score.isnan())[:, None]
        score = score.nan_to_num()
        if self.args.missing_eos_penalty is not None:
            score = score - self.args.missing_eos_penalty * truncated
        return mask, score * mask.any(1), truncated

    def _log_rollout(self, mode: str, mask: Tensor, *parts: Tensor) -> None:
        figures = of_a_rollout(mask, *parts, reduce=self._sum) | {"kl/coef": self.kl.coef}
        for key, value in figures.items():
            if mode == "train" or key not in OF_A_ROLLOUT:
                self._metrics[mode][key].append(value)
        if mode == "train":
            self.kl.update(figures["kl/reference"], len(self._raw_rewards))

    # --- the update ------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch):
        """Minibatches are drawn anew in each epoch over a rollout; TRL draws them once."""
        parts = self.args.steps_per_generation
        again = self._step % parts == 0 and self._step % (parts * self.args.num_iterations) != 0
        if self.model.training and again and parts > 1 and self._buffered_inputs:
            self._buffered_inputs = drawn_anew(self._buffered_inputs)
        return super()._prepare_inputs(generation_batch)

    def training_step(self, model, inputs, num_items_in_batch=None):
        cycle = self.args.steps_per_generation * self.args.num_iterations
        if self._step % cycle == 0:
            self.stopped = False
        if self.stopped:
            # No backward pass: the gradients stay None, and the optimiser leaves such parameters be
            self._step += 1
            loss = torch.zeros((), device=self.accelerator.device)
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self._stop_beyond_limit(model)
            self._metrics["train"]["updates_skipped"].append(float(self.stopped))
        return loss

    def _stop_beyond_limit(self, model: nn.Module) -> None:
        """Leave out this update, and what remains of the rollout, if the policy went too far."""
        limit, window, self._window = self.args.kl_stop, self._window, []
        if limit is not None and window and float(torch.stack(window).mean()) > limit:
            self.stopped = True
            model.zero_grad()

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        mode = "train" if self.model.training else "eval"
        steps = self.current_gradient_accumulation_steps if mode == "train" else 1
        mask = inputs["loss_mask"]
        share = self._share_of_tokens(inputs)
        # The tokens of completions without a score count neither above nor below the line.
        counted = {"tool_mask": mask, "num_items_in_batch": inputs["tokens"]}
        policy_loss = super()._compute_loss(model, inputs | counted)
        if self.args.loss_type == "bnpo":
            policy_loss = policy_loss * share
        logps, values = self._logps, self._values
        if self.critic.apart:
            with self.accelerator.autocast():
                values = self.critic.own_pass(*whole(inputs), mask.size(1), len(mask))
        value_loss, clipped = maths.value_loss(
            values, inputs["old_values"], inputs["returns"], mask, self.args.value_clip_range
        )
        value_loss = value_loss * share
        moved = maths.kl_estimate(inputs["old_per_token_logps"], logps.detach(), "k3")
        moved = maths.masked_mean(moved, mask, self._sum)
        if mode == "train":
            self._window.append(moved)
        parts = torch.stack([policy_loss.detach() * steps, value_loss.detach(), clipped])
        parts = self._sum(parts) / self.accelerator.num_processes
        names = ("policy/loss", "value/loss", "value/clip_fraction")
        for key, value in zip((*names, "kl/old_policy"), [*parts, moved], strict=True):
            self._metrics[mode][key].append(value.item())
        if mode == "train" and self.state.global_step < self.args.value_warmup_steps:
            policy_loss = 0.0 * policy_loss  # its gradient is 0: the critic learns alone
        return policy_loss + self.args.value_coef * value_loss / steps

    def _share_of_tokens(self, inputs: dict[str, Any]) -> Tensor:
        """A micro-batch's tokens over the mean of the rollout's micro-batches, in all processes.

        Times this, the means of micro-batches average to the mean over the rollout's tokens, into
        however many micro-batches and processes it was split.
        """
        parts = self.args.steps_per_generation if self.model.training else 1
        mean = inputs["tokens"] / (parts * self.accelerator.num_processes)
        return inputs["loss_mask"].sum() / mean

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # A rollout serves several updates; its metrics stand in the log of each of them.
        if self.model.training and "loss" in logs:
            for key, value in self.rollout_metrics.items():
                if not self._metrics["train"][key]:
                    self._metrics["train"][key].append(value)
        super().log(logs, start_time)

    # --- optimiser, saving, resuming -------------------------------------------------------------

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        rate = self.args.value_learning_rate or VALUE_RATE * self.args.learning_rate
        if not any(g.get("name") == "value" for g in optimizer.param_groups):
            parameters = self.critic.parameters()
            theirs = {id(p) for p in parameters}
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in theirs]
            optimizer.add_param_group(
                {"params": parameters, "lr": rate, "weight_decay": 0.0, "name": "value"}
            )
        return optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Policy and critic each by their own norm: a critic far off must not hold the policy."""
        theirs, limit = self.critic.parameters(), self.args.max_grad_norm
        known = {id(parameter) for parameter in theirs}
        others = [p for p in model.parameters() if id(p) not in known]
        found = self.accelerator.clip_grad_norm_(others, limit)  # it unscales fp16's, all at once
        norm = nn.utils.clip_grad_norm_(theirs, limit)
        self._metrics["train"]["value/grad_norm"].append(float(norm))
        return found

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """The policy's adapter alone: the folder loads with plain PEFT."""
        if not self.args.should_save:
            return
        folder = output_dir or self.args.output_dir
        self._policy().save_pretrained(folder, state_dict=state_dict, selected_adapters=[POLICY])
        self.processing_class.save_pretrained(folder)
        torch.save(self.args, Path(folder) / "training_args.bin")

    def _save_state(self, checkpoint: Path) -> None:
        super()._save_state(checkpoint)
        if self.args.should_save:
            weights.save(self, checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers' own skips the policy where the model holds a second adapter.
        weights.load(self, Path(resume_from_checkpoint))

    def own_state(self) -> dict[str, Any]:
        return {
            "kl_coef": self.kl.coef,
            "moments": self.shaper.moments.state(),
            "rollout_metrics": dict(self.rollout_metrics),
            "stopped": self.stopped,
            "begun": self.begun,
            "last_ref_update": self.last_ref_update,
        }

    def set_own_state(self, state: Mapping[str, Any]) -> None:
        self.kl.coef = state["kl_coef"]
        self.shaper.moments.load(state["moments"])
        self.rollout_metrics = dict(state["rollout_metrics"])
        self.stopped, self.begun = state["stopped"], state["begun"]
        self.last_ref_update = state["last_ref_update"]
        self._window = []

    def _load_best_model(self) -> None:
        weights.load(self, Path(str(self.state.best_model_checkpoint)))
