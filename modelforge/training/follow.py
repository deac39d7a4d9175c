"""What follows from what the user set: our defaults make way for it, and complete it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modelforge.config import Choice, Config
from modelforge.errors import ConfigError, Problem, did_you_mean

if TYPE_CHECKING:
    from modelforge.strategy import Strategy

#: Schedulers that read a held-out figure, and when transformers evaluates for none of them.
_BY_FIGURE = ("reduce_lr_on_plateau", "greedy")
#: What makes a run evaluate while it trains, where the user does not say when.
_EVALUATED = ("early_stopping", "load_best_model_at_end", "eval_steps")
#: How the names of figures end of which less is better; transformers knows the first alone.
_LESS = (
    *("loss", "kl", "kl/reference", "kl/reference_token", "clipped_ratio", "rejected"),
    "frac_reward_zero_std",
)


def following(config: Config, strategy: Strategy, known: Mapping[str, Any]) -> dict[str, Choice]:
    """Values for keys that the user left open, each with the key that it follows from.

    Args:
        config: With the defaults of every run.
        strategy: The strategy.
        known: The keys of its schema.

    Raises:
        ConfigError: If two keys of the user's ask for what cannot be both.
    """
    choices: dict[str, Choice] = {}
    if config.said.get("gradient_checkpointing_kwargs"):
        why = "gradient_checkpointing_kwargs is set"
        choices["gradient_checkpointing"] = Choice(True, "default", why)
    if strategy.may_drop_out and config.said.get("lora_dropout") and "disable_dropout" in known:
        choices["disable_dropout"] = Choice(False, "default", "lora_dropout is set")
    stopping = _stopping(config)
    choices |= stopping
    # What it asks for, evaluations and saves follow from as from what was said.
    asked = {key: choice.value for key, choice in stopping.items()}
    choices |= _evaluations(replace(config, said={**config.said, **asked}))
    seen = config.with_defaults(choices)
    if seen.get("load_best_model_at_end") or seen.get("save_strategy") == "best":
        problems = [*_mismatch(seen), *_reversed(seen, strategy)]
        if problems:
            raise ConfigError(*problems)
        choices |= _best_by(seen, strategy)
    return choices


def _stopping(config: Config) -> dict[str, Choice]:
    """What early stopping needs: the best model, by the figure that it watches.

    Raises:
        ConfigError: If the config asks for another figure too, or for no best model.
    """
    stopping = config.settings.early_stopping
    if stopping is None:
        return {}
    where, problems = f"{config.name}: early_stopping", []
    if config.said.get("load_best_model_at_end") is False:
        what = "keeps the best model, and load_best_model_at_end is false"
        problems.append(Problem(where, what, "leave load_best_model_at_end out"))
    metric, other = stopping.metric, config.said.get("metric_for_best_model")
    if metric and other and _held_out(metric) != _held_out(other):
        what = f"watches {metric}, and metric_for_best_model is {other}"
        problems.append(Problem(where, what, "leave one of the two out"))
    if problems:
        raise ConfigError(*problems)
    choices = {"load_best_model_at_end": Choice(True, "default", "early_stopping is set")}
    if metric and not other:
        why = "the figure that early_stopping watches"
        choices["metric_for_best_model"] = Choice(metric, "default", why)
    return choices


def _held_out(metric: str) -> str:
    """A figure's name as evaluations have it."""
    return f"eval_{metric.removeprefix('eval_')}"


def _evaluations(config: Config) -> dict[str, Choice]:
    """When the model is evaluated and saved, where the user says one of the two, or why."""
    said, choices = config.said, dict[str, Choice]()
    best = bool(said.get("load_best_model_at_end"))
    by_best = said.get("save_strategy") == "best"
    cause = next((key for key in _EVALUATED if said.get(key)), None)
    if cause is None and by_best:
        cause = "save_strategy"
    if cause is None and config.get("lr_scheduler_type") in _BY_FIGURE:
        cause = "lr_scheduler_type"
    when = said.get("eval_strategy")
    if when is None and cause is not None:
        saved = said.get("save_strategy")
        follows = best and saved == "epoch" and not said.get("eval_steps")
        when = "epoch" if follows else "steps"
        why = (
            "as save_strategy, which load_best_model_at_end needs" if follows else f"{cause} is set"
        )
        choices["eval_strategy"] = Choice(when, "default", why)
    if not best and not by_best:
        return choices
    if (
        best
        and said.get("save_strategy") is None
        and when == "epoch"
        and not said.get("save_steps")
    ):
        why = "as eval_strategy, which load_best_model_at_end needs"
        choices["save_strategy"] = Choice("epoch", "default", why)
    if when == "steps" and said.get("save_strategy") in (None, "steps", "best"):
        steps, every = said.get("eval_steps"), config.get("save_steps")
        if steps and not by_best:
            why = "as eval_steps: the best model is saved whenever it is seen"
            choices["save_steps"] = Choice(steps, "default", why)
        elif not steps and every:
            why = "as save_steps" if said.get("save_steps") else "ten evaluations a run"
            choices["eval_steps"] = Choice(every, "default", why)
    return choices


def _mismatch(config: Config) -> Iterator[Problem]:
    """What keeps the best model from being found, in the words of the user's keys."""
    key = "load_best_model_at_end"
    if config.settings.early_stopping and not config.given(key):
        key = "early_stopping"
    elif not config.get(key):
        key = "save_strategy"
    where = f"{config.name}: {key}"
    evaluated = config.get("eval_strategy", "no")
    saved = config.get("save_strategy", "steps")
    if evaluated == "no":
        what = "needs evaluations, and eval_strategy is no"
        yield Problem(where, what, "set eval_strategy to steps or epoch, or remove it")
        return
    if saved == "best":
        return
    if evaluated != saved:
        what = f"needs both alike, and eval_strategy is {evaluated}, save_strategy {saved}"
        if not config.given("save_strategy") and config.given("save_steps"):
            what += f" (save_steps {config.get('save_steps')} is set)"
        yield Problem(where, what, "leave one of the two out: it follows from the other")
        return
    every, eval_every = config.get("save_steps"), config.get("eval_steps")
    if evaluated == "steps" and every and eval_every and not _multiple(every, eval_every):
        what = f"needs save_steps a multiple of eval_steps, and they are {every} and {eval_every}"
        yield Problem(where, what, "leave save_steps out: it follows from eval_steps")
    most = config.get("max_steps") or -1
    if evaluated == "steps" and eval_every and 0 < most < eval_every:
        what = f"needs an evaluation, and max_steps {most} ends before eval_steps {eval_every}"
        yield Problem(where, what, f"set eval_steps to at most {most}")


def _multiple(every: float, eval_every: float) -> bool:
    """Whether transformers takes it for a multiple: two shares, or two numbers of steps."""
    if (every < 1) != (eval_every < 1):
        return False
    scale = 1_000_000 if every < 1 else 1
    return round(every * scale) % round(eval_every * scale) == 0


def _best_by(config: Config, strategy: Strategy) -> dict[str, Choice]:
    """The figure that says which model is best: the one the strategy is judged by."""
    measure, choices = strategy.measure, dict[str, Choice]()
    metric = config.get("metric_for_best_model")
    if metric is None:
        why = f"the figure that {strategy.name} is judged by: {measure.label}"
        choices["metric_for_best_model"] = Choice(measure.key, "strategy", why)
    if metric is None or _held_out(metric) == _held_out(measure.key):
        better = measure.higher_is_better
        why = f"{measure.key}: {'more' if better else 'less'} is better"
        choices["greater_is_better"] = Choice(better, "strategy", why)
    elif metric.endswith(_LESS):
        choices["greater_is_better"] = Choice(False, "default", f"{metric}: less is better")
    return choices


def _reversed(config: Config, strategy: Strategy) -> Iterator[Problem]:
    """A figure that is to be as bad as can be: the worst model would be kept for the best."""
    said, measure = config.said.get("greater_is_better"), strategy.measure
    figure = _held_out(config.get("metric_for_best_model") or measure.key)
    better = measure.higher_is_better if figure == _held_out(measure.key) else None
    if better is None and figure.endswith("loss"):
        better = False
    if said is not None and better is not None and said != better:
        what = f"is {str(said).lower()}, and {'more' if better else 'less'} is better of {figure}: "
        what += "the worst model would be kept"
        yield Problem(f"{config.name}: greater_is_better", what, "remove it")


def refuse_without_rows(config: Config, *, held_out: bool) -> None:
    """See that there are rows to evaluate on, where evaluations are asked for.

    Raises:
        ConfigError: With the key of the user's that asks for them.
    """
    asked = (*_EVALUATED, "eval_on_start", "save_strategy", "eval_strategy", "lr_scheduler_type")
    wanted = config.get("eval_on_start") or config.get("eval_strategy", "no") != "no"
    if held_out or not wanted:
        return
    key = next((k for k in asked if config.said.get(k)), "eval_strategy")
    fix = "set eval_dataset, or eval_split to a share such as 0.1"
    raise ConfigError(
        Problem(f"{config.name}: {key}", "needs evaluations, and there are no held-out rows", fix)
    )


def refuse_unknown_metric(config: Config, figures: Collection[str]) -> None:
    """See that the figure of the best model is one that is measured.

    Args:
        config: With the rewards filled in.
        figures: The names of those that are, with or without ``eval_``; empty where not known.

    Raises:
        ConfigError: If it is none of them.
    """
    metric = config.get("metric_for_best_model")
    names = {_held_out(name) for name in figures}
    if metric is None or not names or config.get("eval_strategy", "no") == "no":
        return
    name = _held_out(metric)
    if name not in names:
        near = did_you_mean(name, names)
        fix = near if near.startswith("did") else f"set one of {', '.join(sorted(names))}"
        what = f"'{metric}' is no figure of this run"
        given = config.given("metric_for_best_model")
        key = "metric_for_best_model" if given else "early_stopping.metric"
        raise ConfigError(Problem(f"{config.name}: {key}", what, fix))
