"""First step of a run: the machine, the model's place, and every value that they decide.

``train``, ``check``, ``data`` and ``plan`` all go the same way, and each stops at its own step::

    resolve(config)        → Resolved    machine, provider, model's shape, defaults
    read(resolved)         → Read        tokenizer and rows                    `data` stops here
    fit(resolved, read)    → Fitted      what the data and the card decide     `plan` stops here
    prepare(config)        → Prepared    TRL's arguments                       `check` stops here
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge import registry
from modelforge.callbacks.trackers import check_trackers
from modelforge.common.console import say, warn
from modelforge.common.libraries import take_over
from modelforge.config import Choice, Config
from modelforge.errors import ConfigError, ModelError
from modelforge.machine import attention, precision
from modelforge.machine.attention import together_problems
from modelforge.machine.hardware import Hardware, detect_hardware
from modelforge.machine.launch import refuse_backend
from modelforge.machine.packages import refuse_what_is_missing
from modelforge.models.attach import head_problems
from modelforge.models.documents import RowsApart, rows_apart
from modelforge.models.hub import look_for_what_is_named, pinned
from modelforge.models.lora import adapter_choices
from modelforge.models.providers.choice import choose_provider, planned_provider
from modelforge.models.rates import model_type
from modelforge.models.source import ModelSource, find_model
from modelforge.models.stored import stored_choices, stored_problems
from modelforge.plan.planner import find
from modelforge.runs.folder import RunDir, open_run, run_path
from modelforge.training.defaults import Facts, fill
from modelforge.training.effects import refuse_without_effect
from modelforge.training.experts import with_experts_said
from modelforge.training.recipe import Size

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from modelforge.models.providers.base import Provider
    from modelforge.strategy import Strategy


@dataclass(frozen=True)
class Resolved:
    """A config with all that does not follow from the data; nothing heavy is loaded.

    Attributes:
        config: With those values filled in.
        strategy: The strategy.
        hardware: The machine.
        provider: Who loads the model.
        source: Where the model comes from, at a commit where it is the hub's.
        architecture: The model's config: its shape, without weights.
        size: Its family and size.
        run: The run's folder; nothing is written there yet.
        checkpoint: Where to resume from, or None.
        planning: Whether nothing is going to run: a plan is all that is asked for.
    """

    config: Config
    strategy: Strategy
    hardware: Hardware
    provider: Provider
    source: ModelSource
    architecture: PretrainedConfig
    size: Size
    run: RunDir
    checkpoint: Path | None
    planning: bool = False

    @property
    def context(self) -> int | None:
        """The model's context in tokens, where it tells."""
        return getattr(self.architecture.get_text_config(), "max_position_embeddings", None)


def resolve(
    config: Config,
    strategy: Strategy | None = None,
    *,
    opened: tuple[RunDir, Path | None] | None = None,
    planned_for: Hardware | None = None,
    planning: bool = False,
) -> Resolved:
    """Fill in what machine, model, profile and strategy decide. Loads no weights, writes nothing.

    Args:
        config: As loaded.
        strategy: The strategy itself, in place of the one found by the config's name.
        opened: The run's folder and checkpoint, where they were looked up already.
        planned_for: A machine in place of this one.
        planning: Whether nothing is going to run here: then what this machine lacks is only said,
            and a shipped shape takes the place of a model that cannot be loaded.

    Raises:
        UserError: If config, model or machine cannot be used.
    """
    strategy = strategy or registry.get_strategy(config.settings.strategy)()
    hardware = planned_for or detect_hardware()
    if not planning:
        refuse_backend(config, hardware)
        check_trackers(config)
        refuse_what_is_missing(config)
    if planned_for is not None:  # what this machine has begun says nothing of another
        opened = RunDir(run_path(config)), None
    run, checkpoint = opened or open_run(config)
    # A run resumes with the weights it began with, whatever its hub branch has by now.
    begun = run.begun_revision() if checkpoint is not None else None
    source = find_model(
        config.settings.model_name,
        base_dir=config.base_dir,
        revision=config.settings.model_revision or begun,
        where=f"{config.name}: model_name",
        trust_remote_code=config.settings.trust_remote_code,
    )
    look_for_what_is_named(config, source)
    choose = planned_provider if planning else choose_provider
    provider, choice = choose(config, strategy, source, hardware)
    if planned_for is None:
        provider.start()  # Unsloth has to come before transformers and TRL
    architecture = _shape(config, strategy, provider, source, planning=planning)
    from modelforge.plan.model import sizes

    take_over()  # transformers is imported by now
    context = getattr(architecture.get_text_config(), "max_position_embeddings", None)
    given = _as_they_are(config, strategy, source, architecture)
    size, apart = Size(model_type(architecture), *sizes(architecture)), rows_apart(architecture)
    facts = Facts(strategy, hardware, choice, context, size, given, apart)
    config = with_experts_said(fill(config, facts), architecture)
    refuse_without_effect(config, strategy)
    _refuse_together(config, strategy, provider, apart)
    _say_machine(config, hardware)
    return Resolved(
        config, strategy, hardware, provider, pinned(source), architecture,
        size, run, checkpoint, planning,
    )  # fmt: skip


def _refuse_together(
    config: Config, strategy: Strategy, provider: Provider, apart: RowsApart
) -> None:
    """See that rows share a sequence only in a model that keeps them apart.

    Raises:
        ConfigError: If the user asks for it in another.
    """
    problems = list(together_problems(config, *apart))
    if problems and strategy.padding_free and provider.name == "huggingface":
        raise ConfigError(*problems)


def _as_they_are(
    config: Config, strategy: Strategy, source: ModelSource, architecture: Any
) -> dict[str, Choice]:
    """How the base is stored quantised, and the shape of the adapter that is trained further.

    Raises:
        ConfigError: If the user says otherwise of the adapter.
    """
    stored = stored_choices(architecture)
    if source.adapter is None:
        return stored

    def linear() -> set[str]:
        from modelforge.plan.model import linear_layers

        return linear_layers(architecture)

    shape = adapter_choices(config, source.adapter, head=strategy.head, linear=linear)
    return stored | shape


def _say_machine(config: Config, hardware: Hardware) -> None:
    profile = config.choices["hardware_profile"]
    why = profile.reason or "asked for"
    say(f"machine: {hardware.device_name}, profile {profile.value} ({why})")
    for warning in (*attention.warnings(config), *precision.warnings(config)):
        warn(warning)


def _shape(
    config: Config, strategy: Strategy, provider: Provider, source: ModelSource, *, planning: bool
) -> PretrainedConfig:
    """The model's config. A plan takes a shipped shape where the config cannot be loaded.

    Raises:
        ModelError: If there is none, or it is of a model that this strategy cannot train.
    """
    try:
        architecture = provider.load_model_config(source)
    except ModelError:
        if not planning:
            raise
        architecture = find(config).architecture
    where = f"{config.name}: model_name"
    problems = list(head_problems(source, architecture, head=strategy.head, where=where))
    problems += stored_problems(config, architecture, here=not planning)
    if problems:
        raise ModelError(*problems)
    return architecture
