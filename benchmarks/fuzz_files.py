"""Random data files for `fuzz.py`: rows of every known format, spoilt as rows and as bytes."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

Row = dict[str, Any]

WORDS = [
    *("one", "two", "three", "plus", "is", "it", "the", "answer", "yes", "no", "####", "5"),
    *("😀", "é", "中文", "”", "\u2028", "Human:", "Assistant:"),
]
NASTY: list[Any] = [
    None, True, 0, -1, 1.5, 1e308, float("nan"), float("inf"), 10**400, "", " ", "\n", "0", "null",
    "\ud800", "a\0b", "\u202e", "\x1b[31m", "<|im_start|>", "</s>", "{{ 7*7 }}", "=cmd|' /C'!A0",
    [], {}, [[]], [None], [""], {"role": "user"}, [{"role": "user", "content": "x"}],
    [{"role": "assistant", "content": None}], [{"from": "human", "value": "x"}], [{"role": 1}],
    [{"role": "user", "content": [{"type": "text", "text": "x"}]}], {"content": "x"}, "[1, 2]",
    '[{"role": "user", "content": "x"}]', "\n\nHuman: a\n\nAssistant: b", "\n\nHuman:", ["a", "b"],
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A data file: its name, its bytes, and the ``columns`` that go with it."""

    name: str
    content: bytes
    columns: dict[str, str]
    kind: str


def say(random: Random) -> str:
    """A few words."""
    return " ".join(random.choices(WORDS, k=random.randrange(1, 12)))


def turns(random: Random, role: str, content: str, names: tuple[str, str]) -> list[Row]:
    """A conversation in one of the spellings."""
    return [
        {role: names[i % 2], content: say(random)} for i in range(random.choice((1, 2, 2, 3, 4)))
    ]


FORMATS = {
    "completion": lambda r: {"prompt": say(r), "completion": say(r)},
    "alpaca": lambda r: {"instruction": say(r), "input": say(r), "output": say(r)},
    "messages": lambda r: {"messages": turns(r, "role", "content", ("user", "assistant"))},
    "sharegpt": lambda r: {"conversations": turns(r, "from", "value", ("human", "gpt"))},
    "text": lambda r: {"text": say(r)},
    "qa": lambda r: {"context": say(r), "question": say(r), "answer": say(r)},
    "pair": lambda r: {"prompt": say(r), "chosen": say(r), "rejected": say(r)},
    "implicit": lambda r: {
        "chosen": f"\n\nHuman: {(q := say(r))}\n\nAssistant: {say(r)}",
        "rejected": f"\n\nHuman: {q}\n\nAssistant: {say(r)}",
    },
    "pair of messages": lambda r: {
        "prompt": turns(r, "role", "content", ("user", "assistant")),
        "chosen": [{"role": "assistant", "content": say(r)}],
        "rejected": [{"role": "assistant", "content": say(r)}],
    },
    "compared": lambda r: {
        "prompt": say(r),
        "response_a": say(r),
        "response_b": say(r),
        "preference": r.choice(["a", "b", 1, -1, 0, "tie", None]),
    },
    "labelled": lambda r: {"prompt": "x", "completion": say(r), "label": r.random() < 0.5},
    "scored": lambda r: {"prompt": "x", "response": say(r), "score": r.randrange(5)},
    "score lists": lambda r: {
        "prompt": say(r),
        "responses": [say(r), say(r)],
        "scores": [r.random(), r.random()],
    },
    "best and wrong": lambda r: {
        "question": say(r),
        "best_answer": say(r),
        "incorrect_answers": [say(r)],
    },
    "stray": lambda r: {"colour": say(r), "size": r.random()},
}


KINDS = ("demonstration", "preference", "prompt")
COMPARED = ("pair", "implicit", "pair of messages", "compared", "labelled", "scored", "score lists",
            "best and wrong")  # fmt: skip


def kind_of(random: Random, form: str) -> str:
    """What the rows are to serve: what they can, mostly."""
    fitting = "preference" if form in COMPARED else "demonstration"
    return random.choice((fitting, fitting, fitting, *KINDS))


def make(random: Random) -> Case:
    """One case."""
    form = random.choice(list(FORMATS))
    rows: list[Any] = [FORMATS[form](random) for _ in range(random.choice((0, 1, *[2, 5, 12] * 4)))]
    for _ in range(random.choice((0, 0, 1, 1, 2, 5))):
        spoil_rows(random, rows)
    suffix = random.choice((".jsonl", ".jsonl", ".json", ".csv", ".parquet"))
    raw = written(random, rows, suffix)
    for _ in range(random.choice((0, 0, 1, 1, 2))):
        raw = spoil_bytes(random, raw)
    if random.random() < 0.15:
        raw, suffix = gzip.compress(raw, mtime=0), suffix + ".gz"
        raw = spoil_bytes(random, raw) if random.random() < 0.3 else raw
    names = ["prompt", "completion", "chosen", "text", "answer", "nosuch", *(rows and keys(rows))]
    mapped = {random.choice(names): random.choice(names)} if random.random() < 0.15 else {}
    return Case("data" + suffix, raw, mapped, kind_of(random, form))


@cache
def _bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def damaged(random: Random, sources: list[Path]) -> Case:
    """A damaged copy of a few lines of a real file."""
    lines = _bytes_of(random.choice(sources)).splitlines(keepends=True)
    start = random.randrange(max(1, len(lines) - 60))
    raw = b"".join(lines[start : start + random.choice((1, 10, 60))])
    for _ in range(random.choice((1, 2, 3))):
        raw = spoil_bytes(random, raw)
    return Case("data.jsonl", raw, {}, random.choice(KINDS))


def keys(rows: list[Any]) -> list[str]:
    """The columns there are."""
    return sorted({str(key) for row in rows if isinstance(row, dict) for key in row})


def spoil_rows(random: Random, rows: list[Any]) -> None:
    """Change one thing of the rows, in place."""
    if not rows:
        return
    at = random.randrange(len(rows))
    row = rows[at]
    kind = random.randrange(9)
    if not isinstance(row, dict) or not row or kind == 0:
        rows[at] = copy.deepcopy(random.choice(NASTY))
        return
    key, other = random.choice(list(row)), random.choice(list(row))
    if kind in (1, 2):
        row[key] = copy.deepcopy(random.choice(NASTY))
    elif kind == 3:
        row[key], row[other] = row[other], row[key]
    elif kind == 4:
        row.pop(key)
    elif kind == 5:
        row[random.choice(["", "Prompt", "prompt ", "label", "score", "\0", "system"])] = row[key]
    elif kind == 6:
        deep = row[key]
        for _ in range(random.choice((1, 3, 300))):
            deep = random.choice(([deep], {"content": deep}))
        row[key] = deep
    elif kind == 7 and random.random() < 0.1:
        row[key] = random.choice(WORDS) * 200_000
    else:  # the same cell in every row
        value = copy.deepcopy(random.choice(NASTY))
        for each in rows:
            if isinstance(each, dict):
                each[key] = value


def written(random: Random, rows: list[Any], suffix: str) -> bytes:
    """The rows as a file of this ending."""
    if suffix == ".parquet":
        return parquet(rows)
    if suffix == ".csv":
        out = io.StringIO(newline="")
        dicts = [row for row in rows if isinstance(row, dict)]
        writer = csv.DictWriter(out, keys(dicts), extrasaction="ignore")
        writer.writeheader()
        writer.writerows({str(k): v for k, v in row.items()} for row in dicts)
        return out.getvalue().encode("utf-8", "surrogatepass")
    ascii_only = random.random() < 0.5
    if suffix == ".json":
        value = random.choice((rows, rows, rows, {"data": rows}, {"rows": rows}))
        text = json.dumps(value, ensure_ascii=ascii_only, indent=random.choice((None, 1)))
    else:
        text = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    return text.encode("utf-8", "surrogatepass")


def parquet(rows: list[Any]) -> bytes:
    """The rows as Parquet; as text where Arrow has no one type for a column."""
    import pyarrow
    import pyarrow.parquet

    dicts = [row for row in rows if isinstance(row, dict) and row]
    columns = {name: [row.get(name) for row in dicts] for name in keys(dicts)}
    arrays = {}
    for name, cells in columns.items():
        try:
            arrays[name] = pyarrow.array(cells)
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):
            texts = [repr(cell).encode("ascii", "replace").decode() for cell in cells]
            arrays[name] = pyarrow.array(texts)
    out = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pyarrow.table(arrays), out)
    except (pyarrow.ArrowException, ValueError):
        return b"PAR1"
    return out.getvalue()


def spoil_bytes(random: Random, raw: bytes) -> bytes:
    """Damage a file as disks, editors and spreadsheets do."""
    at, to = sorted((random.randrange(len(raw) + 1), random.randrange(len(raw) + 1)))
    kind = random.randrange(14)
    if kind == 0:
        return raw[:at]
    if kind == 1:
        return raw[at:]
    if kind == 2:
        return raw[:at] + raw[to:]
    if kind == 3:
        return raw[:to] + raw[at:]
    if kind == 4:
        return raw[:at] + bytes([random.randrange(256)]) + raw[at + 1 :]
    if kind == 5:
        return (
            raw[:at] + random.choice((b"\0", b"\xff", b'"', b"\n", b"\r", b"\\", b",")) + raw[at:]
        )
    if kind in (6, 7):
        encoding = random.choice(("utf-16", "latin-1", "utf-16-le", "cp1252", "utf-8-sig"))
        return raw.decode("utf-8", "replace").encode(encoding, "replace")
    if kind == 8:
        return raw.replace(b"\n", random.choice((b"\r\n", b"\r", b"\n\n", b"\r\n\n")))
    if kind == 9:
        return b"".join(line + random.choice((b"\n", b"\r\n")) for line in raw.split(b"\n"))
    if kind == 10:
        return raw.replace(b'"', random.choice((b"'", b'""', "“".encode())), random.choice((1, -1)))
    if kind == 11:
        return raw.replace(b"{", b'{"prompt": "x", ')
    if kind == 12:
        return raw + raw
    return raw.replace(b": ", random.choice((b"=", b": NaN, ", b":: ")), random.choice((1, -1)))
