"""Ratings and better answers in one SQLite file, each on the disk before it is confirmed."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelforge.errors import DataError, Problem

_TABLE = """
create table if not exists feedback (
    answer_id text not null,
    choice integer not null,
    at real not null,
    model text not null,
    prompt text not null,
    answer text not null,
    rating text check (rating in ('up', 'down')),
    better text,
    primary key (answer_id, choice)
)
"""
_COLUMNS = "answer_id, choice, at, model, prompt, answer, rating, better"

_THERE = "select 1 from sqlite_master where name = 'feedback'"

_AGAIN = """
on conflict do update set at = excluded.at, rating = coalesce(excluded.rating, rating),
better = coalesce(excluded.better, better)
"""


@dataclass(frozen=True)
class Given:
    """What was said of one answer.

    Attributes:
        answer_id: As the server called it.
        choice: Which of the answers to one request.
        model: That answered.
        prompt: ``messages`` (and ``tools``) of a chat, or ``prompt``.
        answer: Its text.
        rating: ``up``, ``down`` or None.
        better: What it should have been, or None.
        at: When, in seconds since 1970.
    """

    answer_id: str
    choice: int
    model: str
    prompt: Mapping[str, Any]
    answer: str
    rating: str | None
    better: str | None
    at: float = 0.0


class Store:
    """One file. What `keep` returns from is on the disk.

    Args:
        path: Of the file; it is made where there is none.

    Raises:
        DataError: If it is no such file, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = full")
            self._db.execute(_TABLE)
            self._db.execute(f"select {_COLUMNS} from feedback limit 1")
        except (sqlite3.Error, OSError) as error:
            raise unusable(path, error) from None

    def keep(self, given: Given) -> None:
        """Write it; what was said of the same answer before stays, but for what is said anew.

        Raises:
            DataError: If the disk does not take it; the file is as before.
        """
        row = (
            given.answer_id,
            given.choice,
            time.time(),
            given.model,
            json.dumps(given.prompt, ensure_ascii=False),
            given.answer,
            given.rating,
            given.better,
        )
        said = f"insert into feedback ({_COLUMNS}) values (?,?,?,?,?,?,?,?) {_AGAIN}"
        try:
            with self._lock:
                self._db.execute(said, row)
        except sqlite3.Error as error:
            raise unusable(self.path, error) from None

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._db.close()


def read(path: Path, *, none_is_fine: bool = False) -> Iterator[Given]:
    """The ratings of a file, in the order they came.

    Args:
        path: Of the file.
        none_is_fine: Whether it may hold votes alone.

    Raises:
        DataError: If it is no such file.
    """
    if not path.is_file():
        raise DataError(Problem(str(path), "is not there", "name the file that the server wrote"))
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            if none_is_fine and not db.execute(_THERE).fetchall():
                return
            rows = db.execute(f"select {_COLUMNS} from feedback order by at, answer_id").fetchall()
    except sqlite3.Error as error:
        raise unusable(path, error) from None
    for answer_id, choice, at, model, prompt, answer, rating, better in rows:
        yield Given(answer_id, choice, model, json.loads(prompt), answer, rating, better, at)


def unusable(path: Path, error: Exception) -> DataError:
    """The error that a file holds no feedback, or takes none."""
    fix = "name a file that `modelforge serve` or `modelforge collect` wrote, or a new one"
    return DataError(Problem(str(path), f"cannot hold feedback: {error}", fix))
