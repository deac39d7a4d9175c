"""That a run ended before its last step, because its held-out figure no longer got better."""

from __future__ import annotations

from typing import Any

from modelforge.checkpointing.resumed import watched


def stopped_early(trainer: Any) -> dict[str, Any] | None:
    """Where and why the run stopped early, for ``results.json``; None where it did not.

    Args:
        trainer: After training.

    Returns:
        ``step`` and ``of``: where it stopped, and how many steps it was to be; ``metric``, its
        ``best`` value and the ``best_step``; ``evaluations``: how many had no gain; ``told``: all
        in words.
    """
    state, watch = trainer.state, watched(trainer)
    if watch is None or state.global_step >= state.max_steps:
        return None
    metric = trainer.args.metric_for_best_model
    count, delta = watch.early_stopping_patience, watch.early_stopping_threshold
    least = f" (by more than {delta:g})" if delta else ""
    best = "" if state.best_metric is None else f"; best {state.best_metric:.4g}"
    best += f" at step {state.best_global_step}" if best and state.best_global_step else ""
    told = (
        f"stopped at step {state.global_step} of {state.max_steps}: no better {metric}{least} "
        f"for {count} evaluation{'' if count == 1 else 's'}{best}"
    )
    return {
        "step": state.global_step,
        "of": state.max_steps,
        "metric": metric,
        "best": state.best_metric,
        "best_step": state.best_global_step,
        "evaluations": count,
        "told": told,
    }
