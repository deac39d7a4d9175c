"""What happened to every row: kept, dropped and why, cut, supervised; ``data.json`` of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from modelforge.data.advice import ADVICE, FINDINGS
from modelforge.data.convert import DataKind
from modelforge.data.grams import WORDS
from modelforge.data.places import Watched
from modelforge.errors import DataError, Problem

if TYPE_CHECKING:
    import numpy

FIRST = 10  # rows named per reason
WARN_SHARE = 0.1  # dropped or truncated rows above this share are worth a warning

# With less than this share of the rows left, the file is not what it was taken for.
LEAST_SHARE, FEW = 0.05, 20  # FEW: dropped rows that are not worth a refusal
# Reasons that follow from the length that was set, or from what a format is.
CHOSEN = frozenset(
    (
        *("prompt fills max_seq_length", "prompt is too long", "longer than max_seq_length"),
        *("equal once cut", "neither best nor worst", "rated below another answer"),
        *("labelled bad", "marked not to be trained on"),
    )
)


@dataclass
class Tally:
    """How many rows, and the first of them as ``file:line``."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, where: str) -> None:
        """Count one more row."""
        self.count += 1
        if len(self.first) < FIRST:
            self.first.append(where)


@dataclass
class Ledger:
    """The account of one load; counts are of rows unless said otherwise.

    Attributes:
        kind: The data kind loaded.
        sources: One entry a file: ``path, role (train or eval), format, rows, kept, sha256,
            revision`` (the commit of a hub data set).
        kept: Rows left after cleaning, before the split.
        dropped: Reason → how many and where first.
        findings: What the chat template did to kept rows (see `FINDINGS`) → how many, where first.
        truncated: Kept rows cut at ``max_length``.
        truncated_share: Their share of the kept rows.
        truncated_tokens: The tokens that they lose by it.
        split: Kept rows that packing splits over several blocks; none of their tokens is lost.
        tokens: ``total, mean, p50, p95, max`` over the training rows as one epoch sees them
            (after truncation; for pairs chosen and rejected count as two sequences).
        supervised_share: Supervised tokens over all tokens of the training rows.
        eos_supervised_share: Share of uncut rows whose last supervised token ends a reply.
        double_bos: Rows that begin with two BOS tokens.
        closed_prompts: Prompts that end with a token that ends a reply.
        duplicates: Rows that repeat an earlier one as it is trained on; they are kept.
        silent: Kept rows with an empty answer, which is masked.
        placeholders: Rows that hold a ``{{name}}`` nobody filled in.
        blanks_alone: Kept pairs whose sides differ in white space alone.
        shared_with_training: Of held-out rows that are also trained on: whether it is the same row,
            the same prompt alone, or nearly the same (see `modelforge.data.overlap`) → how many,
            and the first as ``held-out place = training place``.
        words_in_common: Of the other held-out rows those that share a run of words with a training
            row (see `modelforge.data.grams`).
        train_rows: Training rows of one epoch, after the split and the mixing.
        eval_rows: Evaluation rows.
        eval_reason: How they were chosen.
        chat_template: ``name, reason`` of the template, once chosen.
        warnings: What the user should look at.
        notes: What was decided on the way.
        unused: Column, or ``column[].key`` of its messages, that is not read → rows with it.
        passed_on: Column of a prompt file that reward functions are given → rows with it.
        watched: One row that is asked about; not part of the account.
    """

    kind: DataKind
    sources: list[dict[str, Any]] = field(default_factory=list)
    kept: int = 0
    dropped: dict[str, Tally] = field(default_factory=dict)
    findings: dict[str, Tally] = field(default_factory=dict)
    truncated: Tally = field(default_factory=Tally)
    truncated_share: float = 0.0
    truncated_tokens: int = 0
    split: Tally = field(default_factory=Tally)
    tokens: dict[str, float] = field(default_factory=dict)
    supervised_share: float | None = None
    eos_supervised_share: float | None = None
    double_bos: int = 0
    closed_prompts: int = 0
    duplicates: Tally = field(default_factory=Tally)
    silent: Tally = field(default_factory=Tally)
    blanks_alone: Tally = field(default_factory=Tally)
    placeholders: Tally = field(default_factory=Tally)
    shared_with_training: dict[str, Tally] = field(default_factory=dict)
    words_in_common: Tally = field(default_factory=Tally)
    train_rows: int = 0
    eval_rows: int = 0
    eval_reason: str = ""
    chat_template: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unused: dict[str, Tally] = field(default_factory=dict)
    passed_on: dict[str, Tally] = field(default_factory=dict)
    watched: Watched | None = field(default=None, compare=False)

    def drop(self, reason: str, where: str) -> None:
        """Count a dropped row."""
        self.dropped.setdefault(reason, Tally()).add(where)
        if self.watched is not None:
            self.watched.drop(where, reason)

    def find(self, finding: str, where: str) -> None:
        """Count a kept row that the chat template did something to."""
        self.findings.setdefault(finding, Tally()).add(where)

    def note(self, text: str) -> None:
        """Remember a decision, once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def rows_read(self) -> int:
        """Examples met: the kept and the dropped."""
        return self.kept + sum(tally.count for tally in self.dropped.values())

    @property
    def shared_rows(self) -> int:
        """Held-out rows that are also trained on, whole, in their prompt, or nearly so."""
        return sum(tally.count for tally in self.shared_with_training.values())

    def shared_kinds(self) -> str:
        """How they are shared, with the first of each kind."""
        return "; ".join(
            f"{tally.count} × {kind}: {', '.join(tally.first[:3])}"
            for kind, tally in self.shared_with_training.items()
        )

    def to_dict(self) -> dict[str, Any]:
        """The ledger as JSON-able values."""
        values = asdict(replace(self, watched=None))
        del values["watched"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ledger:
        """The ledger that `to_dict` wrote; what stands beside it in the file is left out."""
        # A run of an earlier version did not count everything that is counted by now.
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        for name in ("dropped", "findings", "unused", "passed_on", "shared_with_training"):
            if name in known:
                known[name] = {what: Tally(**tally) for what, tally in known[name].items()}
        for name, value in known.items():
            if isinstance(value, dict) and set(value) == {"count", "first"}:
                known[name] = Tally(**value)
        return cls(**known)

    def warn(self) -> None:
        """Fill `warnings` and `notes` from the counts."""
        for finding, tally in self.findings.items():
            name, _, detail = finding.partition(": ")
            text, look = FINDINGS[name]
            first = ", ".join(tally.first[:3])
            told = f"{rows_said(tally.count)} with {text.format(detail)} ({first})"
            (self.warnings.append if look else self.note)(told)
        dropped = self.rows_read - self.kept
        if self.rows_read and dropped > WARN_SHARE * self.rows_read:
            reason = max(self.dropped, key=lambda name: self.dropped[name].count)
            self.warnings.append(
                f"{dropped} of {self.rows_read} rows were dropped, most for: {reason}"
            )
        if self.truncated_share > WARN_SHARE:
            self.warnings.append(
                f"{self.truncated_share:.0%} of the rows are cut at max_seq_length: the end of the "
                "reply, with its end-of-sequence token, is lost; raise `max_seq_length`"
            )
        if self.double_bos:
            self.warnings.append(
                f"{self.double_bos} rows begin with two BOS tokens; set `chat_template` to one "
                "that does not add its own"
            )
        if self.closed_prompts:
            self.warnings.append(
                f"{self.closed_prompts} prompts end with a token that ends a reply, so the model "
                "is asked for nothing: set `chat_template` to one with a generation prompt"
            )
        if self.placeholders.count:
            first = ", ".join(self.placeholders.first[:3])
            self.warnings.append(
                f"{rows_said(self.placeholders.count)} with a placeholder such as {{{{name}}}} "
                f"({first}): it is trained on as it stands"
            )
        if self.blanks_alone.count:
            first = ", ".join(self.blanks_alone.first[:3])
            self.warnings.append(
                f"{self.blanks_alone.count} pairs differ in white space alone ({first}): the model "
                "learns blanks from them"
            )
        if self.shared_with_training:
            self.warnings.append(
                f"{self.shared_rows} of {self.eval_rows} held-out rows are also trained on "
                f"({self.shared_kinds()}): the held-out figures flatter; leave these rows out of "
                "one of the two"
            )
        if self.eos_supervised_share is not None and self.eos_supervised_share < 1 - WARN_SHARE:
            self.warnings.append(
                f"only {self.eos_supervised_share:.0%} of the uncut rows teach the model to stop"
            )

    def summary_lines(self) -> list[str]:
        """The ledger for a reader: its facts, then its warnings."""
        return [*self.fact_lines(), *(f"warning: {warning}" for warning in self.warnings)]

    def fact_lines(self) -> list[str]:
        """A fact a line."""
        lines = [
            f"{source['path']}: {rows_said(source['rows'])}, read as {source['format']}"
            for source in self.sources
        ]
        lines.append(f"kept {self.kept}, dropped {self.rows_read - self.kept}")
        for reason, tally in sorted(self.dropped.items(), key=lambda item: -item[1].count):
            lines.append(f"  {tally.count} × {reason} ({', '.join(tally.first[:3])})")
        for what, names in (
            ("not used", self.unused),
            ("passed on to reward functions", self.passed_on),
        ):
            if names:
                listed = (f"{name} ({rows_said(tally.count)})" for name, tally in names.items())
                lines.append(f"{what}: {', '.join(listed)}")
        lines.append(f"train {self.train_rows}, eval {self.eval_rows} ({self.eval_reason})")
        if self.eval_rows and not self.shared_with_training:
            lines.append("held-out rows that are also trained on, whole or nearly so: none found")
        if self.words_in_common.count:
            first = ", ".join(self.words_in_common.first[:3])
            lines.append(
                f"held-out rows with {WORDS} words in a row of a training row: "
                f"{self.words_in_common.count} of {self.eval_rows} ({first})"
            )
        if self.tokens:
            t = self.tokens
            lines.append(
                f"tokens: {t['total']:.0f} in all; a sequence {t['mean']:.0f} on average, "
                f"median {t['p50']:.0f}, 95 % have at most {t['p95']:.0f}, longest {t['max']:.0f}"
            )
        if self.supervised_share is not None:
            lines.append(f"supervised: {self.supervised_share:.1%} of the tokens")
        if self.truncated.count:
            lines.append(
                f"cut at max_seq_length: {self.truncated.count} ({self.truncated_share:.1%}), "
                f"which loses {self.truncated_tokens} tokens"
            )
        if self.split.count:
            lines.append(
                f"split by packing: {rows_said(self.split.count)} longer than a block; nothing is "
                "lost, but their later parts are read without what stands before"
            )
        if self.duplicates.count:
            first = ", ".join(self.duplicates.first[:3])
            lines.append(f"exact duplicates, kept: {self.duplicates.count} ({first})")
        if self.silent.count:
            first = ", ".join(self.silent.first[:3])
            lines.append(
                f"rows with an empty answer: {self.silent.count} ({first}); it is masked, since "
                "the model would learn to say nothing"
            )
        if self.chat_template:
            choice = self.chat_template
            lines.append(f"chat template: {choice['name']} ({choice['reason']})")
        lines.extend(f"note: {note}" for note in self.notes)
        return lines

    def refuse_if_too_few(self, where: str, usable: int, min_rows: int) -> None:
        """Stop a run that has nothing to train on, or next to nothing of what it was given.

        Raises:
            DataError: If fewer than ``min_rows`` rows (at least 1) are usable, or fewer than
                `LEAST_SHARE` for reasons that nobody chose; a problem a reason.
        """
        needed = max(min_rows, 1)
        lost = sum(t.count for r, t in self.dropped.items() if r.split(":")[0] not in CHOSEN)
        least = round(LEAST_SHARE * (usable + lost)) if lost >= FEW else 0
        if usable >= max(needed, least):
            return
        read = usable + sum(tally.count for tally in self.dropped.values())
        what = f"{usable} of {read} rows can be used, at least {max(needed, least)} needed"
        reasons = sorted(self.dropped.items(), key=lambda item: -item[1].count)
        fix = "see the reasons below" if reasons else "give more rows"
        raise DataError(Problem(where, what, fix), *reason_problems(reasons))


def rows_said(count: int) -> str:
    """So many rows, in words."""
    return f"{count} {'row' if count == 1 else 'rows'}"


def reason_problems(reasons: Iterable[tuple[str, Tally]]) -> list[Problem]:
    """One problem for each reason, at the first row it hit."""
    return [
        Problem(
            tally.first[0],
            f"{rows_said(tally.count)}: {reason}",
            ADVICE.get(reason.split(":")[0], ""),
        )
        for reason, tally in reasons
    ]


def quantiles(lengths: numpy.ndarray) -> dict[str, float]:
    """``total, mean, p50, p95, max`` of sequence lengths (nearest-rank quantiles).

    Args:
        lengths: In tokens, (N,).
    """
    import numpy as np

    count = len(lengths)
    if not count:
        return {}
    ordered, total = np.sort(lengths), int(lengths.sum(dtype="i8"))
    return {
        "total": total,
        "mean": total / count,
        "p50": int(ordered[(count - 1) // 2]),
        "p95": int(ordered[min(count - 1, int(0.95 * count))]),
        "max": int(ordered[-1]),
    }
