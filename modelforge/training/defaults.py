"""What the user left open, filled in: layer by layer, in one order, once.

`LAYERS` is that order. Each layer sees the config with the layers before it and gives its values,
each with its reason. A later layer wins over an earlier one. Most layers leave alone what the user
said; those that do not say why in the reason.

Two kinds of values come later, since they follow from the data: what the data's columns ask for and
what the plan changes to fit the card (`modelforge.training.fit`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelforge.config import Choice, Config
from modelforge.configfile import schema
from modelforge.machine.attention import attention_defaults, installed_kernels
from modelforge.machine.hardware import (
    NO_MACHINE,
    choose_profile,
    device_arguments,
    list_profiles,
)
from modelforge.machine.launch import distributed_choices
from modelforge.machine.vllm import vllm_defaults
from modelforge.models.lora import lora_defaults
from modelforge.training import recipe
from modelforge.training.effects import effective
from modelforge.training.follow import following

if TYPE_CHECKING:
    from modelforge.machine.hardware import Hardware
    from modelforge.strategy import Strategy

Choices = Mapping[str, Choice]


@dataclass(frozen=True)
class Facts:
    """What values are filled from, beside the config.

    Attributes:
        strategy: The strategy.
        hardware: The machine that the run is for.
        provider: Who loads the model, and why.
        context: The model's context in tokens; None where the model does not tell.
        size: The model's family and size.
        given: What a base that is stored quantised is, and an adapter that is trained further.
        apart: What keeps rows of one sequence apart in the model, and why; None where
            the model is not known.
    """

    strategy: Strategy
    hardware: Hardware
    provider: Choice | None = None
    context: int | None = None
    size: recipe.Size = field(default_factory=recipe.Size)
    given: Mapping[str, Choice] = field(default_factory=dict)
    apart: tuple[str | None, str] | None = None


def fill(config: Config, facts: Facts) -> Config:
    """The config with every value that does not follow from the data."""
    for layer in LAYERS:
        config = config.with_choices(layer(config, facts))
    return effective(config, facts.strategy)


def under_each_profile(config: Config, strategy: Strategy) -> list[Config]:
    """The config as far as it follows without machine, model and data: once for each profile.

    Raises:
        ConfigError: If two keys of the user's ask for evaluations that cannot be both.
    """
    names = [profile.name for profile in list_profiles()]
    if config.settings.hardware_profile != "auto":
        names = [config.settings.hardware_profile]
    found = []
    for name in names:
        filled = config.with_choices({"hardware_profile": Choice(name, "profile")})
        for layer in (_profile, _strategy, _run, _follows):
            filled = filled.with_choices(layer(filled, Facts(strategy, NO_MACHINE)))
        found.append(filled)
    return found


def _profile(config: Config, facts: Facts) -> Choices:
    """The hardware profile, and those of its defaults that the strategy knows."""
    settings = config.settings
    profile, choice = choose_profile(
        facts.hardware,
        name=settings.hardware_profile,
        memory_budget_gb=settings.memory_budget_gb,
    )
    known = schema.load(type(facts.strategy))["properties"]
    why = f"{profile.name}: {profile.summary}"
    values = {k: Choice(v, "profile", why) for k, v in profile.defaults.items() if k in known}
    return _open(config, values) | {"hardware_profile": choice}


def _strategy(config: Config, facts: Facts) -> Choices:
    """The strategy's own defaults."""
    defaults = {k: Choice(v, "strategy", w) for k, (v, w) in facts.strategy.defaults.items()}
    if config.said.get("warmup_steps") is not None:  # 0 too says how it warms up
        defaults.pop("warmup_ratio", None)
    return _open(config, defaults)


def _recipe(config: Config, facts: Facts) -> Choices:
    """What is learned, whatever the card: rank, rate, and the rows of a step."""
    strategy, values = facts.strategy, recipe.rank(facts.strategy, facts.size, None)
    values |= recipe.rate(config, strategy, facts.size)
    return _open(config, values | recipe.batch(config, strategy))


def _preset(config: Config, facts: Facts) -> Choices:
    """Settings that the user asks for by one word."""
    return _open(config, recipe.preset(config, facts.strategy))


def _run(config: Config, facts: Facts) -> Choices:
    """How every run logs and saves."""
    longest = type(config.settings).model_fields["max_seq_length"].default
    values = {
        "max_seq_length": Choice(longest, "default", "rows are cut beyond it"),
        "logging_first_step": Choice(True, "default", "the first figures come at once"),
        "save_steps": Choice(0.1, "default", "ten checkpoints a run, to resume from"),
        "save_total_limit": Choice(2, "default", "the last two are kept"),
    }
    return _open(config, values)


def _follows(config: Config, facts: Facts) -> Choices:
    """What the user's keys ask of those they left open."""
    known = schema.load(type(facts.strategy))["properties"]
    return _open(config, following(config, facts.strategy, known))


def _provider(config: Config, facts: Facts) -> Choices:
    """Who loads the model; ``auto`` is decided by now."""
    return {} if facts.provider is None else {"provider": facts.provider}


def _context(config: Config, facts: Facts) -> Choices:
    """The length, within the model's context: beyond it positions were never trained."""
    length = config.settings.max_seq_length
    if facts.context is None or length <= facts.context:
        return {}
    why = f"the model's context ends there ({length} was set)"
    return {"max_seq_length": Choice(facts.context, "model", why)}


def _lora(config: Config, facts: Facts) -> Choices:
    """What base and adapter are already, or the LoRA scale; and quantisation where it cannot be."""
    return lora_defaults(config, facts.hardware) | dict(facts.given)


def _vllm(config: Config, facts: Facts) -> Choices:
    """What follows from ``use_vllm``."""
    return _open(config, vllm_defaults(config))


def _attention(config: Config, facts: Facts) -> Choices:
    """The attention kernel, and batches without padding where it makes them exact."""
    found = attention_defaults(
        config,
        facts.hardware,
        kernels=installed_kernels(),
        padding_free=facts.strategy.padding_free,
        apart=facts.apart,
    )
    return _open(config, found)


def _distributed(config: Config, facts: Facts) -> Choices:
    """The fields of transformers' arguments that ``distributed`` means."""
    return distributed_choices(config)


def _device(config: Config, facts: Facts) -> Choices:
    """The precision that the device computes in."""
    found = device_arguments(facts.hardware, config.said)
    return {key: choice for key, choice in found.items() if key != "use_cpu"}


def _open(config: Config, choices: Choices) -> dict[str, Choice]:
    """Those of the choices that the user has not made."""
    return {key: choice for key, choice in choices.items() if not config.given(key)}


LAYERS: tuple[Callable[[Config, Facts], Choices], ...] = (
    _profile,
    _strategy,
    _recipe,
    _run,
    _preset,
    _follows,
    _provider,
    _context,
    _lora,
    _vllm,
    _attention,
    _distributed,
    _device,
)
