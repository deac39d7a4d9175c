"""What a run came to: its held-out figures and answers, before and after, and how they are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelforge.common.console import headline, say, warn
from modelforge.common.processes import is_main
from modelforge.constraints import Constraints
from modelforge.errors import Problem, RunError
from modelforge.evaluation.guards import Guard, looked
from modelforge.evaluation.headline import greedy, judged
from modelforge.evaluation.membership import membership
from modelforge.evaluation.neutral import told
from modelforge.runs import files
from modelforge.runs.folder import RunDir
from modelforge.runs.result import Result
from modelforge.strategy import Measure

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modelforge.data import Data


def measured(
    trainer: Any,
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    *,
    head: Literal["causal-lm", "reward"],
    limit: int,
    texts: int = 0,
    guards: Sequence[Guard] = (),
    members: Sequence[Guard] = (),
    start: Mapping[str, Any] | None = None,
    constraints: Constraints | None = None,
) -> dict[str, Any]:
    """Held-out ``figures``, ``rows`` and ``samples`` of the model; empty where there are none.

    ``neutral``: what it is on neutral texts (see `modelforge.evaluation.neutral`), or how far it
    has moved there; missing where nothing was looked at.

    DeepSpeed and FSDP hold a model that can compute from the first step on only, and one whose
    weights are sharded cannot answer outside of training.

    Args:
        trainer: The run's trainer, with the model.
        data: Rows in normal form; samples are of the training rows where none are held out.
        tokenizer: With its chat template.
        head: Whether the model answers or scores.
        limit: Longest prompt and answer together, in tokens.
        texts: How many neutral texts to read; 0: none.
        guards: Rows that came along from the run that this one began with.
        members: Rows that are trained on, and rows that are held out.
        start: What was found there before training; None before it.
        constraints: What sample answers are held to.
    """
    from modelforge.evaluation import neutral
    from modelforge.evaluation.samples import undisturbed

    sharding = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    if sharding and trainer.state.global_step == 0:
        say("not measured before training: the model is sharded when training begins")
        return {"figures": {}, "rows": [], "samples": []}
    plugin = trainer.accelerator.state.deepspeed_plugin
    whole = not trainer.is_fsdp_enabled and getattr(plugin, "zero_stage", 0) != 3
    found = {
        "figures": {} if data.eval is None else held_out_figures(trainer),
        "rows": [row.to_dict() for row in getattr(trainer, "held_out", [])],
        "samples": _samples(trainer, data, tokenizer, head, limit, constraints) if whole else [],
    }
    if whole and (start or (texts and trainer.state.global_step == 0)):
        model = trainer.accelerator.unwrap_model(trainer.model)
        with undisturbed(model):
            found["neutral"] = (
                neutral.moved(model, tokenizer, start)
                if start
                else neutral.begun(model, tokenizer, texts)
            )
    for name, rows in (("guards", guards), ("members", _reached(trainer, members))):
        if whole and rows:
            with undisturbed(model := trainer.accelerator.unwrap_model(trainer.model)):
                found[name] = looked(model, tokenizer, rows)
    return found


def _reached(trainer: Any, members: Sequence[Guard]) -> Sequence[Guard]:
    """None after a run that has not seen all of its rows: some were not trained on."""
    began = trainer.state.global_step == 0
    return members if began or trainer.state.epoch > 0.999 else ()


def _samples(
    trainer: Any,
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    head: str,
    limit: int,
    constraints: Constraints | None,
) -> list[dict[str, Any]]:
    """A few rows, answered (or scored) by the model as it is."""
    from modelforge.evaluation import samples

    rows, tokens = data.train, data.train_tokens
    if data.eval is not None:
        rows, tokens = data.eval, data.eval_tokens
    model = trainer.accelerator.unwrap_model(trainer.model)
    with samples.undisturbed(model):
        if head == "reward":
            return samples.score(model, rows, tokens, limit=limit)
        # As many at once as are trained on at once: that fits, and gradients take more.
        batch = trainer.args.per_device_train_batch_size
        kwargs = data.template_kwargs
        return samples.answer(
            model,
            tokenizer,
            rows,
            limit=limit,
            batch=batch,
            template_kwargs=kwargs,
            constraints=constraints,
        )


def held_out_figures(trainer: Any) -> dict[str, float]:
    """The held-out figures, without disturbing what training draws at random."""
    from modelforge.callbacks.metrics import SESSION
    from modelforge.evaluation.samples import undisturbed

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
    # The model's own attributes alone: asked by hasattr, a PeftModel answers for its base.
    before = {name: vars(model)[name] for name in names if name in vars(model)}
    yield
    if names[0] not in before:
        for name in names:
            vars(model).pop(name, None)
        vars(model).update(before)


def write_end(
    run: RunDir,
    trainer: Any,
    measure: Measure,
    *,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    saved: Mapping[str, Any],
) -> None:
    """Samples, card, report and, last, the results; and say them.

    Args:
        run: The run's folder, with the trained model.
        trainer: After training.
        measure: The figure the run is judged by.
        before: What `measured` found before training.
        after: The same of the trained model.
        saved: What `reload.see_that_it_loads` found.
    """
    from modelforge.callbacks.alarms import no_signal, too_short_to_tell
    from modelforge.evaluation.page import html_report
    from modelforge.evaluation.report import model_card
    from modelforge.evaluation.stopped import stopped_early
    from modelforge.evaluation.verdict import compared

    if not is_main():
        return  # card and report read the folder, which only the main process writes
    run.write_lines(files.SAMPLES, _side_by_side(before["samples"], after["samples"]))
    if after["rows"]:
        run.write_lines(files.HELD_OUT, _row_by_row(before["rows"], after["rows"]))
    judgement = judged(measure, before, after)
    logs, steps = trainer.state.log_history, trainer.state.global_step
    silent = no_signal(logs, trainer.args)
    if silent and too_short_to_tell(logs, steps):
        warn(str(silent))
        silent = None
    results = {
        "measure": measure.key,
        "label": measure.label,
        "higher_is_better": measure.higher_is_better,
        **judgement,
        "before": before["figures"],
        "after": after["figures"],
        "shared_with_training": _shared(run),
        "steps": steps,
        "skipped_steps": trainer.skipped_steps,
        # What the base is to be loaded in, and how the saved model compared with the trained one.
        "dtype": str(trainer.model.config.dtype).removeprefix("torch."),
        "saved": saved,
    }
    further = {"no_signal": silent and vars(silent), "stopped_early": stopped_early(trainer)}
    further |= {"greedy": greedy(before, after), "neutral": after.get("neutral")}
    further["membership"] = membership(before.get("members", ()), after.get("members", ()))
    further["compared"] = None if silent else compared(measure, before, after)
    results |= {key: value for key, value in further.items() if value is not None}
    run.write_text(files.MODEL_CARD, model_card(run.path, results))
    run.write_text(files.REPORT, html_report(run.path, results))
    # Last: its presence says that the run is finished.
    run.write_json(files.RESULTS, results)
    _say_end(run, measure, results)


def _say_end(run: RunDir, measure: Measure, results: Mapping[str, Any]) -> None:
    """The figure that the run is judged by, what it forgot, and where it lies."""
    headline("Nothing was learned" if "no_signal" in results else "Done")
    if "compared" in results:
        say(results["compared"]["told"])
    if measure.key in results["after"]:
        both = [results[when].get(measure.key) for when in ("before", "after")]
        figures = " → ".join(f"{f:.4g}" for f in both if f is not None)
        verdict = f" ({results['verdict']})" if "verdict" in results else ""
        say(f"{measure.label}: {figures}{verdict}")
    if "greedy" in results:
        say(results["greedy"]["told"])
    if "stopped_early" in results:
        say(results["stopped_early"]["told"])
    if "neutral" in results:
        say(told(results["neutral"]))
    if "membership" in results:
        say(results["membership"]["told"])
    say(f"run: {run.path}")


def _shared(run: RunDir) -> dict[str, int]:
    """Of held-out rows that are also trained on: in which way → how many."""
    found = run.read_json(files.DATA)["shared_with_training"]
    counts = {kind: tally["count"] for kind, tally in found.items()}
    if counts:
        warn(f"{sum(counts.values())} held-out rows are also trained on: their figures flatter")
    return counts


def _row_by_row(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Each held-out row, by its place in the data, with its figures before and after."""
    return [
        {"row": i, "weight": last["weight"], "before": _plain(first), "after": _plain(last)}
        for i, (first, last) in enumerate(zip(before or [{}] * len(after), after, strict=True))
    ]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "weight"}


def _side_by_side(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Each sample with what the model said before and says now."""
    changes = ("completion", "score_chosen", "score_rejected")
    return [
        {k: v for k, v in last.items() if k not in changes}
        | {f"{k}_before": first[k] for k in changes if k in first}
        | {k: last[k] for k in changes if k in last}
        for first, last in zip(before or [{}] * len(after), after, strict=True)
    ]


def result_of(run: RunDir, checkpoint: Path | None) -> Result:
    """What a finished run's folder holds.

    Raises:
        RunError: If its rewards never differed, so that it is no success.
    """
    results = run.read_json(files.RESULTS)
    if "no_signal" in results:
        problem = Problem(**results["no_signal"])
        where = f"{run.path}: {problem.where}"
        raise RunError(Problem(where, problem.what, f"{problem.fix}; then train in a new folder"))
    return Result(run.path, run.model, results["before"], results["after"], checkpoint)
