"""What became of another trainer's config, as a page for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from modelforge.importing.carry import Imported
from modelforge.importing.theirs import Line

_HEADS = {
    "kept": "carried over as it is",
    "renamed": "renamed",
    "changed": "changed: other words, or another meaning",
    "written": "written, since the file is silent and the default there is another",
    "unneeded": "not needed here",
    "silent": "says nothing there (null, false or empty)",
    "open": "TO SETTLE",
    "lost": "LOST: has no counterpart, and changes the result",
}
_WIDE = 44


def table_of(imported: Imported) -> list[str]:
    """The lines of the table, what matters most last."""
    found = [imported_as(imported)]
    for became, head in _HEADS.items():
        lines = [line for line in imported.lines if line.became == became]
        if lines:
            found += ["", f"{head}:", *_group(became, lines)]
    return found


def counted(imported: Imported) -> str:
    """How many keys are lost, and how many are to settle; empty where none is."""
    lost = len({line.theirs for line in imported.lines if line.became == "lost"})
    left = len([line for line in imported.lines if line.became == "open"])
    parts = [f"{lost} {'key is' if lost == 1 else 'keys are'} lost"] if lost else []
    parts += [f"{left} {'thing is' if left == 1 else 'things are'} to settle"] if left else []
    return f"{imported.config['strategy']}: {' and '.join(parts)}; see the table" if parts else ""


def imported_as(imported: Imported) -> str:
    """Whose file it is, and how that was told."""
    told = f" (told by {', '.join(imported.marks[:4])})" if imported.marks else ""
    text = f"a config of {imported.project}{told} → strategy {imported.config['strategy']}"
    if imported.doubt:
        text += f"; it may be one of {imported.doubt}: then say --project {imported.doubt}"
    return text


def _group(became: str, lines: list[Line]) -> Iterator[str]:
    if became in ("kept", "silent"):
        names = list(dict.fromkeys(line.theirs for line in lines))
        row = ""
        for name in names:
            if len(row) + len(name) > 92:
                yield f"  {row.rstrip()}"
                row = ""
            row += f"{name}, " if name != names[-1] else name
        yield f"  {row}"
        return
    for line in lines:
        yield _line(line)


def _line(line: Line) -> str:
    left = f"{line.theirs}: {_short(line.value)}" if line.theirs else ""
    right = ""
    if line.ours:
        result = "" if line.result is None else f": {_short(line.result)}"
        right = f"→ {line.ours}{result}" if left else f"{line.ours}{result}"
    note = f"({line.note})" if line.note and right else line.note
    return "  " + " ".join(
        part for part in (left.ljust(_WIDE) if left else "", right, note) if part
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "…"
