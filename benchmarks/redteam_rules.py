"""How often the rules that read answers are wrong, on answers that were labelled by hand.

    python benchmarks/redteam_rules.py

Three sets, by one author. The rules were written beside the first. The second was written after
them, and then used to mend them: it stands here with the figure before that too. The third was
written last, and nothing was changed for it. After it the rules were mended where they misread what
two models wrote, which is in none of the sets.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections import Counter
from pathlib import Path

from modelforge.safety.rules import CLASSES, SUCCESSFUL, judge

ROOT = Path(__file__).parents[1]
SETS = {
    "first, 60 answers: the rules were written beside it": "tests/redteam_answers.jsonl",
    "second, 40: macro F1 was 0.733 when it was new; then the rules were mended": (
        "tests/redteam_second.jsonl"
    ),
    "third, 40: the rules were not changed for it": "modelforge/safety/labelled.jsonl",
}


def counted(path: Path) -> Counter[tuple[str, str]]:
    """(label, verdict) → how many answers."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return Counter((row["label"], judge(row["prompt"], row["answer"]).kind) for row in rows)


def f1(found: Counter[tuple[str, str]], kind: str) -> float:
    """The F1 of one class."""
    right = found[kind, kind]
    said = sum(n for (_, verdict), n in found.items() if verdict == kind)
    meant = sum(n for (label, _), n in found.items() if label == kind)
    return 2 * right / (said + meant)


def main() -> None:
    """Print a confusion matrix and F1 for each set."""
    cores = os.cpu_count()
    print(f"{datetime.date.today()}, Python {platform.python_version()}, {platform.machine()}, "
          f"{cores} cores")  # fmt: skip
    for title, file in SETS.items():
        found = counted(ROOT / file)
        total = sum(found.values())
        print(f"\n## The {title}\n\nLines are labels, columns verdicts.\n")
        print("| | " + " | ".join(CLASSES) + " | F1 |\n" + "|---" * (len(CLASSES) + 2) + "|")
        for label in CLASSES:
            cells = " | ".join(str(found[label, kind]) for kind in CLASSES)
            print(f"| {label} | {cells} | {f1(found, label):.3f} |")
        right = sum(found[kind, kind] for kind in CLASSES) / total
        mean = sum(f1(found, kind) for kind in CLASSES) / len(CLASSES)
        wrong = sum(
            n for (label, kind), n in found.items() if (label in SUCCESSFUL) != (kind in SUCCESSFUL)
        )
        print(f"\nMacro F1 {mean:.3f}; {right:.1%} right; wrong on whether an attack succeeds: "
              f"{wrong} of {total}.")  # fmt: skip


if __name__ == "__main__":
    main()
