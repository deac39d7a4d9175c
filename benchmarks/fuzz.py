"""Fuzz what comes from outside: random configs and mutated data files, by seed.

    OMP_NUM_THREADS=1 python benchmarks/fuzz.py --configs 10000 --data 10000 --seed 0

A case is accepted or refused with a `UserError`; anything else is a failure, as is a case that
takes longer than the limit and one that leaves a file. Each case has a random generator of its own,
so ``--configs 1 --first 4711`` runs one of them again (``--show`` prints it). Of the accepted
configs that name the tiny model one in ``--prepare-every`` is prepared up to before its weights.
``--real FOLDER`` damages copies of real ``.jsonl`` files instead of made ones.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import faulthandler
import io
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import fuzz_configs
import fuzz_files

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

MODEL = Path(__file__).parents[1] / "examples" / "tiny" / "model"
LIMIT = 20.0  # seconds a case may take: pauses of a shared machine included


class TooLong(BaseException):
    """A case took longer than the limit. No ``except Exception`` may swallow it."""


@dataclass
class Tally:
    """What became of the cases of one kind."""

    name: str
    cases: int = 0
    accepted: int = 0
    refused: int = 0
    worst: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)

    def row(self) -> str:
        """A row of the table."""
        return (
            f"| {self.name} | {self.cases:,} | {self.accepted:,} | {self.refused:,} | "
            f"{self.failures.total()} | {self.worst:.2f} s |"
        )


def run_case(tally: Tally, number: int, folder: Path, act: Callable[[], None]) -> None:
    """Run one case within the limit, and note what became of it."""
    from modelforge import UserError

    before = files_of(folder)
    start = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    faulthandler.dump_traceback_later(6 * LIMIT, exit=True)  # where Python gets no word in
    failure = ""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            act()
        tally.accepted += 1
    except UserError as error:
        tally.refused += 1
        if not all(problem.what for problem in error.problems):
            failure = "a problem without a word"
    except TooLong:
        failure = f"longer than {LIMIT:.0f} s"
    except BaseException as error:
        failure = f"{type(error).__name__} at {place(error)}: {str(error)[:80]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    tally.cases += 1
    tally.worst = max(tally.worst, time.perf_counter() - start)
    if files_of(folder) != before:
        failure = f"left {sorted(files_of(folder) - before)}"
    if failure:
        tally.failures[failure] += 1
        tally.first.setdefault(failure, number)


def files_of(folder: Path) -> set[str]:
    """Every name below a folder."""
    return {str(path) for path in folder.rglob("*")}


def place(error: BaseException) -> str:
    """The last line of this project that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/modelforge/" in frame.filename
            or "/strategies/" in frame.filename]  # fmt: skip
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def fuzz_config(count: int, seed: int, first: int, prepare_every: int) -> Iterator[Tally]:
    """Random configs through `load_config`; some of those accepted through `prepare`."""
    from modelforge import UserError, get_strategy, load_config
    from modelforge.training.prepare import prepare

    for name in fuzz_configs.STRATEGIES:
        get_strategy(name).trl_config_class()  # imports TRL, whose seconds are no case's
    loaded, prepared = Tally("configs: load_config"), Tally("accepted configs: prepare")
    with scratch() as folder:
        data = fuzz_configs.write_data(folder)
        for number in range(first, first + count):
            case = fuzz_configs.make(Random(f"config {seed} {number}"), str(MODEL), data)
            path = folder / case.name
            path.write_bytes(case.content)
            result: list[Any] = []

            def load(path: Path = path, case: Any = case, result: list[Any] = result) -> None:
                result.append(load_config(path, overrides=case.overrides))

            run_case(loaded, number, folder, load)
            if result and loaded.accepted % prepare_every == 0:
                config = result[0]
                with contextlib.suppress(UserError):  # noted by run_case
                    run_case(prepared, number, folder, lambda config=config: prepare(config))
            path.unlink()
    yield loaded
    yield prepared


def fuzz_data(
    count: int, seed: int, first: int, real: Path | None, seconds: float = float("inf")
) -> Tally:
    """Mutated data files through `load_data`."""
    from transformers import AutoTokenizer

    from modelforge.data import load_data

    name = "damaged real files: load_data" if real else "data files: load_data"
    tally = Tally(name)
    templated = AutoTokenizer.from_pretrained(MODEL)
    plain = AutoTokenizer.from_pretrained(MODEL)
    plain.chat_template = None
    sources = sorted(real.resolve().glob("*.jsonl")) if real else []
    end = time.perf_counter() + seconds
    with scratch() as folder:
        for number in range(first, first + count):
            if time.perf_counter() > end:
                break
            random = Random(f"data {seed} {number}")
            case = fuzz_files.damaged(random, sources) if real else fuzz_files.make(random)
            path = folder / case.name
            path.write_bytes(case.content)
            tokenizer = random.choice([templated, templated, plain])
            options: dict[str, Any] = {
                "dataset": path.name,
                "kind": case.kind,
                "max_length": random.choice([None, 8, 64]),
                "eval_split": random.choice([None, None, 0.3, 2]),
                "columns": case.columns,
                "long_rows": random.choice(["cut", "cut", "drop", "split"]),
            }
            run_case(
                tally,
                number,
                folder,
                partial(load_data, **options, tokenizer=tokenizer, seed=0, base_dir=folder),
            )
            path.unlink()
    return tally


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """An empty working folder."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


def too_long(*_: Any) -> None:
    """What the timer calls."""
    raise TooLong


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the exit code is 1 where a case failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", type=int, default=0)
    parser.add_argument("--data", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--prepare-every", type=int, default=10)
    parser.add_argument("--real", type=Path, help="folder of .jsonl files to damage copies of")
    parser.add_argument("--show", action="store_true", help="print the first case")
    options = parser.parse_args(arguments)
    if options.show:
        show(options)
    signal.signal(signal.SIGALRM, too_long)
    start = time.perf_counter()
    tallies: list[Tally] = []
    if options.configs:
        tallies += fuzz_config(options.configs, options.seed, options.first, options.prepare_every)
    if options.data:
        tallies.append(fuzz_data(options.data, options.seed, options.first, options.real))
    print("| input | cases | accepted | refused | failures | slowest |")
    print("|---|---|---|---|---|---|")
    for tally in tallies:
        print(tally.row())
    print(
        f"\n(seed {options.seed}, {time.perf_counter() - start:.0f} s, {datetime.date.today()}, "
        f"{os.cpu_count()}-core {platform.machine()} CPU, Python {platform.python_version()})"
    )
    for tally in tallies:
        for failure, number in tally.failures.most_common():
            print(f"FAILED {number} ×: {failure} (first: {tally.first[failure]})", file=sys.stderr)
    return int(any(tally.failures for tally in tallies))


def show(options: argparse.Namespace) -> None:
    """The first case, as bytes."""
    if options.configs:
        random = Random(f"config {options.seed} {options.first}")
        case: Any = fuzz_configs.make(random, str(MODEL), list(fuzz_configs.DATA))
        print(case.overrides)
    else:
        random = Random(f"data {options.seed} {options.first}")
        sources = sorted(options.real.glob("*.jsonl")) if options.real else []
        case = fuzz_files.damaged(random, sources) if sources else fuzz_files.make(random)
        print(case.columns)
    print(case.name, case.content[:4000])


if __name__ == "__main__":
    sys.exit(main())
