"""Answers side by side, who is asked of them, and the votes: tables beside those of the ratings."""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelforge.errors import DataError, Problem
from modelforge.feedback.store import unusable
from modelforge.feedback.votes import Vote, key_of

LEASE = 600.0  # seconds for which a task is kept for who was asked

_TABLES = """
create table if not exists item (id integer primary key, prompt text not null unique);
create table if not exists answer (
    id integer primary key, item integer not null references item, text text not null,
    unique (item, text)
);
create table if not exists source (
    answer integer not null references answer, model text not null, primary key (answer, model)
);
create table if not exists task (
    id integer primary key, item integer not null references item, answers text not null unique,
    votes integer not null default 0, due real not null default 0
);
create index if not exists task_order on task (votes desc, due desc, id);
create table if not exists annotator (id text primary key, name text not null, at real not null);
create table if not exists vote (
    task integer not null references task, annotator text not null references annotator,
    kind text not null check (kind in ('ranked', 'bad', 'skip')), ranks text not null,
    confidence integer check (confidence between 1 and 3), shown text not null,
    better text, comment text, seconds real, at real not null, primary key (task, annotator)
);
create table if not exists lease (
    annotator text primary key references annotator, task integer not null references task,
    shown text not null, at real not null
);
create index if not exists lease_task on lease (task);
"""

_NEXT = """
select t.id from task t
where t.votes < :overlap
    and not exists (select 1 from vote v where v.task = t.id and v.annotator = :who)
    and t.votes + (
        select count(*) from lease l where l.task = t.id and l.annotator <> :who and l.at > :fresh
    ) < :overlap
order by t.votes desc, t.due desc, t.id limit 1
"""

_VOTES = """
select i.prompt, t.answers, v.annotator, a.name, v.kind, v.ranks, v.confidence, v.shown,
    v.better, v.comment, v.seconds, v.at
from vote v join task t on t.id = v.task join item i on i.id = t.item
join annotator a on a.id = v.annotator order by v.at, v.task, v.annotator
"""


@dataclass(frozen=True)
class Task:
    """Answers that an annotator is asked of.

    Attributes:
        id: Its number.
        prompt: ``messages``, or ``prompt``.
        texts: The answers in the order in which they stand on the page.
        shown: Their numbers within the task, in the same order.
    """

    id: int
    prompt: Mapping[str, Any]
    texts: tuple[str, ...]
    shown: tuple[int, ...]


@dataclass(frozen=True)
class Said:
    """What is said of a task; the fields are those of `Vote`."""

    kind: str
    ranks: tuple[int, ...] = ()
    confidence: int | None = None
    better: str | None = None
    comment: str | None = None
    seconds: float | None = None


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
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = full")
            self._db.executescript(_TABLES)
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
                item = _put_item(db, prompt)
                ids = sorted({_put_answer(db, item, text, m) for m, text in answers.items()})
                groups = [ids] if ranked and len(ids) > 1 else itertools.combinations(ids, 2)
                new += sum(_put_task(db, item, group)[1] for group in groups)
        return new

    def tasks(self) -> list[tuple[int, list[int]]]:
        """Of each task that is not judged enough its number and its answers' numbers."""
        found = self._ask("select id, answers from task where votes < ?", self.overlap)
        return [(task, json.loads(answers)) for task, answers in found]

    def texts(self) -> dict[int, tuple[str, str, tuple[str, ...]]]:
        """Of each answer's number its prompt, its text and its models."""
        names: dict[int, list[str]] = {}
        for answer, model in self._ask("select answer, model from source order by model"):
            names.setdefault(answer, []).append(model)
        query = "select a.id, i.prompt, a.text from answer a join item i on i.id = a.item"
        found = self._ask(query)
        return {a: (prompt, text, tuple(names.get(a, ()))) for a, prompt, text in found}

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
                found = db.execute(_NEXT, asked).fetchone()
                if found is None:
                    return None
                kept = (found[0], json.dumps(_sides(db, found[0], who, now)))
            _lease(db, who, kept[0], kept[1], now)
            return _task(db, kept[0], json.loads(kept[1]))

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
            _put_vote(db, task, who, said, json.loads(shown[0]), time.time())
        return True

    def undo(self, who: str) -> bool:
        """Take the annotator's last vote back, and deal its task again, with the same sides."""
        last = "select task, shown from vote where annotator = ? order by at desc, task limit 1"
        with self._writing() as db:
            found = db.execute(last, (who,)).fetchone()
            if found is None:
                return False
            db.execute("delete from vote where task = ? and annotator = ?", (found[0], who))
            _count(db, found[0])
            _lease(db, who, found[0], found[1], time.time())
        return True

    def keep(self, votes: Iterable[Vote]) -> int:
        """Take in votes of elsewhere; returns how many are new or changed."""
        new = 0
        with self._writing() as db:
            for vote in votes:
                item = _put_item(db, vote.prompt)
                ids = []
                for text, models in zip(vote.answers, vote.models, strict=True):
                    ids.append(_put_answer(db, item, text, *models))
                order = sorted(range(len(ids)), key=lambda i: ids[i])
                task, _ = _put_task(db, item, [ids[i] for i in order])
                db.execute(
                    "insert into annotator values (?, ?, ?) on conflict do update set "
                    "name = excluded.name", (vote.annotator, vote.name, vote.at),
                )  # fmt: skip
                said = Said(vote.kind, tuple(vote.ranks[i] for i in order if vote.ranks),
                            vote.confidence, vote.better, vote.comment, vote.seconds)  # fmt: skip
                place = {old: now for now, old in enumerate(order)}
                shown = [place[i] for i in vote.shown or range(len(ids))]
                new += _put_vote(db, task, vote.annotator, said, shown, vote.at)
        return new

    def votes(self) -> list[Vote]:
        """All votes, in the order in which they came."""
        return _votes(self._ask(_VOTES), self.texts())


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


def _put_item(db: sqlite3.Connection, prompt: Mapping[str, Any]) -> int:
    key = key_of(prompt)
    db.execute("insert or ignore into item (prompt) values (?)", (key,))
    return int(db.execute("select id from item where prompt = ?", (key,)).fetchone()[0])


def _put_answer(db: sqlite3.Connection, item: int, text: str, *models: str) -> int:
    db.execute("insert or ignore into answer (item, text) values (?, ?)", (item, text))
    where = "select id from answer where item = ? and text = ?"
    answer = int(db.execute(where, (item, text)).fetchone()[0])
    rows = [(answer, model) for model in models]
    db.executemany("insert or ignore into source values (?, ?)", rows)
    return answer


def _put_task(db: sqlite3.Connection, item: int, answers: Sequence[int]) -> tuple[int, bool]:
    key = json.dumps(list(answers))
    put = "insert or ignore into task (item, answers) values (?, ?)"
    new = db.execute(put, (item, key)).rowcount > 0
    return int(db.execute("select id from task where answers = ?", (key,)).fetchone()[0]), new


def _put_vote(
    db: sqlite3.Connection, task: int, who: str, said: Said, shown: Sequence[int], at: float
) -> bool:
    row = (task, who, said.kind, json.dumps(list(said.ranks)), said.confidence,
           json.dumps(list(shown)), said.better, said.comment, said.seconds, at)  # fmt: skip
    before = db.execute(
        "select * from vote where task = ? and annotator = ?", (task, who)
    ).fetchone()
    db.execute("insert or replace into vote values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    _count(db, task)
    return before != row


def _count(db: sqlite3.Connection, task: int) -> None:
    db.execute(
        "update task set votes = (select count(*) from vote v where v.task = task.id and "
        "v.kind <> 'skip') where id = ?", (task,),
    )  # fmt: skip


def _lease(db: sqlite3.Connection, who: str, task: int, shown: str, at: float) -> None:
    db.execute("insert or replace into lease values (?, ?, ?, ?)", (who, task, shown, at))


def _task(db: sqlite3.Connection, task: int, shown: list[int]) -> Task:
    query = "select i.prompt, t.answers from task t join item i on i.id = t.item where t.id = ?"
    prompt, answers = db.execute(query, (task,)).fetchone()
    ids = [json.loads(answers)[i] for i in shown]
    texts = [db.execute("select text from answer where id = ?", (i,)).fetchone()[0] for i in ids]
    return Task(task, json.loads(prompt), tuple(texts), tuple(shown))


def _sides(db: sqlite3.Connection, task: int, who: str, now: float) -> list[int]:
    """The order of the answers: by a hash of task and annotator; turned round for every second.

    So each pair is seen both ways, and a liking for one side takes nothing from either answer.
    """
    seen = db.execute(
        "select shown from vote where task = :task and kind <> 'skip' union all select shown from "
        "lease where task = :task and annotator <> :who and at > :fresh and not exists (select 1 "
        "from vote v where v.task = :task and v.annotator = lease.annotator)",
        {"task": task, "who": who, "fresh": now - LEASE},
    ).fetchall()
    if len(seen) % 2:
        return list(reversed(json.loads(seen[-1][0])))
    answers = json.loads(db.execute("select answers from task where id = ?", (task,)).fetchone()[0])

    def drawn(i: int) -> bytes:
        return hashlib.sha256(f"{task}:{who}:{i}".encode()).digest()

    return sorted(range(len(answers)), key=drawn)
