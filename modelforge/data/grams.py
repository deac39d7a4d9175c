"""Rows that share a run of words: the widest net for held-out rows that were trained on.

A run is `WORDS` words, without case and punctuation; where no blanks part the words of a script,
each of its characters counts as one. What many rows of a set say is a template's, and no run of
theirs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

WORDS = 8  # in a row
_TEMPLATE = 0.05  # the share of rows beyond which a run is a template's
_LEAST = 2  # rows that may share a run however few there are
# Thai and Lao, Burmese, Japanese and Chinese.
_ALONE = r"\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")
_FACTOR = 0x9E3779B97F4A7C15


class Grams:
    """Looks for rows that share `WORDS` words in a row with one of those wanted.

    Args:
        wanted: Texts, without case; held in memory.
    """

    def __init__(self, wanted: Sequence[str]) -> None:
        import numpy as np

        split = [_WORD.findall(text) for text in wanted]
        self._numbers: dict[str, int] = {}
        for words in split:
            for word in words:
                self._numbers.setdefault(word, len(self._numbers) + 1)
        runs, rows, starts = self._runs(split)
        self._rows = _by_run(runs, rows)
        most = _most(len(wanted))
        template = np.array([len(self._rows[run]) > most for run in runs.tolist()], bool)
        # What a template says, and its last words with the next one, which may be any.
        covered = np.zeros(sum(len(words) + 1 for words in split) + WORDS, bool)
        for i in range(WORDS):
            covered[starts[template] + i] = True
        share = np.convolve(covered, np.ones(WORDS), "valid")[starts] / WORDS
        keep = ~template & (share <= 0.5)
        self._rows = _by_run(runs[keep], rows[keep])
        self._known = np.array(sorted(self._rows), np.uint64)
        self._first: dict[int, str] = {}
        self._often = np.zeros(len(self._known), np.int64)
        self._seen = 0

    def look(self, texts: Sequence[str], places: Sequence[str]) -> None:
        """Compare texts with all that are wanted.

        Args:
            texts: Without case.
            places: Where each stands.
        """
        import numpy as np

        self._seen += len(texts)
        if not len(self._known):
            return
        runs, rows, _ = self._runs([_WORD.findall(text) for text in texts])
        at = np.minimum(np.searchsorted(self._known, runs), len(self._known) - 1)
        hits = self._known[at] == runs
        if not hits.any():
            return
        at, rows = np.unique(np.stack([at[hits], rows[hits]]), axis=1)
        np.add.at(self._often, at, 1)
        for one, row in zip(at.tolist(), rows.tolist(), strict=True):
            self._first.setdefault(one, places[row])

    def found(self) -> dict[int, str]:
        """The number of a wanted row → the place of the first other that shares a run with it."""
        most, told = _most(self._seen), dict[int, str]()
        for at, place in self._first.items():
            if self._often[at] <= most:
                for row in self._rows[int(self._known[at])]:
                    told.setdefault(row, place)
        return told

    def _runs(
        self, split: Sequence[Sequence[str]]
    ) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        """Of each run of words that all stand in a wanted row: its hash, its text, its place.

        The place is among the words of all texts, each text with one more behind it.
        """
        import numpy as np

        # A 0 parts the texts, and stands for a word that no wanted row has.
        get = self._numbers.get
        ids = np.array([get(word, 0) for words in split for word in (*words, "")], np.uint64)
        sizes = np.array([len(words) + 1 for words in split], np.int64)
        texts = np.repeat(np.arange(len(split)), sizes)
        count = max(len(ids) - WORDS + 1, 0)
        mixed, whole = np.zeros(count, np.uint64), np.ones(count, bool)
        for i in range(WORDS):
            part = ids[i : i + count]
            mixed = (mixed ^ part) * np.uint64(_FACTOR)
            mixed ^= mixed >> np.uint64(29)
            whole &= part > 0
        return mixed[whole], texts[:count][whole], np.flatnonzero(whole)


def _by_run(runs: numpy.ndarray, rows: numpy.ndarray) -> dict[int, list[int]]:
    """The texts that have each run."""
    found: dict[int, list[int]] = {}
    for run, row in zip(runs.tolist(), rows.tolist(), strict=True):
        here = found.setdefault(run, [])
        if not here or here[-1] != row:
            here.append(row)
    return found


def _most(rows: int) -> int:
    """In how many of so many rows a run may stand that is no template's."""
    return max(_LEAST, int(_TEMPLATE * rows))
