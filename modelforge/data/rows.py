"""Rows in tokens, held against a length as often as it changes: `Rows.within`, top to bottom."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from modelforge.data.blocks import in_blocks
from modelforge.data.check import (
    Limits,
    LongRows,
    Tokenised,
    account,
    account_training,
    check,
    hold_out,
    joined,
)
from modelforge.data.divide import divide, divide_as, mixture
from modelforge.data.encoded import Encoded
from modelforge.data.ledger import Ledger
from modelforge.data.output import extra_columns, to_dataset, token_columns
from modelforge.data.picked import Chosen, encoded, places_of
from modelforge.data.repeated import look_for_shared
from modelforge.errors import DataError, Problem

if TYPE_CHECKING:
    from datasets import Dataset

    from modelforge.data.check import Kept


@dataclass(frozen=True)
class Data:
    """Rows ready for a strategy, in normal form and in the tokens that were checked.

    Attributes:
        train: Training rows in normal form (see `modelforge.data.convert`).
        eval: Evaluation rows in the same form, or None.
        ledger: What happened to every row.
        train_tokens: The training rows in tokens, uncut, in the order of ``train``.
        eval_tokens: The same of the evaluation rows; empty for none.
        template_kwargs: What every conversation gives the chat template.
        train_places, eval_places: Where each row stands, ``file:line``.
        train_prompts, eval_prompts: A fingerprint of what each row asks; the same whatever kind of
            row it is read as.
        drawn: Whether the evaluation rows were taken out of the data to train on.
    """

    train: Dataset
    eval: Dataset | None
    ledger: Ledger
    train_tokens: Sequence[Encoded]
    eval_tokens: Sequence[Encoded]
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    train_places: Sequence[str] = ()
    eval_places: Sequence[str] = ()
    train_prompts: Iterable[int] = ()
    eval_prompts: Sequence[int] = ()
    drawn: bool = False

    def tokenised(
        self, *, train_length: int | None, eval_length: int | None, prompt_apart: bool = False
    ) -> tuple[Dataset, Dataset | None]:
        """Demonstrations or pairs in the columns TRL's trainers take as already prepared.

        Args:
            train_length: Where training rows are cut (pairs: left out), in tokens; None nowhere.
            eval_length: The same of evaluation rows.
            prompt_apart: Whether pairs give their prompt in a column of its own, for DPOTrainer.

        Returns:
            ``input_ids`` and ``labels``; or ``chosen_ids``, ``rejected_ids`` and, where the rows
            have it, ``margin``; with ``prompt_ids`` where it is apart; or ``completion_ids``,
            ``prompt_ids`` and ``label``. Nothing is encoded for it.
        """
        train, evaluation = (
            token_columns(
                tokens, rows, kind=self.ledger.kind, max_length=length, prompt_apart=prompt_apart
            )
            if rows
            else None
            for tokens, rows, length in (
                (self.train_tokens, self.train, train_length),
                (self.eval_tokens, self.eval, eval_length),
            )
        )
        assert train is not None, "no data set is without training rows"
        return train, evaluation


@dataclass(frozen=True)
class Rows:
    """All rows that were read, encoded once and uncut. To be let go once the length is settled.

    Attributes:
        parts: The rows of each source, training sources first.
        weights: Of each training source, its share of the mix.
        own: Of each training source, how many of its rows it holds out itself; None: not said.
        eval_split: How many rows are held out, where no source is.
        held_out: Why the sources behind the training sources are held out; empty without one.
        decode: Gives the text of tokens.
        seed: Of the split and the mixture.
        min_rows: Fewer training rows than this are refused.
        end_ids: Token ids that end a reply.
        name: How messages call the data.
        reading: What happened while the files were read.
        template_kwargs: What every conversation gives the chat template.
        prompts: Of what is held out, a fingerprint of what it asks, in place of ``eval_split``.
    """

    parts: Sequence[Sequence[Tokenised]]
    weights: Sequence[float | None]
    own: Sequence[float | int | None]
    eval_split: float | int | None
    held_out: str
    decode: Callable[[Sequence[int]], str]
    seed: int
    min_rows: int
    end_ids: frozenset[int]
    name: str
    reading: Ledger
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    prompts: Collection[int] | None = None

    def within(
        self,
        max_length: int | None,
        *,
        long_rows: LongRows = "cut",
        long_eval_rows: LongRows | None = None,
    ) -> Data:
        """The rows that can be trained on at this length, accounted for, split and mixed.

        Reads no file and encodes nothing. Another call knows nothing of this one.

        Args:
            max_length: Tokens a row may have; None: any number.
            long_rows: What becomes of longer rows.
            long_eval_rows: The same of the held-out rows; None: as of the others.

        Raises:
            DataError: If too few rows can be used.
        """
        ledger = copy.deepcopy(self.reading)
        limits = Limits(ledger.kind, max_length, long_rows, self.end_ids)
        eval_limits = replace(limits, long_rows=long_eval_rows or long_rows)
        parts = [in_blocks(rows, limits.keeps, self.decode, ledger) for rows in self.parts]
        kept = [check(rows, number, limits, ledger) for number, rows in enumerate(parts)]
        count = len(self.weights)
        ledger.refuse_if_too_few(self.name, sum(map(len, kept[:count])), self.min_rows)
        account(joined(kept), parts, ledger, limits, decode=self.decode)
        train, evaluation = self._divide(kept, ledger)
        del kept  # of many rows, a hundred megabytes
        evaluation = hold_out(evaluation, parts, eval_limits, limits, ledger)
        order = mixture(train, self.weights, self.seed, ledger)
        flat = joined(train)
        epoch = flat if isinstance(order, range) else flat[order]
        account_training(epoch, evaluation, ledger)
        once, rows, held_out = (Chosen(parts, each) for each in (flat, epoch, evaluation))
        look_for_shared(once, held_out, ledger)
        ledger.warn()
        names = []
        if ledger.kind == "prompt":
            names = extra_columns(itertools.chain(once, held_out))
        return Data(
            to_dataset(rows, names, ledger),
            to_dataset(held_out, names, ledger) if len(evaluation) else None,
            ledger,
            encoded(rows),
            encoded(held_out),
            self.template_kwargs,
            places_of(rows),
            places_of(held_out),
            epoch["asked"],
            evaluation["asked"].tolist(),
            drawn=not self.held_out and len(evaluation) > 0,
        )

    def _divide(self, kept: list[Kept], ledger: Ledger) -> tuple[list[Kept], Kept]:
        """The training rows of each source, and the held-out rows.

        What a source says itself comes first. The other sources give rows where nothing else is
        held out, or where ``eval_split`` asks for some.
        """
        count = len(self.weights)
        train, evaluation = list(kept[:count]), kept[count:]
        if self.held_out and not any(map(len, evaluation)):
            what = f"no held-out row can be used ({self.held_out})"
            raise DataError(Problem("eval_dataset", what, "check it alone, as the data set"))
        reasons = [self.held_out] if self.held_out else []
        if self.prompts is not None:
            return self._divide_as(self.prompts, train, ledger)
        for at, own in enumerate(self.own):
            if own is not None:
                (train[at],), drawn = divide([train[at]], own, self.seed, 0, ledger, where="eval")
                evaluation.append(drawn)
                reasons.append(f"dataset[{at}]: {ledger.eval_reason}")
        rest = [at for at, own in enumerate(self.own) if own is None]
        none = not any(map(len, evaluation))
        if (rest and none) or (rest and any(self.own) and self.eval_split is not None):
            parts, drawn = divide(
                [train[at] for at in rest], self.eval_split, self.seed, self.min_rows, ledger
            )
            for at, rows in zip(rest, parts, strict=True):
                train[at] = rows
            evaluation.append(drawn)
            reasons.append(ledger.eval_reason)
        ledger.eval_reason = "; ".join(reasons)
        return train, joined(evaluation) if evaluation else train[0][:0]

    def _divide_as(
        self, prompts: Collection[int], train: list[Kept], ledger: Ledger
    ) -> tuple[list[Kept], Kept]:
        """The same by what another run held out."""
        if self.held_out:
            what = f"the data says itself what is held out ({self.held_out})"
            raise DataError(Problem("held_out_as", what, "keep one of the two"))
        train, evaluation = divide_as(train, prompts)
        ledger.eval_reason = "what the run of held_out_as held out"
        if sum(map(len, train)) < max(self.min_rows, 1):
            what = "leaves no row to train on: all are held out there"
            raise DataError(Problem("held_out_as", what, "set eval_split instead"))
        return train, evaluation
