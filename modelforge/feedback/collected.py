"""Answers side by side, who is asked of them, and the votes: tables beside those of the ratings."""

from __future__ import annotations

import itertools
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from modelforge.errors import DataError, Problem
from modelforge.feedback.store import unusable
from modelforge.feedback.tables import (
    LEASE,
    NEXT,
    TABLES,
    VOTES,
    Said,
    Task,
    count_votes,
    lease,
    put_answer,
    put_item,
    put_task,
    put_vote,
    sides,
    task_of,
)
from modelforge.feedback.votes import Vote

_LAST = "select task, shown from vote where annotator = ? order by at desc, task limit 1"


class Collected:
    """One file. What a method returns from is on the disk.

    Args:
        path: Of the file; it is made where there is none. It may hold ratings too.
        overlap: How many annotators are asked of each task.

    Raises:
        DataError: If it is no such file, or cannot be written.
    """

    def __init__(self, path: Path, *, overlap: int = 2) -> None:
        self.path, self.overlap, self._lock = path, overlap, threading.Lock()
        self._known: tuple[int, dict[int, tuple[str, str, tuple[str, ...]]]] = (-1, {})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = full")
            self._db.executescript(TABLES)
            self._db.execute("select due from task limit 1")
        except (sqlite3.Error, OSError) as error:
            raise unusable(path, error) from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                self._db.execute("begin immediate")
                try:
                    yield self._db
                    self._db.execute("commit")
                except BaseException:
                    if self._db.in_transaction:  # a full disk may have ended it by itself
                        self._db.execute("rollback")
                    raise
        except sqlite3.Error as error:
            raise unusable(self.path, error) from None

    def _ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise unusable(self.path, error) from None

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._db.close()

    # --- answers -------------------------------------------------------------------------------

    def add(
        self, rows: Iterable[tuple[Mapping[str, Any], Mapping[str, str]]], *, ranked: bool = False
    ) -> int:
        """Have answers judged, two by two; what is there already is not added again.

        Args:
            rows: A prompt, and of each model its answer. Equal answers become one.
            ranked: Whether all answers to a prompt are ranked at once.

        Returns:
            How many tasks are new.
        """
        new = 0
        with self._writing() as db:
            for prompt, answers in rows:
                item = put_item(db, prompt)
                ids = sorted({put_answer(db, item, text, m) for m, text in answers.items()})
                groups = [ids] if ranked and len(ids) > 1 else itertools.combinations(ids, 2)
                new += sum(put_task(db, item, group)[1] for group in groups)
        return new

    def tasks(self) -> list[tuple[int, list[int]]]:
        """Of each task that is not judged enough its number and its answers' numbers."""
        found = self._ask("select id, answers from task where votes < ?", self.overlap)
        return [(task, json.loads(answers)) for task, answers in found]

    def texts(self) -> dict[int, tuple[str, str, tuple[str, ...]]]:
        """Of each answer's number its prompt, its text and its models."""
        counted = "select (select count(*) from source) + (select count(*) from answer)"
        count = self._ask(counted)[0][0]
        if count == self._known[0]:  # many answers take a while to read
            return self._known[1]
        names: dict[int, list[str]] = {}
        for answer, model in self._ask("select answer, model from source order by model"):
            names.setdefault(answer, []).append(model)
        query = "select a.id, i.prompt, a.text from answer a join item i on i.id = a.item"
        found = self._ask(query)
        texts = {a: (prompt, text, tuple(names.get(a, ()))) for a, prompt, text in found}
        self._known = count, texts
        return texts

    def prompts(self) -> list[dict[str, Any]]:
        """All prompts, in the order in which they came."""
        return [
            json.loads(prompt) for (prompt,) in self._ask("select prompt from item order by id")
        ]

    def latest(self) -> float:
        """The highest number that `order` has given a task."""
        return float(self._ask("select coalesce(max(due), 0) from task")[0][0])

    def order(self, due: Mapping[int, float]) -> None:
        """Deal the tasks with the highest numbers first."""
        with self._writing() as db:
            rows = [(value, task) for task, value in due.items()]
            db.executemany("update task set due = ? where id = ?", rows)

    # --- annotators ----------------------------------------------------------------------------

    def register(self, name: str) -> str:
        """A new annotator's id, which is not to be guessed."""
        who = str(uuid.uuid4())  # 122 random bits
        with self._writing() as db:
            db.execute("insert into annotator values (?, ?, ?)", (who, name, time.time()))
        return who

    def name(self, who: str) -> str | None:
        """How an annotator is called; None where there is none of that id."""
        found = self._ask("select name from annotator where id = ?", who)
        return found[0][0] if found else None

    def counts(self, who: str) -> tuple[int, int, int]:
        """The annotator's votes, those of all, and how many all tasks take."""
        mine = self._ask("select count(*) from vote where annotator = ?", who)[0][0]
        done, tasks = self._ask("select coalesce(sum(votes), 0), count(*) from task")[0]
        return mine, done, tasks * self.overlap

    def deal(self, who: str) -> Task | None:
        """What this annotator was dealt and has not judged, or the next task; None for none."""
        now = time.time()
        with self._writing() as db:
            kept = db.execute(
                "select task, shown from lease where annotator = ? and not exists (select 1 from "
                "vote v where v.task = lease.task and v.annotator = lease.annotator)", (who,),
            ).fetchone()  # fmt: skip
            if kept is None:
                asked = {"overlap": self.overlap, "who": who, "fresh": now - LEASE}
                found = db.execute(NEXT, asked).fetchone()
                if found is None:
                    return None
                kept = (found[0], json.dumps(sides(db, found[0], who, now)))
            lease(db, who, kept[0], kept[1], now)
            return task_of(db, kept[0], json.loads(kept[1]))

    def asked(self, who: str, task: int) -> Task | None:
        """A task that this annotator has judged before; None if not."""
        query = "select shown from vote where task = ? and annotator = ?"
        with self._writing() as db:
            found = db.execute(query, (task, who)).fetchone()
            return None if found is None else task_of(db, task, json.loads(found[0]))

    def vote(self, who: str, task: int, said: Said) -> bool:
        """Keep what is said of a task; saying it again changes it.

        Returns:
            Whether it was kept: a task that was never dealt to this annotator takes no vote.
        """
        mine = "task = ? and annotator = ?"
        with self._writing() as db:
            shown = db.execute(
                f"select shown from lease where {mine} union all select shown from vote "
                f"where {mine}", (task, who, task, who),
            ).fetchone()  # fmt: skip
            if shown is None:
                return False
            put_vote(db, task, who, said, json.loads(shown[0]), time.time())
            db.execute(f"delete from lease where {mine}", (task, who))
        return True

    def last(self, who: str) -> int | None:
        """The task that the annotator judged last."""
        found = self._ask(_LAST, who)
        return found[0][0] if found else None

    def undo(self, who: str, task: int) -> bool:
        """Take the annotator's last vote back, and deal its task again, with the same sides.

        Args:
            who: The annotator.
            task: The one that was judged last; saying the same undo twice changes nothing.

        Returns:
            Whether it was taken back.
        """
        with self._writing() as db:
            found = db.execute(_LAST, (who,)).fetchone()
            if found is None or found[0] != task:
                return False
            db.execute("delete from vote where task = ? and annotator = ?", (found[0], who))
            count_votes(db, found[0])
            lease(db, who, found[0], found[1], time.time())
        return True

    def keep(self, votes: Iterable[Vote]) -> int:
        """Take in votes of elsewhere; returns how many are new or changed."""
        new = 0
        with self._writing() as db:
            for vote in votes:
                item = put_item(db, vote.prompt)
                ids = []
                for text, models in zip(vote.answers, vote.models, strict=True):
                    ids.append(put_answer(db, item, text, *models))
                order = sorted(range(len(ids)), key=lambda i: ids[i])
                task, _ = put_task(db, item, [ids[i] for i in order])
                db.execute(
                    "insert into annotator values (?, ?, ?) on conflict do update set "
                    "name = excluded.name", (vote.annotator, vote.name, vote.at),
                )  # fmt: skip
                said = Said(vote.kind, tuple(vote.ranks[i] for i in order if vote.ranks),
                            vote.confidence, vote.better, vote.comment, vote.seconds)  # fmt: skip
                place = {old: now for now, old in enumerate(order)}
                shown = [place[i] for i in vote.shown or range(len(ids))]
                new += put_vote(db, task, vote.annotator, said, shown, vote.at)
        return new

    def votes(self) -> list[Vote]:
        """All votes, in the order in which they came."""
        return _votes(self._ask(VOTES), self.texts())


def open_collected(path: Path) -> Collected | None:
    """The file, to be read; None where it holds ratings alone.

    Raises:
        DataError: If it is no such file.
    """
    if not path.is_file():
        fix = "name the file that `modelforge collect` or `modelforge serve` wrote"
        raise DataError(Problem(str(path), "is not there", fix))
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            tables = {name for (name,) in db.execute("select name from sqlite_master")}
    except sqlite3.Error as error:
        raise unusable(path, error) from None
    return Collected(path) if "vote" in tables else None


def _votes(
    rows: Sequence[tuple[Any, ...]], texts: Mapping[int, tuple[str, str, tuple[str, ...]]]
) -> list[Vote]:
    found = []
    for prompt, answers, annotator, name, kind, ranks, confidence, shown, *rest in rows:
        ids = json.loads(answers)
        found.append(
            Vote(
                json.loads(prompt),
                tuple(texts[i][1] for i in ids),
                tuple(texts[i][2] for i in ids),
                annotator,
                name,
                kind,
                tuple(json.loads(ranks)),
                confidence,
                tuple(json.loads(shown)),
                *rest,
            )
        )
    return found
