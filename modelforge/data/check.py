"""Checks on examples in tokens, before any model is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from modelforge.common.progress import track
from modelforge.data.convert import DataKind, Example
from modelforge.data.encoded import Encoded, pairwise
from modelforge.data.ledger import FIRST, Ledger, quantiles
from modelforge.data.left_out import LeftOut, refusal
from modelforge.data.overlap import keys_of
from modelforge.data.read import Row
from modelforge.data.render import RenderError
from modelforge.data.rendered import Rendered, differs_in_blanks_alone
from modelforge.data.spool import in_batches
from modelforge.data.tokens import How, encode
from modelforge.errors import DataError, Problem

if TYPE_CHECKING:
    import numpy
    from transformers import PreTrainedTokenizerBase

    Kept = numpy.ndarray[Any, Any]

# What becomes of rows over the limit: DPO's collator and SFT cut them, RewardTrainer drops them,
# packing may split them into several blocks.
LongRows = Literal["cut", "drop", "split"]
TOKENISED_ELSEWHERE = (
    "no row of `input_ids` ends with a token that stops generation (ids {}): see that they are of "
    "this model's tokenizer, and that answers end with such a token if the model is to stop"
)
LOOKED_AT = 1000  # rows that tell what ends a reply
REASON_LENGTH = 120  # characters of a template's own message in a reason


@dataclass(slots=True)
class Tokenised:
    """A row in tokens, uncut, with what no limit changes.

    Attributes:
        row: Where it came from.
        example: In normal form.
        encoded: In tokens, or why the chat template refuses it.
        ends: Whether its last supervised token ends a reply; None for a prompt.
        double_bos: Whether it begins with two BOS tokens.
        closed: Whether it is a prompt that ends like a reply.
        flaw: Why it teaches nothing at any length, or None.
        silent: How many empty answers of it are masked.
        blanks_alone: Whether the sides of the pair differ in white space alone.
        asked, said: Fingerprints of what it asks and of all that it says (see `keys_of`).
    """

    row: Row
    example: Example
    encoded: Encoded | RenderError
    ends: bool | None = None
    double_bos: bool = False
    closed: bool = False
    flaw: str | None = None
    silent: int = 0
    blanks_alone: bool = False
    asked: int = 0
    said: int = 0

    @property
    def where(self) -> str:
        """Its place, ``file:line``."""
        return self.row.where


# What is known of a row that can be trained on, in the columns of an array: its part and place
# among the rows that were read, the tokens of each of its sequences as trained on, those that the
# loss is taken on, those beyond the limit, whether its last supervised token ends a reply (-1 where
# that cannot be told), a fingerprint of its content, and one of what it asks.
KEPT = [
    *(("part", "i4"), ("at", "i8"), ("first", "i4"), ("second", "i4"), ("supervised", "i4")),
    *(("beyond", "i4"), ("ends", "i1"), ("content", "u8"), ("asked", "u8")),
]


@dataclass(frozen=True)
class Limits:
    """What the checks hold rows against.

    Attributes:
        kind: The data kind.
        max_length: Tokens a sequence may have; None: any number.
        long_rows: What becomes of longer rows.
        end_ids: Token ids that end a reply.
    """

    kind: DataKind
    max_length: int | None
    long_rows: LongRows
    end_ids: frozenset[int]

    @property
    def keeps(self) -> int | None:
        """How many tokens of a sequence are trained on; None: all of them."""
        return None if self.long_rows == "split" else self.max_length


def tokenise(
    made: Sequence[tuple[Row, Example]],
    kind: DataKind,
    *,
    tokenizer: PreTrainedTokenizerBase,
    how: How,
    shown: bool = True,
) -> list[Tokenised]:
    """Encode all rows; nothing encodes them again.

    Args:
        made: Rows and their examples.
        kind: The data kind.
        tokenizer: With its chat template.
        how: What of them is trained on.
        shown: Whether progress is.

    Raises:
        DataError: If the chat template has no place for what a row holds.
    """
    bos = tokenizer.bos_token_id
    blank: dict[int, bool] = {}
    rendered = Rendered(tokenizer, kind)
    rows: list[Tokenised] = []
    encoded = encode([example for _, example in made], kind=kind, tokenizer=tokenizer, how=how)
    pairs = zip(made, encoded, strict=True)
    for (row, example), found in track(pairs, "tokenising", len(made)) if shown else pairs:
        if isinstance(found, LeftOut):
            raise refusal(found, row.where)
        tokenised = Tokenised(row, example, found)
        if isinstance(found, Encoded):
            tokenised.asked, tokenised.said = keys_of(example)
            tokenised.silent = rendered.mask_silence(found)
            tokenised.flaw = rendered.flaw(found, example)
            if kind == "preference":
                tokenised.blanks_alone = differs_in_blanks_alone(example)
            if kind == "prompt":
                tokenised.closed = ends_reply(reversed(found.ids[0]), how.end_ids, tokenizer, blank)
            else:
                tokenised.ends = ends_reply(backwards(found), how.end_ids, tokenizer, blank)
            ids = found.ids[0]
            if bos is not None and len(ids) > 1:
                tokenised.double_bos = ids[0] == bos == ids[1]
        rows.append(tokenised)
    return rows


def check(rows: Sequence[Tokenised], part: int, limits: Limits, ledger: Ledger) -> Kept:
    """Keep the rows that can be trained on, account for the others.

    Args:
        rows: Of one part.
        part: Its number.
        limits: What rows are held against.
        ledger: Is told of it.

    Returns:
        The rows to train on, with the columns of `KEPT`.
    """
    import numpy as np

    kept: list[Kept] = []
    by_path = {source["path"]: source for source in ledger.sources}
    for batch in in_batches(enumerate(track(rows, "checking", len(rows)))):
        figures: list[tuple[int, ...]] = []
        for at, item in batch:
            found = item.encoded
            reason = item.flaw or why_not(found, limits)
            if reason is not None or isinstance(found, RenderError):
                ledger.drop(str(reason), item.row.where)
                continue
            by_path[item.row.path]["kept"] += 1
            figures.append((part, at, *measured(item, found, limits, ledger)))
            tell(item, found, ledger)
        kept.append(np.array(figures, KEPT))
    return np.concatenate(kept) if kept else np.empty(0, KEPT)


def joined(parts: Sequence[Kept]) -> Kept:
    """The rows of all parts; of one part itself, since a copy of many rows is large."""
    import numpy as np

    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def tell(item: Tokenised, found: Encoded, ledger: Ledger) -> None:
    """Count what is to be said of a row that is kept."""
    for finding in found.findings:
        ledger.find(finding, item.row.where)
    ledger.double_bos += item.double_bos
    ledger.closed_prompts += item.closed
    if item.silent:
        ledger.silent.add(item.row.where)
    if item.blanks_alone:
        ledger.blanks_alone.add(item.row.where)


def why_not(found: Encoded | RenderError, limits: Limits) -> str | None:
    """The reason to leave a row out, or None."""
    if isinstance(found, RenderError):
        return found.reason[:REASON_LENGTH]
    limit = limits.keeps
    if limits.kind == "demonstration":
        if not found.supervised():
            return "no supervised token"
        return None if found.supervised(limit) else "prompt fills max_seq_length"
    if limits.kind != "prompt" and any(len(ids) == found.start for ids in found.ids):
        return "no supervised token"
    if limit is None:
        return None
    if limits.kind == "prompt":
        return "prompt is too long" if found.start > limit else None
    if limits.long_rows == "drop" and any(len(ids) > limit for ids in found.ids):
        return "longer than max_seq_length"
    if found.start >= limit:
        return "prompt fills max_seq_length"
    cut = [ids[:limit] for ids in found.ids]
    return "equal once cut" if len(cut) == 2 and cut[0] == cut[1] else None


def measured(
    item: Tokenised, found: Encoded, limits: Limits, ledger: Ledger
) -> tuple[int, int, int, int, int, int, int]:
    """The figures of one good row, as `KEPT` has them; a cut or a split is counted."""
    limit, whole = limits.keeps, sum(map(len, found.ids))
    lengths = [len(ids[:limit]) for ids in found.ids]
    supervised = found.supervised(limit)
    if limits.kind in ("preference", "labelled"):
        supervised = sum(lengths) - len(lengths) * found.start
    beyond = sum(max(0, len(ids) - (limits.max_length or whole)) for ids in found.ids)
    ends = None if beyond and limit is not None else item.ends
    if beyond and limits.long_rows == "split":
        ledger.split.add(item.row.where)
    elif beyond:
        ledger.truncated.add(item.row.where)
        ledger.truncated_tokens += beyond
    first, second = (*lengths, 0)[:2]
    content = content_key(item, found, limits)
    told = -1 if ends is None else int(ends)
    return first, second, supervised, beyond, told, content, item.asked


def backwards(found: Encoded) -> Iterator[int]:
    """The supervised tokens of a demonstration, or of a pair's chosen side, the last first."""
    ids = found.ids[0]
    spans = [(found.start, len(ids))] if found.spans is None else list(pairwise(found.spans))
    for begin, end in reversed(spans):
        for at in range(end - 1, begin - 1, -1):
            yield ids[at]


def ends_reply(
    backwards: Iterable[int],
    end_ids: Collection[int],
    tokenizer: PreTrainedTokenizerBase,
    blank: dict[int, bool],
) -> bool:
    """Whether the last token, white space after it aside, is one that ends a reply.

    Args:
        backwards: The supervised tokens from the last to the first.
        end_ids: Those that end a reply.
        tokenizer: To see which are white space.
        blank: What is known of that already.
    """
    for token in backwards:
        if token in end_ids:
            return True
        if token not in blank:
            blank[token] = not str(tokenizer.decode([token])).strip()
        if not blank[token]:
            return False
    return False


def account(
    kept: Kept,
    parts: Sequence[Sequence[Tokenised]],
    ledger: Ledger,
    limits: Limits,
    *,
    decode: Callable[[Sequence[int]], str],
) -> None:
    """Fill the ledger's counts over the kept rows of all files.

    Args:
        kept: The rows.
        parts: All that were read.
        ledger: Filled in place.
        limits: What they were held against.
        decode: Gives the text of tokens.

    Raises:
        DataError: If no uncut demonstration teaches the model to stop.
    """
    import numpy as np

    ledger.kept = len(kept)
    _, first = np.unique(kept["content"], return_index=True)
    again = np.ones(len(kept), bool)
    again[first] = False
    for row in kept[again][:FIRST]:
        ledger.duplicates.add(parts[row["part"]][int(row["at"])].row.where)
    ledger.duplicates.count = int(again.sum())
    if len(kept):
        ledger.truncated_share = ledger.truncated.count / len(kept)
    ends = kept["ends"][kept["ends"] >= 0]
    if not len(ends):
        return
    ledger.eos_supervised_share = int(ends.sum()) / len(ends)
    if limits.kind == "demonstration" and not ends.any():
        name = ledger.chat_template.get("name", "of the tokenizer")
        what = (
            f"under the chat template '{name}' no reply ends with a token that stops "
            f"generation (ids {sorted(limits.end_ids)}): the model would never learn to stop"
        )
        whole = kept[kept["ends"] >= 0][["part", "at"]][:LOOKED_AT]
        if all("input_ids" in parts[part][at].example for part, at in whole.tolist()):
            ledger.warnings.append(TOKENISED_ELSEWHERE.format(sorted(limits.end_ids)))
            return
        closing = {closes(parts[part][at], decode) for part, at in whole.tolist()}
        mark = closing.pop() if len(closing) == 1 else ""
        token = f"'{mark}', which ends each reply here" if mark[:1] in tuple("<[") else ""
        fix = f"set eos_token to {token or 'the token that closes a turn under this template'}; "
        fix += "or use a template that closes turns with eos_token inside the marked part"
        raise DataError(Problem("chat_template", what, fix))


def closes(item: Tokenised, decode: Callable[[Sequence[int]], str]) -> str:
    """The last token of a demonstration that is trained on, white space aside."""
    assert isinstance(item.encoded, Encoded), "it was kept"
    (ids,) = item.encoded.ids
    end = item.encoded.spans[-1] if item.encoded.spans else 0
    return next((text for i in range(end - 1, -1, -1) if (text := decode([ids[i]]).strip())), "")


def hold_out(
    evaluation: Kept,
    parts: Sequence[Sequence[Tokenised]],
    limits: Limits,
    trained: Limits,
    ledger: Ledger,
) -> Kept:
    """The held-out rows at limits of their own, where those differ from the training rows'."""
    import numpy as np

    if limits == trained:
        return evaluation
    kept: list[tuple[int, ...]] = []
    for part, at in evaluation[["part", "at"]].tolist():
        item = parts[part][at]
        found = item.encoded
        assert isinstance(found, Encoded), "it was kept"
        reason = why_not(found, limits)
        if reason is None:
            kept.append((part, at, *measured(item, found, limits, ledger)))
        else:
            ledger.kept -= 1
            ledger.drop(reason, item.row.where)
    return np.array(kept, KEPT)


def account_training(epoch: Kept, evaluation: Kept, ledger: Ledger) -> None:
    """Fill what concerns an epoch, and how many rows are held out."""
    import numpy as np

    lengths = epoch["first"]
    if ledger.kind == "preference":
        lengths = np.stack([epoch["first"], epoch["second"]], axis=1).ravel()
    ledger.tokens = quantiles(lengths)
    ledger.train_rows = len(epoch)
    ledger.eval_rows = len(evaluation)
    if ledger.kind != "prompt" and len(lengths):
        ledger.supervised_share = int(epoch["supervised"].sum(dtype="i8")) / int(
            lengths.sum(dtype="i8")
        )


def content_key(item: Tokenised, found: Encoded, limits: Limits) -> int:
    """A fingerprint of a row as it is trained on: its tokens, cut, and what goes with them."""
    digest = hashlib.blake2b(digest_size=8)
    for ids in found.ids:
        digest.update(ids[: limits.keeps].tobytes() + b"|")
    if limits.kind != "demonstration":
        rest = [item.example.get(name) for name in ("answer", "margin", "label")]
        digest.update(json.dumps(rest).encode())
    return int.from_bytes(digest.digest())
