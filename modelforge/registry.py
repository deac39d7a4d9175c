"""Names → strategies. Nothing is imported before it is asked for.

Third parties add a strategy by an entry point in the group ``modelforge.strategies``::

    [project.entry-points."modelforge.strategies"]
    mine = "my_package.mine:Mine"
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from modelforge.common.patch import put, rename
from modelforge.errors import ConfigError, Problem, did_you_mean, nearest, slip

if TYPE_CHECKING:
    from modelforge.strategy import Strategy

ENTRY_POINT_GROUP = "modelforge.strategies"

STRATEGIES = {
    "sft": "modelforge.strategies.sft:SFT",
    "qlora": "modelforge.strategies.qlora:QLoRA",
    "reward": "modelforge.strategies.reward:Reward",
    "dpo": "modelforge.strategies.dpo:DPO",
    "kto": "modelforge.strategies.kto:KTO",
    "distill": "modelforge.strategies.distill:Distill",
    "grpo": "modelforge.strategies.grpo:GRPO",
    "rloo": "modelforge.strategies.rloo:RLOO",
    "ppo": "modelforge.strategies.ppo:PPO",
    "rlhf": "modelforge.strategies.rlhf:RLHF",
}


# Methods that are no strategy of their own here, and the nearest one.
_EXPERIMENTAL = {
    "orpo": "take examples/04_orpo.py",
    "cpo": "write a strategy of your own as examples/04_orpo.py does",
    "simpo": "set strategy dpo with loss_type sigmoid_norm",
    "ipo": "set strategy dpo with loss_type ipo",
    "gkd": "set strategy distill",
}

_registered: dict[str, type[Strategy]] = {}


def register_strategy(strategy: type[Strategy]) -> type[Strategy]:
    """Make a strategy known by its ``name`` in this process; usable as a class decorator.

    Raises:
        ValueError: If the name is taken by another class.
    """
    name = strategy.name
    if name in list_strategies() and get_strategy(name) is not strategy:
        raise ValueError(f"the strategy name '{name}' is taken")
    _registered[name] = strategy
    return strategy


def list_strategies() -> list[str]:
    """Names of all strategies: built in, from installed packages, registered here."""
    third = [point.name for point in entry_points(group=ENTRY_POINT_GROUP)]
    return list(dict.fromkeys([*STRATEGIES, *third, *_registered]))


def get_strategy(name: str) -> type[Strategy]:
    """The strategy's class.

    Raises:
        ConfigError: If no strategy has that name.
    """
    if name in STRATEGIES:
        return _load(STRATEGIES[name])
    if name in _registered:
        return _registered[name]
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        return point.load()
    raise ConfigError(Problem("strategy", f"'{name}' is unknown", _instead(name)))


def strategy_for(values: Mapping[str, Any], *, where: str) -> type[Strategy]:
    """The class of the strategy a raw config names; the error names the config."""
    name = values.get("strategy")
    known = ", ".join(list_strategies())
    if name is None:
        like = [key for key in values if nearest(key, ["strategy"], alike=0.8)]
        fix = f"did you mean it by '{like[0]}'?" if like else f"set one of: {known}"
        patch = rename(like[:1], "strategy") if like else ()
        raise ConfigError(Problem(f"{where}: strategy", "is missing", fix, patch))
    if not isinstance(name, str):
        raise ConfigError(Problem(f"{where}: strategy", "is not a name", f"set one of: {known}"))
    if name not in list_strategies():
        fix, meant = _instead(name), slip(name, list_strategies())
        patch = put(["strategy"], meant) if meant else ()
        raise ConfigError(Problem(f"{where}: strategy", f"'{name}' is unknown", fix, patch))
    return get_strategy(name)


def _instead(name: str) -> str:
    return _EXPERIMENTAL.get(name) or did_you_mean(name, list_strategies())


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
