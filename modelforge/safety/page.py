"""The figures of a red-team as text: a page in Markdown, and the tables of the command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelforge.safety.rules import CLASSES, UNDECIDED

TITLES = ("", "answers", "not refused", "successful")
WORST = 5


def share(each: Mapping[str, Any]) -> str:
    """A rate with its interval."""
    if each["rate"] is None:
        return "–"
    return f"{each['rate']:.0%} [{each['low']:.0%}, {each['high']:.0%}]"


def table(parts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A line for each attack or category: both rates."""
    return [
        (name, str(each["successful"]["of"]), share(each["not_refused"]), share(each["successful"]))
        for name, each in parts.items()
    ]


def headlines(told: Mapping[str, Any]) -> list[str]:
    """What is to be known first."""
    found = told["figures"]
    lines = []
    if found["all"]["successful"]["of"]:
        both = found["all"]
        lines.append(f"harmful requests: not refused {share(both['not_refused'])}, successful "
                     f"{share(both['successful'])} of {both['successful']['of']} answers to "
                     f"{both['successful']['requests']} requests")  # fmt: skip
        broken = found["broken_by_any"]
        lines.append(f"at least one attack gets through with {broken['count']} of {broken['of']} "
                     f"requests: {share(broken)}")  # fmt: skip
        kinds = ", ".join(f"{kind} {n}" for kind, n in both["classes"].items() if n)
        lines.append(f"answers: {kinds}")
    if found["over_refused"]["of"]:
        over = found["over_refused"]
        lines.append(f"harmless look-alikes refused: {share(over)} of {over['of']}")
    lines += [f"{n} left out: {why}" for why, n in told["left_out"].items()]
    return [*lines, *_judge_lines(told["judge"]), *_theirs(told)]


def _judge_lines(judge: Mapping[str, Any]) -> Iterator[str]:
    """Who judged, and how often that is wrong."""
    error = judge["error"]
    if error is None:
        yield (f"{judge['name']}: its own error is not known: it looks for harm, and the answers "
               "that come with the program are harmless; name some with --labelled")  # fmt: skip
    else:
        yield (f"{judge['name']}: wrong on whether an answer refuses {share(error['refused'])}, on "
               f"whether it succeeds {share(error['successful'])} of {error['answers']} labelled "
               "answers")  # fmt: skip
    asked = judge["error_on_requests"]
    if asked is not None:
        yield (f"{judge['name']}: it calls {share(asked['missed'])} of the harmful requests "
               f"harmless, and {share(asked['false_alarms'])} of the harmless ones harmful; "
               f"undecided {asked['undecided']}")  # fmt: skip


def _theirs(told: Mapping[str, Any]) -> Iterator[str]:
    if "theirs" in told:
        theirs = told["theirs"]
        yield (f"{told['tool']} itself: {share(theirs['hits'])} of {theirs['hits']['of']} got "
               f"through; the same verdict here on {share(theirs['same_as_ours'])}")  # fmt: skip


_NAMES = {"successful": "attacks that succeed", "not_refused": "harmful requests not refused",
          "over_refused": "harmless look-alikes refused"}  # fmt: skip


def change_lines(told: Mapping[str, Any]) -> list[str]:
    """What changed against the other model."""
    lines = []
    for name, each in told.get("changes", {}).items():
        interval = (
            "" if each["low"] != each["low"] else f" [{each['low']:+.0%}, {each['high']:+.0%}]"
        )
        moved = f"{each['before']:.0%} → {each['after']:.0%}{interval}"
        sure = f"p = {each['p']:.2g}, of {each['requests']} requests"
        lines.append(f"{each['verdict']}: {_NAMES[name]} {moved}, {sure}")
    if "turned" in told:
        broken, held = (len(told["turned"][name]) for name in ("newly_broken", "held_now"))
        lines.append(f"attacks that get through only now: {broken}; only before: {held}")
    return lines


def page(told: Mapping[str, Any]) -> str:
    """All of it on a page in Markdown. What a model wrote stands in blocks that show it as text."""
    found = told["figures"]
    over = found["over_refused_by_category"]
    parts = [
        f"# {told['model']} under attack",
        "",
        f"{told['date']}, requests: {told['prompts']}.",
        "",
    ]
    parts += [f"- {line}" for line in headlines(told)]
    if told["against"]:
        parts += ["", f"## Against {told['against']}", ""]
        parts += [f"- {line}" for line in change_lines(told)]
    for title, key in (("By attack", "by_attack"), ("By category", "by_category")):
        if found[key]:
            parts += ["", f"## {title}", "", *_markdown(TITLES, table(found[key]))]
    if found["over_refused"]["count"]:
        parts += ["", "## Harmless look-alikes refused", ""]
        rows = [(n, str(each["of"]), share(each)) for n, each in over.items() if each["count"]]
        parts += _markdown(("", "answers", "refused"), rows)
    confusion = (told["judge"]["error"] or {}).get("confusion")
    if confusion:
        kinds = [k for k in (*CLASSES, UNDECIDED) if any(k in row for row in confusion.values())]
        cells = [(label, *(str(confusion[label].get(kind, 0)) for kind in kinds))
                for label in CLASSES if label in confusion]  # fmt: skip
        parts += [
            "",
            "## The judge on labelled answers",
            "",
            "Lines are labels, columns verdicts.",
            "",
        ]
        parts += _markdown(("", *kinds), cells)
    if told["worst"]:
        parts += ["", "## Worst cases"]
    for each in told["worst"][:WORST]:
        parts += ["", f"{each['category']}: {', '.join(each['attacks'])} ({each['share']:.0%} of "
                  f"the answers). {each['why']}", "",
                  *_quoted(f"{each['prompt']}\n→ {each['response'][:600]}")]  # fmt: skip
    return "\n".join(parts) + "\n"


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return [*lines, *("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)]


def _quoted(text: str) -> list[str]:
    """Indented, so that no sign in it is read as Markdown or HTML."""
    shown = "".join(sign if sign.isprintable() or sign == "\n" else "�" for sign in text)
    return [f"    {line}" for line in shown.split("\n")]
