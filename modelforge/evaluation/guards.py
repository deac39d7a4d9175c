"""Rows that go along from run to run: what a parent learned is measured in its children too.

A run leaves some of its held-out rows, in tokens, in ``guards.jsonl``, and with them those that it
took over from the run that it began with. A run that begins with its model measures them before
and after. So sft → dpo → grpo names what dpo lost of sft.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.processes import world_size
from modelforge.common.progress import track
from modelforge.evaluation.items import Answer, sequences
from modelforge.runs import files
from modelforge.runs.folder import RunDir

if TYPE_CHECKING:
    from modelforge.data import Data

COUNT = 64  # rows of a run that go along
LONGEST = 512  # tokens of a row that does
_SHARE = 0.05  # of a run's work, for both looks together
_PASSES = 3  # a training step is a forward pass and a backward pass, which costs two
_BATCH = 8

Guard = Mapping[str, Any]


def of_parent(begin: Path | None) -> list[Guard]:
    """The rows that the run left whose model this one begins with; none without one.

    Args:
        begin: The folder of that model.
    """
    if begin is None or begin.name != files.MODEL:
        return []
    return RunDir(begin.parent).read_lines(files.GUARDS)


def affordable(guards: Sequence[Guard], data: Data, args: Any) -> list[Guard]:
    """Those of the rows that both looks may read for a twentieth of what training costs.

    Args:
        guards: The parent's.
        data: The run's rows.
        args: Its TRL config object.
    """
    tokens = data.ledger.tokens.get("total", 0.0)
    trained = tokens * args.num_train_epochs / world_size()
    if args.max_steps > 0:
        step = args.per_device_train_batch_size * args.gradient_accumulation_steps
        trained = tokens / max(data.ledger.train_rows, 1) * step * args.max_steps
    left, kept = _SHARE * _PASSES * trained / 2, []
    for guard in guards:
        left -= sum(len(side["ids"]) for side in guard["sides"])
        if left < 0:
            break
        kept.append(guard)
    return kept


def left_by(data: Data, name: str, before: Sequence[Guard]) -> list[Guard]:
    """The rows that a run leaves: some of its own that were held out, and those it took over.

    Args:
        data: The run's rows.
        name: Of the run.
        before: What it took over.
    """
    own = [guard for guard in _own(data) if all(len(s["ids"]) <= LONGEST for s in guard["sides"])]
    # In turn, so that what is affordable holds rows of each run.
    mine = [{"of": name, **guard} for guard in own[:COUNT]]
    taken = [guard for guard in before if guard["of"] != name]
    turns: list[Guard] = []
    for i in range(max(len(mine), len(taken), 0)):
        turns += [*mine[i : i + 1], *taken[i : i + 1]]
    return turns


def _own(data: Data) -> Iterator[dict[str, Any]]:
    kind = data.ledger.kind
    if kind not in ("demonstration", "preference"):
        return
    for tokens in data.eval_tokens[: 2 * COUNT]:
        sides = [{"ids": ids, "labels": labels} for ids, labels in sequences(tokens)]
        yield {"kind": kind, "sides": sides}


def looked(model: Any, tokenizer: Any, guards: Sequence[Guard]) -> list[dict[str, Any]]:
    """What a model makes of the rows: of each its figures, and how the row counts.

    Args:
        model: A causal language model, in evaluation mode and without gradients.
        tokenizer: Its tokenizer.
        guards: The rows.
    """
    from modelforge.evaluation.scores import likelihoods

    found: list[dict[str, Any]] = []
    pad, rows = tokenizer.pad_token_id, sorted(guards, key=lambda guard: len(guard["sides"]))
    parts = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
    for part in track(parts, "measuring rows", len(parts), unit="batches"):
        for guard, sides in zip(part, _sides(likelihoods, model, part, pad), strict=True):
            (nats, tokens), *worse = sides
            figures = {"loss": nats / max(tokens, 1), "weight": tokens, "of": guard["of"]}
            if worse:
                gap = worse[0][0] - nats
                figures["accuracy"] = 0.5 if gap == 0 else float(gap > 0)
            finite = all(math.isfinite(v) for v in figures.values() if isinstance(v, float))
            found.append(figures if finite else {"of": guard["of"], "weight": tokens})
    return found


def _sides(
    likelihoods: Any, model: Any, part: Sequence[Guard], pad: int
) -> list[list[tuple[float, int]]]:
    """Of each row what `likelihoods` finds of its sides."""
    flat = [
        (i, Answer(side["ids"], side["labels"], 0, ""))
        for i, guard in enumerate(part)
        for side in guard["sides"]
    ]
    found: list[list[tuple[float, int]]] = [[] for _ in part]
    each = likelihoods(model, [answer for _, answer in flat], pad=pad)
    for (i, _), value in zip(flat, each, strict=True):
        found[i].append(value)
    return found
