"""The tables of answers, tasks, annotators and votes, and what is written in them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelforge.feedback.votes import key_of

LEASE = 600.0  # seconds for which a task is kept for who was asked

TABLES = """
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

NEXT = """
select t.id from task t
where t.votes < :overlap
    and not exists (select 1 from vote v where v.task = t.id and v.annotator = :who)
    and t.votes + (
        select count(*) from lease l where l.task = t.id and l.annotator <> :who and l.at > :fresh
    ) < :overlap
order by t.votes desc, t.due desc, t.id limit 1
"""

VOTES = """
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


def put_item(db: sqlite3.Connection, prompt: Mapping[str, Any]) -> int:
    """A prompt's number; it is new if it was not there."""
    key = key_of(prompt)
    db.execute("insert or ignore into item (prompt) values (?)", (key,))
    return int(db.execute("select id from item where prompt = ?", (key,)).fetchone()[0])


def put_answer(db: sqlite3.Connection, item: int, text: str, *models: str) -> int:
    """An answer's number, and who gave it."""
    db.execute("insert or ignore into answer (item, text) values (?, ?)", (item, text))
    where = "select id from answer where item = ? and text = ?"
    answer = int(db.execute(where, (item, text)).fetchone()[0])
    rows = [(answer, model) for model in models]
    db.executemany("insert or ignore into source values (?, ?)", rows)
    return answer


def put_task(db: sqlite3.Connection, item: int, answers: Sequence[int]) -> tuple[int, bool]:
    """A task's number, and whether it is new."""
    key = json.dumps(list(answers))
    put = "insert or ignore into task (item, answers) values (?, ?)"
    new = db.execute(put, (item, key)).rowcount > 0
    return int(db.execute("select id from task where answers = ?", (key,)).fetchone()[0]), new


def put_vote(
    db: sqlite3.Connection, task: int, who: str, said: Said, shown: Sequence[int], at: float
) -> bool:
    """Keep a vote; returns whether it is new or changed."""
    row = (task, who, said.kind, json.dumps(list(said.ranks)), said.confidence,
           json.dumps(list(shown)), said.better, said.comment, said.seconds, at)  # fmt: skip
    before = db.execute(
        "select * from vote where task = ? and annotator = ?", (task, who)
    ).fetchone()
    db.execute("insert or replace into vote values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    count_votes(db, task)
    return before != row


def count_votes(db: sqlite3.Connection, task: int) -> None:
    """Count the votes on a task anew; a skip is none."""
    db.execute(
        "update task set votes = (select count(*) from vote v where v.task = task.id and "
        "v.kind <> 'skip') where id = ?", (task,),
    )  # fmt: skip


def lease(db: sqlite3.Connection, who: str, task: int, shown: str, at: float) -> None:
    """Keep a task for an annotator, in the place of any other."""
    db.execute("insert or replace into lease values (?, ?, ?, ?)", (who, task, shown, at))


def task_of(db: sqlite3.Connection, task: int, shown: list[int]) -> Task:
    """A task with its texts, in the order in which they stand on the page."""
    query = "select i.prompt, t.answers from task t join item i on i.id = t.item where t.id = ?"
    prompt, answers = db.execute(query, (task,)).fetchone()
    ids = [json.loads(answers)[i] for i in shown]
    texts = [db.execute("select text from answer where id = ?", (i,)).fetchone()[0] for i in ids]
    return Task(task, json.loads(prompt), tuple(texts), tuple(shown))


def sides(db: sqlite3.Connection, task: int, who: str, now: float) -> list[int]:
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
