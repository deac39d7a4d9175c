"""The rows of an evaluation on disk, in the form of lm-eval: scored once, and kept.

``samples_TASK.jsonl`` has a line for each row, ``results.json`` the figures; the keys are those of
lm-eval 0.4, so that what reads its files reads these. While rows are scored they are appended to
another file. So a killed evaluation goes on at the row where it stood.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelforge.common.files import digest, file_digest, write_whole
from modelforge.errors import Problem, RunError
from modelforge.evaluation.metrics import Metric

RESULTS = "results.json"
FILTER = "none"


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        model: How the model is called.
        task: How the data is called.
        folder: Where rows and figures lie.
        metrics: Measure → figure over all rows.
        intervals: Measure → its 95 % interval.
        rows: The rows, as in ``samples_TASK.jsonl``.
        table: The measures' meanings.
        baselines: What accuracy costs nothing: the base's, always the longer answer, a coin.
        seen: Of each run that made the model what of the rows it was trained on (see
            `modelforge.evaluation.seen`).
    """

    model: str
    task: str
    folder: Path
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    rows: Sequence[Mapping[str, Any]]
    table: Mapping[str, Metric]
    baselines: Mapping[str, float]
    seen: Sequence[Mapping[str, Any]] = ()


def place(output: Path, model: str, task: str, asked: Any) -> Path:
    """The folder of an evaluation: the same model, data and options find their own again."""
    return output / f"{model}-{task}-{digest(asked)[:8]}"


def of_data(dataset: str) -> list[Any]:
    """What tells whether data is that of last time: the digest of each file."""
    path = Path(dataset)
    if path.is_file():
        return [path.name, file_digest(path)]
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file())
        return [[str(file.relative_to(path)), file_digest(file)] for file in found]
    return [dataset]


class Rows:
    """The rows that are scored already, and a place for more."""

    def __init__(self, folder: Path, task: str) -> None:
        self.folder, self.task = folder, task
        self.partial = folder / f".samples_{task}.jsonl"
        self.path = folder / f"samples_{task}.jsonl"

    def read(self) -> dict[int, dict[str, Any]]:
        """Row by its number; a line that a kill cut short is left out, and removed."""
        found: dict[int, dict[str, Any]] = {}
        if not self.partial.is_file():
            return found
        whole = []
        for line in self.partial.read_bytes().split(b"\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            found[row["doc_id"]] = row
            whole.append(line + b"\n")
        self.partial.write_bytes(b"".join(whole))
        return found

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows behind those that are there.

        Raises:
            RunError: If they cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.partial.open("a", encoding="utf-8") as file:
                for row in rows:
                    file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        except OSError as error:
            raise cannot_write(self.folder, error) from None

    def close(self, rows: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> None:
        """Write all rows in order and, last, the figures.

        Raises:
            RunError: If they cannot be written.
        """
        lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        try:
            write_whole(self.path, "".join(lines))
            write_whole(self.folder / RESULTS, json.dumps(results, indent=2, default=str) + "\n")
            self.partial.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from None


def cannot_write(folder: Path, error: OSError) -> RunError:
    """The message for a folder that cannot be written to."""
    what = f"cannot be written to: {error.strerror}"
    return RunError(Problem(str(folder), what, "name another with --output-dir"))


def line_of(
    doc_id: int,
    doc: Mapping[str, Any],
    *,
    prompt: str,
    target: str,
    answers: Sequence[str],
    figures: Mapping[str, Any],
    names: Sequence[str],
) -> dict[str, Any]:
    """A row under lm-eval's keys, with its figures beside them."""
    return {
        "doc_id": doc_id,
        "doc": dict(doc),
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": ""}},
        "resps": [list(answers)],
        "filtered_resps": list(answers),
        "filter": FILTER,
        "metrics": list(names),
        "doc_hash": _sha(json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str)),
        "prompt_hash": _sha(prompt),
        "target_hash": _sha(target),
        **figures,
    }


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def results_of(
    found: Evaluation, *, asked: Mapping[str, Any], model_args: str, date: float
) -> dict[str, Any]:
    """The figures under lm-eval's keys, and what of them lm-eval has no place for."""
    figures: dict[str, Any] = {"alias": found.task}
    for name, value in found.metrics.items():
        figures[f"{name},{FILTER}"] = value if math.isfinite(value) else None
        low, high = found.intervals.get(name, (math.nan, math.nan))
        # Of an interval about as wide on both sides as 1.96 standard errors.
        error = (high - low) / 2 / 1.959963984540054
        figures[f"{name}_stderr,{FILTER}"] = error if math.isfinite(error) else "N/A"
    count = len(found.rows)
    return {
        "results": {found.task: figures},
        "group_subtasks": {found.task: []},
        "configs": {found.task: {"task": found.task, "dataset_path": asked["data"]}},
        "versions": {found.task: 1},
        "n-shot": {found.task: 0},
        "higher_is_better": {
            found.task: {name: metric.better for name, metric in found.table.items()}
        },
        "n-samples": {found.task: {"original": count, "effective": count}},
        "config": {"model": "hf", "model_args": model_args, **asked},
        "date": date,
        "modelforge": {
            "model": found.model,
            "task": found.task,
            "intervals": {
                name: list(pair) if all(map(math.isfinite, pair)) else None
                for name, pair in found.intervals.items()
            },
            "baselines": dict(found.baselines),
            "trained_on": list(found.seen),
            "metrics": {name: vars(metric) for name, metric in found.table.items()},
        },
    }


def read(folder: Path) -> Evaluation | None:
    """A finished evaluation, or None; loads no library that trains.

    Raises:
        RunError: If its files are damaged.
    """
    path = folder / RESULTS
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        own = stored["modelforge"]
        rows = Rows(folder, own["task"])
        with rows.path.open(encoding="utf-8") as lines:
            found = [json.loads(line) for line in lines]
        figures = stored["results"][own["task"]]
        metrics = {
            key.removesuffix(f",{FILTER}"): math.nan if value is None else value
            for key, value in figures.items()
            if key.endswith(f",{FILTER}") and not key.endswith(f"_stderr,{FILTER}")
        }
        return Evaluation(
            own["model"],
            own["task"],
            folder,
            metrics,
            {n: (math.nan, math.nan) if p is None else (p[0], p[1])
             for n, p in own["intervals"].items()},
            found,
            {name: Metric(**fields) for name, fields in own["metrics"].items()},
            own["baselines"],
            own.get("trained_on", ()),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "delete the folder: its rows are then scored again"
        raise RunError(Problem(str(folder), f"is damaged: {error}", fix)) from None
