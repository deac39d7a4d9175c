"""Examples → tokens: all at once where they are held, batch by batch in processes where not."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from modelforge.common.garbage import GARBAGE
from modelforge.common.progress import Task
from modelforge.data.check import Tokenised, tokenise
from modelforge.data.convert import Mode
from modelforge.data.ledger import Ledger, Tally
from modelforge.data.settle import Pair, Settled, settled, tell_bos
from modelforge.data.spool import Spool
from modelforge.data.store import Store, as_bytes, from_bytes, packed, store
from modelforge.data.tokens import How
from modelforge.errors import DataError, Problem, RunError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AHEAD = 4  # batches a process that may wait to be written


@dataclass(frozen=True)
class Encode:
    """What examples become tokens with.

    Attributes:
        mode: What is made.
        tokenizer: With its chat template.
        how: What of a row is trained on.
        system: The system message of conversations without one.
    """

    mode: Mode
    tokenizer: PreTrainedTokenizerBase
    how: How
    system: str | None

    def tokens(self, pairs: Sequence[Pair], *, shown: bool = True) -> list[Tokenised]:
        """Settled examples in tokens."""
        return tokenise(pairs, self.mode.kind, tokenizer=self.tokenizer, how=self.how, shown=shown)

    def rules(self, pairs: Iterator[Pair], ledger: Ledger) -> Settled:
        """What is done to each of all examples before."""
        return settled(pairs, ledger, system=self.system, tokenizer=self.tokenizer)


def encode_held(
    made: Sequence[list[Pair]], encode: Encode, ledger: Ledger
) -> list[list[Tokenised]]:
    """The examples of each part in tokens.

    Raises:
        DataError: If they do not go together, or the chat template has no place for something.
    """
    rules = encode.rules((pair for pairs in made for pair in pairs), ledger)
    doubled = sum(rules.settle(pairs, ledger.placeholders) for pairs in made)
    tell_bos(doubled, encode.tokenizer, ledger)
    return [encode.tokens(pairs) for pairs in made]


@dataclass(frozen=True)
class Work:
    """What a process that encodes is given.

    Attributes:
        spool: The examples.
        rules: What is done to each.
        encode: What makes them tokens.
    """

    spool: Spool[Pair]
    rules: Settled
    encode: Encode

    def batch(self, number: int) -> Done:
        """One batch in tokens."""
        pairs, placeholders = self.spool.batch(number), Tally()
        try:
            doubled = self.rules.settle(pairs, placeholders)
            rows = self.encode.tokens(pairs, shown=False)
        except DataError as error:
            return Done(b"", len(pairs), placeholders, 0, error.problems)
        return Done(as_bytes(packed(rows)), len(pairs), placeholders, doubled, ())


@dataclass(frozen=True)
class Done:
    """A batch in tokens, as it comes back from a process.

    Attributes:
        rows: As Arrow has them.
        count: How many.
        placeholders: Rows with a placeholder.
        doubled: In how many a BOS was taken off.
        problems: Why they cannot be trained on.
    """

    rows: bytes
    count: int
    placeholders: Tally
    doubled: int
    problems: Sequence[Any]


def encode_spooled(
    made: Sequence[Spool[Pair]], folder: Path, encode: Encode, ledger: Ledger, *, processes: int
) -> list[Store]:
    """As `encode_held`, for examples in files, whose tokens go into files too.

    Args:
        made: The examples, which are removed.
        folder: Where the tokens go, a file a part: ``0.arrow``, ….
        encode: What makes them tokens.
        ledger: Is told of it.
        processes: How many work at it.
    """
    rules = encode.rules((pair for pairs in made for pair in pairs), ledger)
    task = Task("tokenising", sum(map(len, made)))
    doubled = 0

    def batches(spool: Spool[Pair]) -> Iterator[Any]:
        nonlocal doubled
        for done in worked(Work(spool, rules, encode), processes):
            if done.problems:
                raise DataError(*done.problems)
            for where in done.placeholders.first:
                ledger.placeholders.add(where)
            ledger.placeholders.count += done.placeholders.count - len(done.placeholders.first)
            doubled += done.doubled
            task.advance(done.count)
            yield from_bytes(done.rows)

    stores = []
    try:
        for number, spool in enumerate(made):
            stores.append(store(folder / f"{number}.arrow", batches(spool)))
            spool.remove()
    finally:
        task.close()
    tell_bos(doubled, encode.tokenizer, ledger)
    return stores


_work: Work | None = None  # of a process that was forked for it


def worked(work: Work, processes: int) -> Iterator[Done]:
    """All batches in order, made by so many processes.

    Raises:
        RunError: If one of the processes was killed.
    """
    global _work
    count = work.spool.batches
    # Elsewhere a process begins with importing everything anew, and cannot be given the tokenizer.
    if min(processes, count) < 2 or sys.platform != "linux":
        yield from map(work.batch, range(count))
        return
    _work = work
    gc.freeze()  # what is here already is no garbage of theirs, and its pages stay shared
    try:
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(min(processes, count), fork, _begin) as pool:
            yield from in_turn(pool, count, AHEAD * processes)
    except BrokenProcessPool:
        what = "one of its processes was killed; the system does so where memory runs out"
        fix = "free some memory, or set dataset_num_proc to 1"
        raise RunError(Problem("tokenising", what, fix)) from None
    finally:
        gc.unfreeze()
        _work = None


def in_turn(pool: ProcessPoolExecutor, count: int, ahead: int) -> Iterator[Done]:
    """All batches in order, no more of them ahead than memory should hold."""
    waiting: deque[Future[Done]] = deque()
    for number in range(count):
        waiting.append(pool.submit(_batch, number))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _begin() -> None:
    # The processes share the CPUs already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gc.set_threshold(GARBAGE)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Leave nothing behind where the run is killed: a process of the pool would wait for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)


def _batch(number: int) -> Done:
    assert _work is not None, "it was forked with it"
    return _work.batch(number)
