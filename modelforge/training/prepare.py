"""All of a run that comes before the weights: its three steps, and TRL's arguments."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.console import is_verbose, say, show_table, warn
from modelforge.common.garbage import few_collections
from modelforge.common.hub import look_for_hub, why_offline
from modelforge.common.paths import paths_in
from modelforge.common.sections import Section
from modelforge.constraints.entries import BY_MODEL
from modelforge.constraints.of_a_run import of_config
from modelforge.errors import ConfigError, ModelError, Problem
from modelforge.machine.hardware import device_arguments
from modelforge.machine.launch import refuse_uneven
from modelforge.models.hub import absent, on_the_hub
from modelforge.runs.folder import refuse_other_data
from modelforge.training.continued import refuse_what_it_keeps
from modelforge.training.fit import fit
from modelforge.training.prompts import warn_of_known
from modelforge.training.read import read
from modelforge.training.rehearsal import rehearse
from modelforge.training.resolve import resolve

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modelforge.config import Config
    from modelforge.data import Data
    from modelforge.machine.hardware import Hardware
    from modelforge.models.providers.base import Provider
    from modelforge.models.source import ModelSource
    from modelforge.models.vocabulary import Vocabulary
    from modelforge.plan import Plan
    from modelforge.runs.folder import RunDir
    from modelforge.strategy import Strategy
    from modelforge.training.read import Read
    from modelforge.training.resolve import Resolved


# What decides what is learned, and what the weights are held in.
_MATTERS = frozenset(
    (
        *("learning_rate", "num_train_epochs", "max_steps", "lora_r", "max_seq_length"),
        *("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations"),
        *("use_4bit", "use_8bit", "provider", "packing", "generation", "rewards"),
    )
)
_ALWAYS = ("data", "plan", "memory", "adapter")
_told: ContextVar[set[str] | None] = ContextVar("told", default=None)


@dataclass(frozen=True)
class Prepared:
    """A run that can start: everything read and checked, no weights loaded.

    Attributes:
        config: With every value filled in.
        strategy: The strategy.
        provider: Who loads the model.
        source: Where the model comes from.
        tokenizer: With its chat template.
        vocabulary: What its tokens ask of the model's embedding.
        data: Rows in normal form, and their ledger.
        args: The TRL config object.
        hardware: The machine.
        run: The run's folder; nothing is written there yet.
        checkpoint: Where to resume from, or None.
        plan: What it will need, where there is a budget to keep.
        fingerprint: Of the rows, training and held-out.
        unplanned: Why there is no plan although there is a budget; else empty.
    """

    config: Config
    strategy: Strategy
    provider: Provider
    source: ModelSource
    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    data: Data
    args: Any
    hardware: Hardware
    run: RunDir
    checkpoint: Path | None
    plan: Plan | None
    fingerprint: str
    unplanned: str = ""


@few_collections()
def prepare(
    config: Config,
    strategy: Strategy | None = None,
    *,
    opened: tuple[RunDir, Path | None] | None = None,
) -> Prepared:
    """Everything before the weights; the arguments are those of `resolve`.

    Raises:
        UserError: If a part of it cannot be used. Nothing is written.
    """
    resolved = resolve(config, strategy, opened=opened)
    refuse_absent(resolved.config)
    rows = read(resolved)
    prepared = prepare_on(resolved, rows)
    try_out(prepared, resolved, rows)
    return prepared


def refuse_absent(config: Config) -> None:
    """See that the hub has each model that the config names beside the one to train.

    Folders are looked at where their key is checked.

    Raises:
        ModelError: With each that it does not have.
    """
    places = paths_in(type(config.settings), config.settings.model_dump())
    named = [(place.text, place.model) for place in places if place.model]
    held = of_config(config)
    for each in held.each if held is not None else ():  # they may stand in a file of their own
        named += [(str(getattr(each.entry, kind)), kind) for kind in BY_MODEL]
    named = [n for n in dict.fromkeys(named) if on_the_hub(n[0], config.base_dir)]
    if named and not why_offline()[0]:
        look_for_hub()
    if found := [problem for name, what in named if (problem := absent(name, what))]:
        raise ModelError(*found)


def try_out(prepared: Prepared, resolved: Resolved, rows: Read) -> None:
    """Build the trainer without weights, show what was chosen, and try the first rows.

    Raises:
        UserError: If a part of it cannot be used.
    """
    config, strategy, data = prepared.config, prepared.strategy, prepared.data
    rehearse(config, resolved, rows, data)
    show_choices(config)
    warn_of_known(config, strategy, data)
    warn_of_warmup(prepared)
    say_left_out(prepared)
    strategy.try_out(config, data.train, prepared.tokenizer)


def rows_together(prepared: Prepared) -> int:
    """How many rows TRL takes together, and leaves out if they are fewer; 1 where it takes all."""
    args = prepared.args
    batch = args.per_device_train_batch_size * args.world_size
    if prepared.strategy.generates:
        rollout = getattr(args, "generation_batch_size", None)
        rollout = rollout or batch * args.gradient_accumulation_steps
        return int(rollout // (getattr(args, "num_generations", None) or 1))
    if args.dataloader_drop_last and not prepared.config.get("packing"):
        return int(batch)
    return 1


def refuse_no_step(prepared: Prepared) -> None:
    """See that the rows make up one rollout, or one batch where TRL leaves out part of one.

    Raises:
        ConfigError: If they do not. Not one step would be trained.
    """
    rows, together = len(prepared.data.train), rows_together(prepared)
    if rows >= together:
        return
    if prepared.strategy.generates:
        what = f"has {rows} prompts to train on, and one rollout takes {together}"
        keys = "per_device_train_batch_size or gradient_accumulation_steps"
        keys = "prompts_per_step" if prepared.config.get("prompts_per_step") else keys
        fix = f"add prompts, or lower {keys}"
        raise ConfigError(Problem(f"{prepared.config.name}: dataset", what, fix))
    what = f"leaves out the last batch, and {rows} rows make up none of {together}"
    fix = "set it to false, or lower per_device_train_batch_size"
    raise ConfigError(Problem(f"{prepared.config.name}: dataloader_drop_last", what, fix))


def say_left_out(prepared: Prepared) -> None:
    """Say how many rows an epoch ends without."""
    together = rows_together(prepared)
    rest = len(prepared.data.train) % together
    if rest and len(prepared.data.train) > together:
        what = "rollout" if prepared.strategy.generates else "batch"
        say(f"each epoch leaves out {rest} of the rows, since a {what} takes {together}")


def warn_of_warmup(prepared: Prepared) -> None:
    """Say that the learning rate does not get as high as asked: training ends in the warm-up."""
    args, steps = prepared.args, prepared.args.max_steps
    if steps <= 0:
        if prepared.strategy.generates or prepared.config.get("packing"):
            return  # a step takes other than so many rows
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        rows = len(prepared.data.train)
        steps = math.ceil(args.num_train_epochs * rows / (batch * args.world_size))
    warmup = args.get_warmup_steps(steps)
    if warmup >= steps:
        reached = args.learning_rate * (steps - 1) / warmup
        warn(
            f"{steps} {'step' if steps == 1 else 'steps'} of training, and the warm-up takes "
            f"{warmup}: the learning rate gets no higher than {reached:.3g}, of "
            f"{args.learning_rate:g} → train longer, or set warmup_steps to 0"
        )


def prepare_on(resolved: Resolved, rows: Read) -> Prepared:
    """What follows from the rows, which may have been read for another config on the same data.

    Raises:
        UserError: As `prepare`.
    """
    from modelforge.data import fingerprint

    fitted = fit(resolved, rows)
    assert fitted.data is not None, "there are rows"
    config, run, strategy = fitted.config, resolved.run, resolved.strategy
    digest = fingerprint(fitted.data.train, fitted.data.eval)
    if resolved.checkpoint is not None:
        refuse_other_data(run, digest, where=config.name)
        refuse_what_it_keeps(config, resolved.checkpoint, strategy)
    args = build_args(config, strategy, resolved.provider, resolved.hardware, run)
    refuse_uneven(args, config)
    return Prepared(
        config=config,
        strategy=strategy,
        provider=resolved.provider,
        source=resolved.source,
        tokenizer=rows.tokenizer,
        vocabulary=rows.vocabulary,
        data=fitted.data,
        args=args,
        hardware=resolved.hardware,
        run=run,
        checkpoint=resolved.checkpoint,
        plan=fitted.plan,
        fingerprint=digest,
        unplanned=fitted.unplanned,
    )


def build_args(
    config: Config, strategy: Strategy, provider: Provider, hardware: Hardware, run: RunDir
) -> Any:
    """The TRL config object of a run on this machine.

    Raises:
        ConfigError: If the installed TRL refuses a value or lacks a field.
    """
    device = device_arguments(hardware, config.said)
    return provider.build_args(
        strategy,
        config,
        output_dir=run.checkpoints,
        device={key: choice.value for key, choice in device.items()},
    )


@contextmanager
def told_once() -> Iterator[None]:
    """Within it a value that was shown is not shown again: the stages of a run share most."""
    before = _told.set(set())
    try:
        yield
    finally:
        _told.reset(before)


def _told_of(config: Config, key: str, value: Any) -> Any:
    """Of a section, what was chosen: neither what the user said nor what is usual."""
    section, said = config.get(key), config.said.get(key) or {}
    if not isinstance(section, Section) or not isinstance(value, Mapping):
        return value
    usual = {name: field.get_default() for name, field in type(section).model_fields.items()}
    return {k: v for k, v in value.items() if k not in said and v != usual[k]}


def show_choices(config: Config) -> None:
    """The values nobody asked for, each with its reason: those that matter, or all of them.

    What follows from the data or the card, and what is other than the user said, always matters.
    """
    told = _told.get()
    rows = []
    for key, choice in config.choices.items():
        if choice.source in ("config", "--set"):
            continue
        other = config.said.get(key) not in (None, "auto")
        matters = other or key in _MATTERS or choice.source in _ALWAYS
        value = choice.value if is_verbose() else _told_of(config, key, choice.value)
        row = (key, value, f"{choice.source}: {choice.reason or choice.source}")
        if told is None or str(row) not in told:
            rows.append((matters, row))
        if told is not None:
            told.add(str(row))
    shown = [row for matters, row in rows if matters or is_verbose()]
    if shown:
        show_table(("chosen for you", "value", "because"), shown)
    if len(shown) < len(rows):
        say(f"{len(rows) - len(shown)} more values were chosen; --verbose shows them")
