"""Third step of a run: what the data and the card decide, and then what follows from all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelforge.training.fit_to_card import within_budget
from modelforge.training.follow import refuse_unknown_metric, refuse_without_rows
from modelforge.training.read import cut
from modelforge.training.recipe import of_the_rows, of_the_step

if TYPE_CHECKING:
    from modelforge.config import Choice, Config
    from modelforge.data import Data
    from modelforge.plan import Plan
    from modelforge.strategy import Strategy
    from modelforge.training.read import Read
    from modelforge.training.resolve import Resolved


@dataclass(frozen=True)
class Fitted:
    """A config with every value.

    Attributes:
        config: With every value filled in.
        data: The rows at its length; None where they were not read.
        plan: What the run will need, where there is a budget to keep.
        unplanned: Why there is no plan although there is a budget; else empty.
    """

    config: Config
    data: Data | None
    plan: Plan | None
    unplanned: str = ""


def fit(resolved: Resolved, read: Read | None, *, as_it_is: bool = False) -> Fitted:
    """Fill in the values that follow from the data and the card.

    Args:
        resolved: The first step's.
        read: The second step's; None plans for rows of the full length.
        as_it_is: Change nothing to make it fit.

    Raises:
        UserError: If the strategy cannot train on these columns, or nothing fits the card.
    """
    config, strategy = resolved.config, resolved.strategy
    data = None if read is None else read.data
    if data is not None:
        config = config.with_defaults(strategy.check_data(config, data.train))
        refuse_without_rows(config, held_out=data.eval is not None)
        refuse_unknown_metric(config, strategy.figures(config))
    config = config.with_choices(_by_rows(config, resolved, read))
    prompts = None if data is None else len(data.train)
    config = config.with_choices(strategy.rollout(config, prompts))
    if data is not None and not strategy.generates and data.ledger.tokens["total"]:
        mean = data.ledger.tokens["total"] / len(data.train)
        most = min(round(data.ledger.tokens["max"]), resolved.context or 2**63)
        config = config.with_choices(of_the_step(config, strategy, mean=mean, longest=most))
    planned, why = None, ""
    # Each stage of a staged run is a run of its own, and fits itself.
    if not as_it_is and (resolved.planning or not strategy.stages(config)):
        config, planned, why = within_budget(
            config,
            resolved.hardware,
            longest_row=None if data is None else longest_row(config, resolved, data),
            run=resolved.run,
            resumed=resolved.checkpoint is not None,
            planning=resolved.planning,
        )
    config = config.with_choices(strategy.derived_defaults(config))
    if read is not None and data is not None and _is_cut(data, resolved.config, config, strategy):
        data = cut(read.rows, config, strategy)
    return Fitted(config, data, planned, why)


def longest_row(config: Config, resolved: Resolved, data: Data) -> int | None:
    """Tokens of the longest row that is trained on; None where the data do not tell."""
    if resolved.strategy.data_kind == "prompt":
        return None  # how long answers get is not in the data
    longest = min(round(data.ledger.tokens["max"]), resolved.context or 2**63)
    return max(longest, config.settings.max_seq_length) if config.get("packing") else longest


def _by_rows(config: Config, resolved: Resolved, read: Read | None) -> dict[str, Choice]:
    """Rank and lengths; where no rows are known, the lengths alone."""
    strategy, tokens, longest, thinks = resolved.strategy, None, None, False
    if read is not None:
        ledger = read.data.ledger
        if ledger.supervised_share is not None:
            tokens = ledger.tokens["total"] * ledger.supervised_share
        longest = round(ledger.tokens["max"]) if strategy.data_kind == "prompt" else None
        thinks = "<think>" in str(read.tokenizer.chat_template)
    return of_the_rows(
        config, strategy, resolved.size, tokens=tokens, longest=longest, thinks=thinks,
        context=resolved.context,
    )  # fmt: skip


def _is_cut(data: Data, before: Config, after: Config, strategy: Strategy) -> bool:
    """Whether the length is another by now, and a row is longer."""
    length = strategy.max_row_tokens(after)
    if length == strategy.max_row_tokens(before):
        return False
    held_out = max((len(ids) for row in data.eval_tokens for ids in row.ids), default=0)
    return length < max(data.ledger.tokens["max"], held_out)
