"""One run, top to bottom: prepare, load, train, measure, save."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from modelforge.callbacks.trackers import add_trackers, prepare_trackers
from modelforge.checkpointing.checkpoints import step_of
from modelforge.common.console import headline, say
from modelforge.common.processes import wait_for_everyone, world_size
from modelforge.config import Config
from modelforge.evaluation.results import result_of
from modelforge.machine.environment import prepare_environment
from modelforge.machine.launch import refuse_other_group
from modelforge.runs import files
from modelforge.runs.folder import choices_json, open_run
from modelforge.strategy import Result
from modelforge.training.prepare import Prepared, prepare

if TYPE_CHECKING:
    from modelforge.strategy import Parts, Strategy


def run_once(config: Config, strategy: Strategy) -> Result:
    """Train by the config of a strategy that is one run; its folder is resumed where it is begun.

    Raises:
        UserError: As `prepare`; and if the model cannot be loaded, or the disk is too small.
        Interrupted: If a signal asked to stop; a checkpoint was written.
    """
    prepare_environment()
    run, checkpoint = opened = open_run(config)
    if run.finished and config.settings.resume == "auto":
        say(f'{run.path} holds this run, finished. Say "resume": "never" to train it again.')
        return result_of(run, None)

    job = prepare(config, strategy, opened=opened)
    # Not before: Unsloth has to be imported ahead of the libraries that these import.
    from modelforge.callbacks.usage import Gauge
    from modelforge.evaluation.results import measured, write_end
    from modelforge.training.fit_to_card import compare
    from modelforge.training.preflight import preflight
    from modelforge.training.recovery import free_memory, reported, trained, with_less_memory

    gauge = Gauge()
    look = partial(
        measured,
        data=job.data,
        tokenizer=job.tokenizer,
        head=strategy.head,
        limit=job.config.settings.max_seq_length,
    )
    with job.run.locked(), reported(job.run.checkpoints):
        _write_start(job)
        prepare_trackers(job.config)
        trainer = build_trainer(job, load(job))
        preflight(job, trainer)
        job.run.forget_metrics_after(step_of(job.checkpoint) if job.checkpoint else -1)
        before = job.run.read_json(files.BEFORE) if job.checkpoint else None
        if before is None:
            before = look(trainer)
            job.run.write_json(files.BEFORE, before)
        if job.checkpoint:
            say(f"resuming from {job.checkpoint}")
        headline("Training")
        while not trained(job, trainer, gauge):
            job = with_less_memory(job, trainer)
            del trainer
            free_memory()
            trainer = build_trainer(job, load(job))

        with job.run.saving_model() as folder:
            trainer.save_model(str(folder))
            # transformers adds its own arguments as a pickle, which nobody needs to load it.
            (folder / "training_args.bin").unlink(missing_ok=True)
        after = look(trainer)
        compare(job.plan, gauge.figures(), config=job.config, hardware=job.hardware, run=job.run)
        write_end(job.run, trainer, strategy.measure, before=before, after=after)
        wait_for_everyone()
    return result_of(run, checkpoint)


def load(job: Prepared) -> Parts:
    """The weights, and all that a trainer is built from."""
    from transformers import set_seed

    from modelforge.strategy import Parts

    headline("Model")
    adapter = f" with {job.source.adapter}" if job.source.adapter else ""
    say(f"loading {job.source.base}{adapter}")
    # A head or adapter that starts random starts from the seed, as in a script by hand.
    set_seed(job.config.settings.seed)
    loaded = job.provider.load_model(
        job.source, job.config, job.hardware, head=job.strategy.head, tokenizer=job.tokenizer
    )
    return Parts(
        config=job.config,
        model=loaded.model,
        tokenizer=job.tokenizer,
        peft_config=loaded.peft_config,
        data=job.data,
        args=job.args,
        run_dir=job.run.path,
    )


def build_trainer(job: Prepared, parts: Parts) -> Any:
    """The strategy's trainer with the run's callbacks."""
    from transformers import PrinterCallback

    from modelforge.callbacks.longest_batch import LongestBatchFirst
    from modelforge.callbacks.metrics import MetricsFile
    from modelforge.callbacks.progress import Progress

    trackers, parts.args.report_to = parts.args.report_to, []
    trainer = job.strategy.build_trainer(parts, callbacks=[MetricsFile(job.run), Progress()])
    refuse_other_group(trainer, job.config)
    trainer.remove_callback(PrinterCallback)
    add_trackers(trainer, trackers, job.run)
    if job.hardware.device == "cuda":
        trainer.add_callback(LongestBatchFirst(trainer, generates=job.strategy.generates))
    return trainer


def _write_start(job: Prepared) -> None:
    from modelforge.machine.versions import versions
    from modelforge.models.hub import origin

    job.run.write_json(files.CONFIG, job.config.portable())
    job.run.write_json(files.CHOICES, choices_json(job.config))
    environment = {
        "versions": versions(),
        "hardware": job.hardware.to_dict(),
        "processes": world_size(),
        "origin": origin(job.source, job.data.ledger.sources),
    }
    job.run.write_json(files.ENVIRONMENT, environment)
    job.run.write_json(files.DATA, job.data.ledger.to_dict() | {"fingerprint": job.fingerprint})
    if job.plan is not None:
        job.run.write_json(files.PLAN, {"predicted": job.plan.to_dict()})
