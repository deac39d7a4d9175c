"""One run, top to bottom: config → machine → data → model → trainer → the run's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge import registry
from modelforge.config import Config
from modelforge.configfile import load_config
from modelforge.console import headline, say
from modelforge.job import Prepared, Result
from modelforge.prepare import prepare
from modelforge.rundir import RunDir, choices_json, open_run
from modelforge.trackers import add_trackers

if TYPE_CHECKING:
    from modelforge.strategy import Parts, Strategy


def train(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    overrides: Iterable[str] = (),
    strategy: Strategy | None = None,
) -> Result:
    """Train by a config: a file, a mapping, or one already loaded.

    Args:
        config: What to train.
        overrides: ``key=value`` strings that win over the config.
        strategy: The strategy itself, in place of the one found by the config's name.

    Raises:
        UserError: If the config, the data, the model or the machine will not do; raised before a
            model is loaded, with every problem found. Nothing is written then.
    """
    if not isinstance(config, Config):
        config = load_config(config, overrides=overrides)
    strategy = strategy or registry.get_strategy(config.settings.strategy)()
    if strategy.staged:
        return strategy.run_stages(config)
    run, _ = open_run(config)
    if run.finished and config.settings.resume == "auto":
        say(f'{run.path} holds this run, finished. Say "resume": "never" to train it again.')
        return _result(run, None)

    job = prepare(config, strategy)
    job.run.create()
    _write_start(job)
    trainer = build_trainer(job, load(job))
    _say_trainable(trainer.model)

    look = _looker(job, trainer)
    before = job.run.read_json("before.json") if job.checkpoint else None
    if before is None:
        before = {"figures": _evaluate(job, trainer), "samples": look()}
        job.run.write_json("before.json", before)
    if job.checkpoint:
        say(f"going on from {job.checkpoint}")
        job.run.forget_metrics_after(int(job.checkpoint.name.rpartition("-")[2]))
    headline("Training")
    trainer.train(resume_from_checkpoint=str(job.checkpoint) if job.checkpoint else None)

    trainer.save_model(str(job.run.model))
    # transformers adds its own arguments as a pickle, which nobody needs to load the model.
    (job.run.model / "training_args.bin").unlink(missing_ok=True)
    after = {"figures": _evaluate(job, trainer), "samples": look()}
    _write_end(job, trainer, before, after)
    return _result(job.run, job.checkpoint)


def load(job: Prepared) -> Parts:
    """The weights, and all that a trainer is built from."""
    from transformers import set_seed

    from modelforge.strategy import Parts

    headline("Model")
    say(f"loading {job.source.base}" + (f" with {job.source.adapter}" * bool(job.source.adapter)))
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

    from modelforge.callbacks import Counters, MetricsFile, Progress

    trackers, parts.args.report_to = parts.args.report_to, []
    trainer = job.strategy.build_trainer(parts, callbacks=[MetricsFile(job.run), Progress()])
    trainer.remove_callback(PrinterCallback)
    add_trackers(trainer, trackers, job.run)
    counters = Counters(trainer)
    trainer.add_callback(counters)
    if job.checkpoint:
        counters.restore(job.checkpoint)
    _save_policy_only(trainer.model)
    return trainer


def _save_policy_only(model: Any) -> None:
    """Save the trained adapter alone, at the root of a checkpoint.

    TRL adds a frozen copy of a starting adapter as the reference. Saved beside the policy, it
    made transformers restore the copy and not the policy on resume, without an error; and it can
    be made again from where the run started.
    """
    from functools import partial

    from peft import PeftModel

    if isinstance(model, PeftModel):
        vars(model)["save_pretrained"] = partial(
            model.save_pretrained, selected_adapters=["default"]
        )


def _say_trainable(model: Any) -> None:
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(f"training {trained:,} of {total:,} stored parameters ({trained / total:.2%})")


def _looker(job: Prepared, trainer: Any) -> Callable[[], list[dict[str, Any]]]:
    """A function that lets the model answer (or score) a few held-out rows."""
    from modelforge import samples

    rows = job.data.eval if job.data.eval is not None else job.data.train
    sample = samples.score if job.strategy.head == "reward" else samples.answer

    def look() -> list[dict[str, Any]]:
        model = trainer.accelerator.unwrap_model(trainer.model)
        with samples.undisturbed(model):
            limit = job.config.settings.max_seq_length
            return sample(model, job.tokenizer, rows, limit=limit)

    return look


def _evaluate(job: Prepared, trainer: Any) -> dict[str, float]:
    """The held-out figures, without disturbing what training draws at random."""
    from modelforge.callbacks import SESSION
    from modelforge.samples import undisturbed

    if job.data.eval is None:
        return {}
    with undisturbed(trainer.model):
        figures = trainer.evaluate()
    kept = {k: v for k, v in figures.items() if isinstance(v, int | float)}
    return {k: v for k, v in kept.items() if not k.endswith((*SESSION, "epoch"))}


def _write_start(job: Prepared) -> None:
    from modelforge.doctor import versions

    job.run.write_json("config.json", job.config.portable())
    job.run.write_json("choices.json", choices_json(job.config))
    environment = {"versions": versions(), "hardware": job.hardware.to_dict()}
    job.run.write_json("environment.json", environment)
    job.run.write_json("data.json", job.data.ledger.to_dict())


def _write_end(
    job: Prepared, trainer: Any, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    from modelforge.report import html_report, model_card

    changes = ("completion", "score_chosen", "score_rejected")
    rows = [
        {k: v for k, v in last.items() if k not in changes}
        | {f"{k}_before": first[k] for k in changes if k in first}
        | {k: last[k] for k in changes if k in last}
        for first, last in zip(before["samples"], after["samples"], strict=True)
    ]
    job.run.write_lines("samples.jsonl", rows)
    measure = job.strategy.measure
    results = {
        "measure": measure.key,
        "label": measure.label,
        "higher_is_better": measure.higher_is_better,
        "before": before["figures"],
        "after": after["figures"],
        "steps": trainer.state.global_step,
    }
    (job.run.model / "README.md").write_text(model_card(job, results), encoding="utf-8")
    job.run.write_text("report.html", html_report(job, results, rows))
    # Last: its presence says that the run is finished.
    job.run.write_json("results.json", results)
    headline("Done")
    if measure.key in after["figures"]:
        first, last = before["figures"].get(measure.key), after["figures"][measure.key]
        say(f"{measure.label}: {first:.4g} → {last:.4g}")
    say(f"run: {job.run.path}")


def _result(run: RunDir, checkpoint: Path | None) -> Result:
    results = run.read_json("results.json")
    return Result(run.path, run.model, results["before"], results["after"], checkpoint)
