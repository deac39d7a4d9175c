"""One run, top to bottom: prepare, load, train, measure, save."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.callbacks.trackers import add_trackers, prepare_trackers
from modelforge.checkpointing.checkpoints import step_of
from modelforge.common.console import headline, say
from modelforge.common.libraries import libraries_heard, take_over
from modelforge.common.processes import is_main, wait_for_everyone, world_size
from modelforge.config import Config
from modelforge.evaluation.results import result_of
from modelforge.machine.environment import prepare_environment
from modelforge.machine.launch import refuse_other_group
from modelforge.runs import files
from modelforge.runs.folder import RunDir, choices_json, finished, open_run
from modelforge.runs.result import Result
from modelforge.training.effects import recorded
from modelforge.training.follow import refuse_unknown_metric
from modelforge.training.prepare import Prepared, prepare, refuse_no_step
from modelforge.training.prompts import record

if TYPE_CHECKING:
    from modelforge.evaluation.guards import Guard
    from modelforge.strategy import Parts, Strategy


def run_once(config: Config, strategy: Strategy) -> Result:
    """Train by the config of a strategy that is one run; its folder is resumed where it is begun.

    Raises:
        UserError: As `prepare`; and if the model cannot be loaded, or the disk is too small.
        Interrupted: If a signal asked to stop; a checkpoint was written.
    """
    prepare_environment()
    with libraries_heard():
        return _run(config, strategy)


def _run(config: Config, strategy: Strategy) -> Result:
    run, checkpoint = opened = open_run(config)
    if config.settings.resume == "auto" and finished(run, config):
        again = 'Set "resume": "never" to train it again.'
        say(f"{run.path} holds this run, and it is finished. {again}")
        return result_with_model(run, None)

    prepared = prepare(config, strategy, opened=opened)
    refuse_no_step(prepared)
    # Not before: Unsloth has to be imported ahead of the libraries that these import.
    from modelforge.callbacks.usage import Usage
    from modelforge.evaluation.results import write_end
    from modelforge.training.fit_to_card import compare
    from modelforge.training.preflight import preflight
    from modelforge.training.recovery import free_memory, reported, trained, with_less_memory

    usage = Usage()
    measure = _measuring(prepared)
    with run.locked(), reported(run.checkpoints):
        write_start(prepared)
        wait_for_everyone()  # the main process has made the folder
        prepare_trackers(prepared.config)
        trainer = build_trainer(prepared, load(prepared))
        preflight(prepared, trainer)
        run.forget_metrics_after(step_of(checkpoint) if checkpoint else -1)
        before = run.read_json(files.BEFORE) if checkpoint else None
        if before is None:
            before = measure(trainer)
            run.write_json(files.BEFORE, before)
        refuse_unknown_metric(prepared.config, before["figures"])
        if checkpoint:
            say(f"resuming from {checkpoint}")
        headline("Training")
        while not trained(prepared, trainer, usage):
            prepared = with_less_memory(prepared, trainer)
            del trainer
            free_memory()
            trainer = build_trainer(prepared, load(prepared))

        saved = _save_model(prepared, trainer)
        after = measure(trainer, start=before.get("neutral"))
        compare(
            prepared.plan,
            usage.figures(),
            config=prepared.config,
            hardware=prepared.hardware,
            run=run,
        )
        _leave_guards(prepared)
        write_end(run, trainer, strategy.measure, before=before, after=after, saved=saved)
        wait_for_everyone()
    return result_with_model(run, checkpoint)


def result_with_model(run: RunDir, checkpoint: Path | None) -> Result:
    """What a finished run's folder holds; its model is loaded when it is asked for.

    Raises:
        RunError: As `result_of`.
    """
    return replace(result_of(run, checkpoint), load=_load_run)


def _load_run(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a run that ended."""
    from modelforge.inference.trained import find_trained, load_trained

    with libraries_heard():
        found = load_trained(find_trained(str(folder), scores_too=True))
    return found.model, found.tokenizer


def _measuring(prepared: Prepared) -> Callable[..., dict[str, Any]]:
    """What measures the model before and after training: held-out rows, and what may be lost."""
    from modelforge.constraints.of_a_run import of_config
    from modelforge.evaluation import guards, membership
    from modelforge.evaluation.neutral import affordable
    from modelforge.evaluation.results import measured

    head, data, args = prepared.strategy.head, prepared.data, prepared.args
    members = membership.rows_of(data) if head == "causal-lm" else []
    return partial(
        measured,
        data=data,
        tokenizer=prepared.tokenizer,
        head=head,
        limit=prepared.config.settings.max_seq_length,
        texts=affordable(data, args) if head == "causal-lm" else 0,
        guards=guards.affordable(_guards(prepared), data, args),
        members=guards.affordable(members, data, args),
        constraints=of_config(prepared.config),
    )


def _guards(prepared: Prepared) -> list[Guard]:
    """The rows that came along from the run that this one begins with; a score is not held to."""
    from modelforge.evaluation.guards import of_parent

    source = prepared.source
    begin = source.adapter or Path(source.base)
    return of_parent(begin) if prepared.strategy.head == "causal-lm" else []


def _leave_guards(prepared: Prepared) -> None:
    """Leave rows for the runs that begin with this one's model."""
    from modelforge.evaluation.guards import left_by

    if prepared.strategy.head == "causal-lm":
        rows = left_by(prepared.data, prepared.run.path.name, _guards(prepared))
        prepared.run.write_lines(files.GUARDS, rows)


def load(prepared: Prepared) -> Parts:
    """The weights, and all that a trainer is built from."""
    from transformers import set_seed

    from modelforge.strategy import Parts

    headline("Model")
    adapter = f" with {prepared.source.adapter}" if prepared.source.adapter else ""
    say(f"loading {prepared.source.base}{adapter}")
    # A head or adapter that starts random starts from the seed, as in a script by hand.
    set_seed(prepared.config.settings.seed)
    loaded = prepared.provider.load_model(
        prepared.source,
        prepared.config,
        prepared.hardware,
        head=prepared.strategy.head,
        tokenizer=prepared.tokenizer,
        vocabulary=prepared.vocabulary,
    )
    return Parts(
        config=prepared.config,
        model=loaded.model,
        tokenizer=prepared.tokenizer,
        peft_config=loaded.peft_config,
        data=prepared.data,
        args=prepared.args,
        run_dir=prepared.run.path,
    )


def build_trainer(prepared: Prepared, parts: Parts) -> Any:
    """The strategy's trainer with the run's callbacks."""
    from transformers import EarlyStoppingCallback, PrinterCallback

    from modelforge.callbacks.alarms import Alarms
    from modelforge.callbacks.longest_batch import LongestBatchFirst
    from modelforge.callbacks.metrics import MetricsFile
    from modelforge.callbacks.progress import Progress
    from modelforge.callbacks.watchdog import LossWatch

    trackers, parts.args.report_to = parts.args.report_to, []
    shown = Progress(prepared.strategy.measure.key)
    trainer = prepared.strategy.build_trainer(parts, callbacks=[MetricsFile(prepared.run), shown])
    take_over()  # TRL is imported by now
    refuse_other_group(trainer, prepared.config)
    trainer.remove_callback(PrinterCallback)
    add_trackers(trainer, trackers, prepared.run)
    if not any(isinstance(each, Alarms) for each in trainer.callback_handler.callbacks):
        trainer.add_callback(LossWatch(prepared.run.path))  # rewards have alarms of their own
    stopping = prepared.config.settings.early_stopping
    if stopping is not None:
        trainer.add_callback(EarlyStoppingCallback(stopping.patience, stopping.min_delta))
    if prepared.hardware.device == "cuda":
        trainer.add_callback(LongestBatchFirst(trainer, generates=prepared.strategy.generates))
    return trainer


def _save_model(prepared: Prepared, trainer: Any) -> dict[str, Any]:
    """Write ``model/``, and see that it loads as the model that was trained."""
    from modelforge.evaluation.reload import see_that_it_loads
    from modelforge.evaluation.samples import undisturbed

    model = trainer.accelerator.unwrap_model(trainer.model)
    causal = prepared.strategy.head == "causal-lm"
    with prepared.run.saving_model() as folder:
        trainer.save_model(str(folder))
        # transformers adds its own arguments as a pickle, which nobody needs to load it.
        (folder / "training_args.bin").unlink(missing_ok=True)
        if is_main() and causal and hasattr(model, "get_base_model"):
            # PEFT leaves out which tokens end an answer.
            model.get_base_model().generation_config.save_pretrained(folder)
    if not is_main() or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return {"loaded": 0, "difference": None}
    with undisturbed(model):
        return see_that_it_loads(
            model,
            prepared.run.model,
            prepared.tokenizer,
            prepared.data.train_tokens,
            head=prepared.strategy.head,
            trust_remote_code=prepared.config.settings.trust_remote_code,
        )


def write_start(prepared: Prepared) -> None:
    from modelforge.machine.versions import versions
    from modelforge.models.hub import origin

    # Of a run that trains on longer: from here on it is not finished.
    prepared.run.remove(files.RESULTS)
    prepared.run.write_json(files.CONFIG, recorded(prepared.config, prepared.strategy))
    prepared.run.write_json(files.CHOICES, choices_json(prepared.config))
    environment = {
        "versions": versions(),
        "hardware": prepared.hardware.to_dict(),
        "processes": world_size(),
        "origin": origin(prepared.source, prepared.data.ledger.sources),
    }
    prepared.run.write_json(files.ENVIRONMENT, environment)
    prepared.run.write_json(
        files.DATA, prepared.data.ledger.to_dict() | {"fingerprint": prepared.fingerprint}
    )
    # What a reward model was trained on matters to what is measured by it.
    trained = prepared.data.train_prompts if prepared.strategy.head == "reward" else ()
    prepared.run.write_json(files.PROMPTS, record(trained, prepared.data.eval_prompts))
    if prepared.plan is not None:
        prepared.run.write_json(files.PLAN, {"predicted": prepared.plan.to_dict()})
    elif prepared.unplanned:
        prepared.run.write_json(files.PLAN, {"unplanned": prepared.unplanned})
