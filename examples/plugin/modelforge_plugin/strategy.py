"""A strategy: DPO that keeps the chosen answer likely, and says how strongly it does."""

from __future__ import annotations

from collections.abc import Iterable

from modelforge import Config, Problem, get_strategy

DPO = get_strategy("dpo")


class SteadyDPO(DPO):
    """DPO with the likelihood of the chosen answer added to its loss."""

    name = "steady-dpo"
    summary = "DPO that keeps the chosen answers likely"
    defaults = {
        **DPO.defaults,
        "loss_type": (["sigmoid", "sft"], "the plain loss may make both answers less likely"),
        "loss_weights": ([1.0, 0.5], "half as strong as the preference"),
    }

    def check(self, config: Config) -> Iterable[Problem]:
        """What only this strategy knows: without the second loss it is plain DPO."""
        yield from super().check(config)
        if "sft" not in config.get("loss_type", ["sft"]):
            yield Problem(f"{config.name}: loss_type", "has no sft in it", "add it, or use dpo")
