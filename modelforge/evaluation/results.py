"""What a run came to: its held-out figures and answers, before and after, and how they are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelforge.common.console import headline, say
from modelforge.runs.folder import RunDir
from modelforge.strategy import Result
from modelforge.training.prepare import Prepared


def measured(job: Prepared, trainer: Any) -> dict[str, Any]:
    """Held-out ``figures`` and ``samples`` of the model as it is; empty where they cannot be had.

    DeepSpeed and FSDP hold a model that can compute from the first step on only, and one whose
    weights are sharded cannot answer outside of training.
    """
    sharding = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    if sharding and trainer.state.global_step == 0:
        say("not measured before training: the model is sharded when training begins")
        return {"figures": {}, "samples": []}
    plugin = trainer.accelerator.state.deepspeed_plugin
    whole = not trainer.is_fsdp_enabled and getattr(plugin, "zero_stage", 0) != 3
    return {
        "figures": evaluate(job, trainer),
        "samples": look(job, trainer) if whole else [],
    }


def look(job: Prepared, trainer: Any) -> list[dict[str, Any]]:
    """A few held-out rows, answered (or scored) by the model as it is."""
    from modelforge.evaluation import samples

    data = job.data
    rows, tokens = data.train, data.train_tokens
    if data.eval is not None:
        rows, tokens = data.eval, data.eval_tokens
    model = trainer.accelerator.unwrap_model(trainer.model)
    limit = job.config.settings.max_seq_length
    with samples.undisturbed(model):
        if job.strategy.head == "reward":
            return samples.score(model, rows, tokens, limit=limit)
        return samples.answer(model, job.tokenizer, rows, limit=limit)


def evaluate(job: Prepared, trainer: Any) -> dict[str, float]:
    """The held-out figures, without disturbing what training draws at random."""
    from modelforge.callbacks.metrics import SESSION
    from modelforge.evaluation.samples import undisturbed

    if job.data.eval is None:
        return {}
    with undisturbed(trainer.model), _unprepared(trainer.model):
        figures = trainer.evaluate()
    kept = {k: v for k, v in figures.items() if isinstance(v, int | float)}
    return {k: v for k, v in kept.items() if not k.endswith((*SESSION, "epoch"))}


@contextmanager
def _unprepared(model: Any) -> Iterator[None]:
    """Leave a model that is evaluated before training as one that was not.

    Evaluation marks it as prepared, and training then does not prepare it again: of several
    processes each would train a model of its own, without an error.
    """
    names = ("_is_accelerate_prepared", "_original_forward", "forward")
    before = {name: vars(model)[name] for name in names if name in vars(model)}
    yield
    if names[0] not in before:
        for name in names:
            vars(model).pop(name, None)
        vars(model).update(before)


def write_end(
    job: Prepared, trainer: Any, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """Samples, card, report and, last, the results; and say them."""
    from modelforge.evaluation.report import html_report, model_card

    first_samples = before["samples"] or [{}] * len(after["samples"])
    changes = ("completion", "score_chosen", "score_rejected")
    rows = [
        {k: v for k, v in last.items() if k not in changes}
        | {f"{k}_before": first[k] for k in changes if k in first}
        | {k: last[k] for k in changes if k in last}
        for first, last in zip(first_samples, after["samples"], strict=True)
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
        "skipped_steps": trainer.skipped_steps,
    }
    job.run.write_text("model/README.md", model_card(job, results))
    job.run.write_text("report.html", html_report(job, results, rows))
    # Last: its presence says that the run is finished.
    job.run.write_json("results.json", results)
    headline("Done")
    if measure.key in after["figures"]:
        both = [f.get(measure.key) for f in (before["figures"], after["figures"])]
        say(f"{measure.label}: " + " → ".join(f"{f:.4g}" for f in both if f is not None))
    say(f"run: {job.run.path}")


def result_of(run: RunDir, checkpoint: Path | None) -> Result:
    """What a finished run's folder holds."""
    results = run.read_json("results.json")
    return Result(run.path, run.model, results["before"], results["after"], checkpoint)
