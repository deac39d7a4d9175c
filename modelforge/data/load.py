"""Files → clean rows in one normal form and in tokens: `read_rows`, top to bottom.

``dataset`` is a file, a folder, a hub id, or a list of `DatasetSource`. Without weights a list is
joined end to end. With weights (1 where left out) training rows are drawn from part i with
probability weight_i / sum of weights, each part in its own order and again from its beginning where
it runs out, until every row of every part was drawn at least once: the shares hold, and small parts
with large weights are repeated. Evaluation rows are taken out before.

Pairs also serve as demonstrations (their chosen side), and both serve as prompts: a prompt row has
``prompt``, the columns of its file as they are, and the reference in ``answer`` unless the file has
a column of that name. The rows of small files are held in memory (measured: about eight times a
text file's size while loading); see `modelforge.data.large` for the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.garbage import few_collections
from modelforge.data.check import LongRows, Tokenised
from modelforge.data.convert import DataKind, Mode
from modelforge.data.converted import Pair, convert_all
from modelforge.data.encode import Encode, encode_held
from modelforge.data.large import large_rows
from modelforge.data.ledger import Ledger
from modelforge.data.overlap import Named
from modelforge.data.places import Watched
from modelforge.data.rows import Data, Rows
from modelforge.data.sources import Asked, read_parts
from modelforge.data.template import TemplateChoice
from modelforge.data.tokens import How
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


@few_collections()
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
    watched: Watched | None = None,
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
        watched: A row to follow.
        source: What is read: the fields of `modelforge.data.sources.Asked`; None leaves one open.

    Raises:
        DataError: With all problems of the files.
    """
    asked = Asked(**{key: value for key, value in source.items() if value is not None})
    ledger = Ledger(kind, chat_template=described(chat_template), watched=watched)
    mode = Mode(kind, conversational=bool(tokenizer.chat_template))
    how = replace(how or How(), end_ids=end_ids(tokenizer, eos_token_ids))
    parts = read_parts(asked, ledger)
    weights = [part.weight for part in parts.train]
    own = [part.held_out for part in parts.train]
    reason = parts.reason
    encode = Encode(mode, tokenizer, how, system_prompt)
    found: Sequence[Sequence[Tokenised]]
    if parts.large:
        found = large_rows(parts, encode, ledger, asked=repr(asked), processes=processes)
    else:
        made: list[list[Pair]] = convert_all(parts, mode, ledger, tokenizer, list)
        del parts  # from here on the examples are enough
        found = encode_held(made, encode, ledger)
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


def plain_rows(asked: Asked, *, conversational: bool = True) -> list[Named]:
    """The training rows of data sets with their places: prompts with answers, else plain text.

    Args:
        asked: The data sets.
        conversational: Whether prompts are messages, for a chat template, or text.

    Raises:
        DataError: With all problems of the files.
    """
    parts = replace(read_parts(asked, Ledger("prompt")), evaluation=[])
    made: list[list[Pair]]
    try:
        made = convert_all(
            parts, Mode("prompt", conversational=conversational), Ledger("prompt"), None, list
        )
    except DataError:
        mode, ledger = Mode("demonstration", conversational=conversational), Ledger("demonstration")
        made = convert_all(parts, mode, ledger, None, list)
    return [(row.where, example) for rows in made for row, example in rows]


def plain_pairs(asked: Asked) -> list[Named]:
    """The pairs of a data set with their places, in messages.

    Raises:
        DataError: With all problems of the files.
    """
    ledger = Ledger("preference")
    parts = replace(read_parts(asked, ledger), evaluation=[])
    made: list[list[Pair]] = convert_all(
        parts, Mode("preference", conversational=True), ledger, None, list
    )
    return [(row.where, example) for rows in made for row, example in rows]


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
