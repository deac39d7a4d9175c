"""What a run needs of every TRL trainer: nothing is lost, and a resume changes nothing.

``resumable(SFTTrainer)`` is the same trainer. Its checkpoints are whole or not there, and hold all
that decides the next step. No infinite gradient reaches its weights.
"""

from __future__ import annotations

import json
import os
import shutil
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from accelerate.utils import send_to_device
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback

from modelforge.checkpointing.checkpoints import PARTIAL, cannot_write, rotate, seal
from modelforge.checkpointing.micro_batches import rows_of, split
from modelforge.checkpointing.randomness import random_state, random_state_kept, set_random_state
from modelforge.checkpointing.resumed import best_of, state_of, take_up_as_asked, why_ended
from modelforge.checkpointing.saving import carry_rows, save_as_loaded
from modelforge.common.console import say, warn
from modelforge.common.files import open_folder, refuse_replaced
from modelforge.common.processes import anyone
from modelforge.errors import DivergedError, Problem, RunError

#: What of transformers' and TRL's private parts `Resumable` overrides, with the parameters they are
#: called with. A release that changes one fails the contract test, not a run.
HOOKS = {
    "_save_checkpoint": ["model", "trial"],
    "_get_output_dir": ["trial"],
    "_load_from_checkpoint": ["resume_from_checkpoint"],
    "_load_rng_state": ["checkpoint"],
    "training_step": ["model", "inputs", "num_items_in_batch"],
}
#: What it keeps of them, where they have it.
COUNTERS = ("_step", "_total_train_tokens", "_globalstep_last_logged")

STATE = "state.json"
# Steps in a row without a finite gradient after which nothing will mend by itself.
HOPELESS = 5


def resumable(trainer_class: type[Any]) -> type[Any]:
    """Make a TRL trainer class resumable. One that is so already is returned unchanged."""
    if issubclass(trainer_class, Resumable):
        return trainer_class
    return type(trainer_class.__name__, (Resumable, trainer_class), {})


class Resumable(Trainer):
    """Mixed into a trainer of TRL, in front of it.

    A checkpoint holds, beside what transformers writes::

        modelforge/state.json     counters, the losses and metrics since the last log
        modelforge/rollout-R.pt   process R's rollout, where one is not used up yet
        manifest.json             each file's size and sha256
    """

    # What transformers leaves optional and is always there, and what is TRL's.
    args: Any
    model: Any
    optimizer: Any
    processing_class: Any
    _metrics: Any
    _buffered_inputs: Any
    _step: int
    _tr_loss: torch.Tensor

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        self._staging: Path | None = None
        #: The folder of the checkpoint that training resumes from.
        self.resumed_from: Path | None = None
        self._root: int | None = None
        self._micro_batches: list[tuple[Any, torch.Tensor]] = []
        self._at_step: dict[str, Any] = {}
        #: Where a run is: ``forward`` (and backward), ``optimizer``, or ``between`` steps.
        self.phase = "between"
        #: Steps that changed nothing because their gradient was not finite.
        self.skipped_steps: list[int] = []
        use_cache = getattr(model.config, "use_cache", None)  # the trainer turns it off
        carry_rows(model)
        super().__init__(model, *args, **kwargs)
        save_as_loaded(self.model, use_cache=use_cache)
        self.add_callback(_Keeper(self))

    # --- what decides the next step, beyond weights, optimiser and random state -------------------

    def own_state(self) -> dict[str, Any]:
        """What a trainer adds to the state of a checkpoint, as plain JSON."""
        return {}

    def set_own_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `own_state` gave."""

    def whole_state(self) -> dict[str, Any]:
        """Counters, and the losses and metrics gathered since the last log."""
        return {
            "counters": {name: getattr(self, name) for name in COUNTERS if hasattr(self, name)},
            "loss": self._tr_loss.clone(),  # a number only where it is written: that waits
            "metrics": {key: list(values) for key, values in self._train_metrics().items()},
            "skipped_steps": list(self.skipped_steps),
            "processes": self.accelerator.num_processes,
            "micro_batch": self.args.per_device_train_batch_size,
            "own": self.own_state(),
        }

    def set_whole_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `whole_state` gave."""
        for name, value in state["counters"].items():
            setattr(self, name, value)
        if hasattr(self, "_step"):
            # In micro-batches, which may be smaller now than when the state was written.
            self._step = state["counters"]["_step"] * self._finer(state)
        self._tr_loss.copy_(torch.as_tensor(state["loss"]))
        metrics = self._train_metrics()
        metrics.clear()
        for key, values in state["metrics"].items():
            metrics[key] = list(values)
        self.skipped_steps = list(state["skipped_steps"])
        self.set_own_state(state["own"])

    def _finer(self, state: Mapping[str, Any]) -> int:
        """How many micro-batches there are now for one of then."""
        return state["micro_batch"] // self.args.per_device_train_batch_size

    def _train_metrics(self) -> dict[str, list[float]]:
        return getattr(self, "_metrics", {"train": {}})["train"]

    # --- checkpoints ------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As ever; ``resume_from_checkpoint`` is the folder of a checkpoint, or None."""
        self.resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self._root = open_folder(Path(self.args.output_dir))
        if self._root is not None:
            weakref.finalize(self, os.close, self._root)
        if self.resumed_from:
            self._refuse_other_processes(self.resumed_from)
            if ended := why_ended(self, self.resumed_from):
                return self._take_up_end(self.resumed_from, ended)
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is None:
            warn("no checkpoint was evaluated, so the last model is kept, and not the best")
        return result

    def _take_up_end(self, checkpoint: Path, ended: str) -> None:
        """No step is left: transformers would train one more before it saw that."""
        self.state = state_of(checkpoint)
        say(f"{ended}: nothing is left to train")
        self._load_from_checkpoint(str(checkpoint))
        self._tr_loss = torch.zeros(())
        self._load_state(checkpoint)
        self._load_rng_state(str(checkpoint))
        self.state.best_model_checkpoint = best_of(checkpoint)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()
        self.model.train()
        # What transformers logs at the end of a run.
        self.log({"train_runtime": 0.0, "total_flos": self.state.total_flos})

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        root = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        staging = root / PARTIAL
        refuse_replaced(root, self._root)
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)
            self._save_state(staging / name)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                refuse_replaced(root, self._root)
                self._best_is_here(staging, root)
                seal(staging / name, root / name)
                best = self.state.best_model_checkpoint
                rotate(root, keep=self.args.save_total_limit, best=best)
        except (OSError, RuntimeError, SafetensorError) as error:
            refusal = cannot_write(error, root)
            if refusal is None:
                raise
            raise refusal from error
        finally:
            self._staging = None
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _best_is_here(self, staging: Path, root: Path) -> None:
        """Name the best checkpoint by the name it is going to have."""
        best = self.state.best_model_checkpoint
        if best is not None and Path(best).parent == staging:
            self.state.best_model_checkpoint = str(root / Path(best).name)
            path = staging / f"checkpoint-{self.state.global_step}" / "trainer_state.json"
            self.state.save_to_json(str(path))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None in a checkpoint: TRL's would name no base, and the run's card lies by its model."""

    def _save_state(self, checkpoint: Path) -> None:
        folder = checkpoint / "modelforge"
        folder.mkdir(parents=True, exist_ok=True)
        if self._within_rollout():
            rank = self.accelerator.process_index
            torch.save(self._buffered_inputs, folder / f"rollout-{rank}.pt")
        if self.args.should_save:
            # A float32 loss is exact as a float64.
            text = json.dumps(self.whole_state(), default=torch.Tensor.item)
            (folder / STATE).write_text(text, encoding="utf-8")

    def _within_rollout(self) -> bool:
        """Whether the next step uses answers that were sampled before."""
        if getattr(self, "_buffered_inputs", None) is None:
            return False
        args = self.args  # distillation samples once a step, and has no key for it
        parts = getattr(args, "steps_per_generation", args.gradient_accumulation_steps)
        return self._step % (parts * getattr(args, "num_iterations", 1)) != 0

    def _load_state(self, checkpoint: Path) -> None:
        folder = checkpoint / "modelforge"
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.set_whole_state(state)
        rollout = folder / f"rollout-{self.accelerator.process_index}.pt"
        if rollout.is_file():
            batches = torch.load(rollout, map_location="cpu", weights_only=True)
            batches = [part for batch in batches for part in split(batch, self._finer(state))]
            self._buffered_inputs = [send_to_device(b, self.accelerator.device) for b in batches]

    def _refuse_other_processes(self, checkpoint: Path) -> None:
        path = checkpoint / "modelforge" / STATE
        if not path.is_file():
            what = f"is no checkpoint of ModelForge: modelforge/{STATE} is missing"
            raise RunError(Problem(str(checkpoint), what, "resume from another one"))
        then = json.loads(path.read_text(encoding="utf-8"))["processes"]
        now = self.accelerator.num_processes
        if then != now:
            what = f"was written by {then} processes, and there are {now}"
            raise RunError(
                Problem(str(checkpoint), what, "resume with the same number of processes")
            )

    def see_that_gradients_meet(self) -> None:
        """Of several processes, that their gradients are averaged.

        Raises:
            RuntimeError: Each would train a model of its own.
        """
        alone = self.model_wrapped is self.model
        plain = self.accelerator.distributed_type.name.startswith("MULTI_")
        if self.accelerator.num_processes > 1 and plain and alone:
            raise RuntimeError("the model was not prepared for several processes")

    # --- steps that must not count ----------------------------------------------------------------

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """As ever; remembers the micro-batch until its step is done."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._micro_batches.append((inputs, loss.detach()))
        return loss

    def skip_unless_finite(self) -> None:
        """Before the optimiser's step: drop a gradient that is not finite.

        Raises:
            DivergedError: If it was the last of several in a row.
        """
        sharded = (DistributedType.DEEPSPEED, DistributedType.FSDP)
        if self.accelerator.distributed_type in sharded or self.accelerator.scaler is not None:
            return  # sharded gradients are not here; float16's scaler skips steps itself
        if not self._micro_batches:
            return  # PPO gave this update up, and nothing was computed
        groups = self.optimizer.param_groups
        trained = [p for group in groups for p in group["params"] if p.grad is not None]
        losses = torch.stack([loss.float() for _, loss in self._micro_batches])
        norms = torch.stack(torch._foreach_norm([p.grad for p in trained])) if trained else losses
        if not anyone(not (losses.isfinite().all() & norms.isfinite().all())):
            return
        for parameter in trained:
            parameter.grad = None  # the optimiser leaves such parameters as they are
        step = self.state.global_step + 1
        self.skipped_steps.append(step)
        guilty = [inputs for inputs, loss in self._micro_batches if not loss.isfinite()]
        what = "loss" if guilty else "gradient"
        rows = rows_of(guilty or [i for i, _ in self._micro_batches], self.processing_class)
        listed = "".join(f"\n  {row}" for row in rows)
        warn(f"the {what} is not finite, so the step is skipped. Its rows:{listed}", step=step)
        if self.skipped_steps[-HOPELESS:] == list(range(step - HOPELESS + 1, step + 1)):
            what = f"{HOPELESS} steps in a row had no finite {what}"
            fix = "lower learning_rate or max_grad_norm, use bf16 in place of fp16, or look at "
            fix += f"the rows named above; the last checkpoint is in {self.args.output_dir}"
            raise DivergedError(Problem(f"step {step}", what, fix))

    # --- going back to the end of the last step ---------------------------------------------------

    def begin_step(self) -> None:
        """Note how things stand, for what may break within the step."""
        self.phase = "forward"
        self._micro_batches.clear()
        self._at_step = {"state": self.whole_state(), "random": random_state()}

    def undo_step(self) -> None:
        """Back to where `begin_step` was: for a step whose gradient was not applied yet."""
        self.set_whole_state(self._at_step["state"])
        set_random_state(self._at_step["random"])
        self._micro_batches.clear()
        self.model.zero_grad()
        self.phase = "between"

    # --- a step that leaves no trace --------------------------------------------------------------

    @property
    def can_undo(self) -> bool:
        """Whether `undone` holds here: sharded weights and states could not be put back."""
        sharded = (DistributedType.DEEPSPEED, DistributedType.FSDP)
        return self.accelerator.distributed_type not in sharded

    def single_step(self, inputs: Any) -> None:
        """Forward, backward and optimiser step on one micro-batch, or on the rows of a rollout."""
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
        self.accelerator.gradient_state._set_sync_gradients(True)
        self.training_step(self.model_wrapped, inputs)
        if not self.args.optim.startswith("paged_"):  # those states leave a card that is full
            self.optimizer.step()

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Around what comes before the first step: weights, counters, chance as before it."""
        state = self.whole_state()
        seen = self.state.num_input_tokens_seen
        trained = [p for p in self.model.parameters() if p.requires_grad]
        weights = [p.detach().to("cpu", copy=True) for p in trained]
        scaler = self.accelerator.scaler
        scale = scaler.state_dict() if scaler is not None else None
        try:
            with random_state_kept():
                yield
        finally:
            with torch.no_grad():
                for parameter, weight in zip(trained, weights, strict=True):
                    parameter.copy_(weight)
                    parameter.grad = None
            self.optimizer.state.clear()
            if scaler is not None:
                scaler.load_state_dict(scale)
            if hasattr(self, "_buffered_inputs"):
                self._buffered_inputs = None
            self.set_whole_state(state)
            self.state.num_input_tokens_seen = seen
            self._micro_batches.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class _Keeper(TrainerCallback):
    """Tells the trainer where in a step it is."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """After transformers set its counters to zero: put back those of the checkpoint."""
        trainer, checkpoint = self.trainer, self.trainer.resumed_from
        if checkpoint is not None:
            trainer._load_state(checkpoint)
            take_up_as_asked(trainer, checkpoint)
        self.trainer.see_that_gradients_meet()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """All of the step before is logged and saved."""
        self.trainer.begin_step()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """See that the gradient is one."""
        self.trainer.skip_unless_finite()
        self.trainer.phase = "optimizer"

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """A step is whole."""
        self.trainer.phase = "between"
