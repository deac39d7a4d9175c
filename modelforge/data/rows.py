"""Rows in tokens, held against a length as often as it changes: `Rows.within`, top to bottom."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelforge.data.check import Limits, Tokenised, account, account_training, check
from modelforge.data.divide import divide, mixture
from modelforge.data.ledger import Ledger
from modelforge.data.output import extra_columns, to_dataset, token_columns
from modelforge.data.tokens import Encoded

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Data:
    """Rows ready for a strategy, in normal form and in the tokens that were checked.

    Attributes:
        train: Training rows in normal form (see `modelforge.data.convert`).
        eval: Evaluation rows in the same form, or None.
        ledger: What happened to every row.
        train_tokens: The training rows in tokens, uncut, in the order of ``train``.
        eval_tokens: The same of the evaluation rows; empty for none.
    """

    train: Dataset
    eval: Dataset | None
    ledger: Ledger
    train_tokens: Sequence[Encoded]
    eval_tokens: Sequence[Encoded]

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
            have it, ``margin``; with ``prompt_ids`` where it is apart. Nothing is encoded for it.
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
        eval_split: How many rows are held out, where no source is.
        seed: Of the split and the mixture.
        min_rows: Fewer training rows than this are refused.
        end_ids: Token ids that end a reply.
        name: How messages call the data.
        reading: What happened while the files were read.
    """

    parts: Sequence[Sequence[Tokenised]]
    weights: Sequence[float | None]
    eval_split: float | int | None
    seed: int
    min_rows: int
    end_ids: frozenset[int]
    name: str
    reading: Ledger

    def within(self, max_length: int | None, *, drop_long: bool = False) -> Data:
        """The rows that can be trained on at this length, accounted for, split and mixed.

        Reads no file and encodes nothing. Another call knows nothing of this one.

        Args:
            max_length: Tokens a row may have; None: any number.
            drop_long: Drop longer pairs, as RewardTrainer does; else DPOTrainer cuts them.

        Raises:
            DataError: If too few rows can be used.
        """
        ledger = copy.deepcopy(self.reading)
        limits = Limits(ledger.kind, max_length, drop_long, self.end_ids)
        kept = [check(rows, limits, ledger) for rows in self.parts]
        count = len(self.weights)
        ledger.refuse_if_too_few(self.name, sum(map(len, kept[:count])), self.min_rows)
        account([item for rows in kept for item in rows], ledger, limits)
        train, evaluation = divide(kept, count, self.eval_split, self.seed, self.min_rows, ledger)
        order = mixture(train, self.weights, self.seed, ledger)
        flat = [item for rows in train for item in rows]
        account_training(flat, order, evaluation, ledger)
        names = extra_columns(flat + evaluation) if ledger.kind == "prompt" else []
        epoch = [flat[i] for i in order]
        return Data(
            to_dataset(epoch, names, ledger),
            to_dataset(evaluation, names, ledger) if evaluation else None,
            ledger,
            [item.encoded for item in epoch],
            [item.encoded for item in evaluation],
        )
