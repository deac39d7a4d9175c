"""Files → clean rows in one normal form and in tokens: `read_rows`, top to bottom.

``dataset`` is a file, a folder, a hub id, or a list of `DatasetSource`. Without weights a list is
joined end to end. With weights (1 where left out) training rows are drawn from part i with
probability weight_i / sum of weights, each part in its own order and again from its beginning where
it runs out, until every row of every part was drawn at least once: the shares hold, and small parts
with large weights are repeated. Evaluation rows are taken out before.

Pairs also serve as demonstrations (their chosen side), and both serve as prompts: a prompt row has
``prompt``, the columns of its file as they are, and the reference in ``answer`` unless the file has
a column of that name. All rows are held in memory (measured: about eight times a text file's size
while loading); there is no streaming.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.progress import track
from modelforge.data.beside import beside, same_weights
from modelforge.data.check import LongRows, tokenise
from modelforge.data.convert import DataKind, Example, Mode
from modelforge.data.dialogue import Message, Skip
from modelforge.data.exports import plain
from modelforge.data.labels import parted
from modelforge.data.ledger import Ledger
from modelforge.data.read import Row, Table
from modelforge.data.recognise import recognise, rename
from modelforge.data.rows import Data, Rows
from modelforge.data.sources import Asked, Parts, read_parts
from modelforge.data.special import segments_to_tokens, without_bos
from modelforge.data.template import TemplateChoice
from modelforge.data.tokens import How
from modelforge.data.unused import count, refuse
from modelforge.errors import DataError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_data(*, max_length: int | None, long_rows: LongRows = "cut", **source: Any) -> Data:
    """Read data and hold it against one length: `read_rows` and `Rows.within` in one.

    Args:
        max_length: Tokens a row may have; None: any number.
        long_rows: What becomes of longer rows.
        source: What `read_rows` takes.

    Raises:
        DataError: With all problems of the files; or if too few rows can be used.
    """
    return read_rows(**source).within(max_length, long_rows=long_rows)


PLACEHOLDER = re.compile(r"\{\{\s*[A-Za-z_][\w .-]*\}\}")


def read_rows(
    *,
    kind: DataKind,
    tokenizer: PreTrainedTokenizerBase,
    system_prompt: str | None = None,
    min_rows: int = 1,
    eos_token_ids: Collection[int] = (),
    chat_template: TemplateChoice | None = None,
    how: How | None = None,
    processes: int | None = None,
    **source: Any,
) -> Rows:
    """Read, recognise, normalise and tokenise data, each row once; needs no model.

    Args:
        kind: ``demonstration``, ``preference``, ``labelled`` or ``prompt``.
        tokenizer: With the chat template set; without one only raw text can be trained on.
        system_prompt: The system message of rows that have none.
        min_rows: Fewer training rows than this are refused.
        eos_token_ids: Ids that end a reply beside the tokenizer's own.
        chat_template: For the ledger.
        how: How rows are rendered, and what of them is trained on.
        processes: How many encode large data; None: one for each CPU, at most four.
        source: What is read: the fields of `modelforge.data.sources.Asked`; None leaves one open.

    Raises:
        DataError: With all problems of the files.
    """
    asked = Asked(**{key: value for key, value in source.items() if value is not None})
    ledger = Ledger(kind, chat_template=described(chat_template))
    mode = Mode(kind, conversational=bool(tokenizer.chat_template))
    how = replace(how or How(), end_ids=end_ids(tokenizer, eos_token_ids))
    parts = read_parts(asked, ledger)
    weights = [part.weight for part in parts.train]
    own = [part.held_out for part in parts.train]
    reason = parts.reason
    encode = Encode(kind, tokenizer, how, processes, ledger)
    if parts.large:
        found = large_rows(parts, mode, system_prompt, encode, str(asked))
    else:
        found = few_rows(parts, mode, system_prompt, encode)
    return Rows(
        parts=found,
        weights=weights,
        own=own,
        eval_split=asked.eval_split,
        held_out=reason,
        decode=lambda ids: str(tokenizer.decode(list(ids))),
        seed=asked.seed,
        min_rows=min_rows,
        end_ids=how.end_ids,
        name=str(asked.dataset) if isinstance(asked.dataset, str | Path) else "dataset",
        reading=ledger,
        template_kwargs=how.template_kwargs,
    )


def described(choice: TemplateChoice | None) -> dict[str, str]:
    """A template choice for the ledger."""
    return {} if choice is None else {"name": choice.name, "reason": choice.reason}


def end_ids(tokenizer: PreTrainedTokenizerBase, extra: Collection[int]) -> frozenset[int]:
    """The token ids that end a reply.

    Raises:
        DataError: If raw text cannot be closed because the tokenizer has no EOS.
    """
    if tokenizer.eos_token_id is not None:
        return frozenset((tokenizer.eos_token_id, *extra))
    if not tokenizer.chat_template:
        what = "the tokenizer has no end-of-sequence token to close raw text with"
        raise DataError(Problem("tokenizer", what, "set eos_token in tokenizer_config.json"))
    return frozenset(extra)
