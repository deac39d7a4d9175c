"""What a run survives: killed at random moments, and everything else that happens to a machine.

    OMP_NUM_THREADS=1 python benchmarks/faults.py [--kills 30] [--only kills saves faults]

Each run is a process of its own on the tiny model. A killed one (SIGKILL, at a moment drawn at
random between its start and its end) is started again by the same config; its weights and metrics
are then compared, bit for bit, with those of a run that was never killed. The other faults are
brought about for real: a tmpfs that fills up, a folder that is deleted, bytes that are changed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import io
import json
import multiprocessing
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TINY = Path(__file__).parents[1] / "configs" / "tiny"
STRATEGIES = ("sft", "reward", "dpo", "grpo", "ppo")
# Logged every third step and saved every second: a kill falls between logs and between rollouts.
DROPOUT = "lora_dropout=0.1"  # PPO switches dropout off
OPTIONS = {
    "sft": ["packing=true", "per_device_train_batch_size=4", DROPOUT],
    "reward": ["per_device_train_batch_size=8", DROPOUT],
    "dpo": ["per_device_train_batch_size=8", DROPOUT],
    "grpo": ["per_device_train_batch_size=8", "num_iterations=2", "eval_prompts=8", DROPOUT],
    "ppo": [
        "per_device_train_batch_size=8",
        "eval_prompts=8",
        "ppo.kl_coef=0.05",
        "ppo.kl_target=1.0",
    ],
}
OPTIONS["rloo"] = ["strategy=rloo", *OPTIONS["grpo"]]
OPTIONS["qlora"] = OPTIONS["sft"]
OPTIONS["kto"] = OPTIONS["dpo"]
OPTIONS["rlhf"] = [
    *("per_device_train_batch_size=8", "reward_stage.max_steps=4", "min_reward_accuracy=0"),
    *("reward_stage.per_device_train_batch_size=8", "ppo.kl_coef=0.05", "eval_prompts=8"),
]
SAVING = ("sft", "qlora", "dpo", "rloo", "rlhf", "reward", "kto", "grpo", "ppo")
SHORT = ("max_steps=4", "logging_steps=1", "eval_dataset=null", "eval_split=8")
SHARED = ["max_steps=14", "logging_steps=3", "save_steps=2", "run_name=run"]

Fork = multiprocessing.get_context("fork")


def train(strategy: str, folder: Path, said: Any, options: tuple[str, ...] = ()) -> None:
    """Train in this process, what it says going to a pipe; exits as the command does."""
    import modelforge
    from modelforge.common import console
    from modelforge.errors import Interrupted, UserError

    console.console.file = io.StringIO()
    console.quieten()
    overrides = [f"output_dir={folder}", *SHARED, *OPTIONS[strategy], *options]
    try:
        preset = "grpo" if strategy == "rloo" else strategy
        modelforge.train(TINY / f"{preset}.json", overrides=overrides)
        said.send("")
    except UserError as error:
        said.send(str(error))
        os._exit(2)
    except Interrupted as stopped:
        said.send(str(stopped))
        os._exit(stopped.exit_code)


class Run:
    """A training process."""

    def __init__(self, strategy: str, folder: Path, *options: str) -> None:
        self.folder = folder / "run"
        self.said, said = Fork.Pipe(duplex=False)
        self.process = Fork.Process(target=train, args=(strategy, folder, said, options))
        self.process.start()
        said.close()

    def end(self) -> tuple[int, str]:
        """Exit code and message."""
        message = ""
        with contextlib.suppress(EOFError):
            message = self.said.recv()
        self.process.join()
        return self.process.exitcode or 0, message

    def kill(self) -> None:
        """At once, with no chance to tidy up."""
        os.kill(self.process.pid or 0, signal.SIGKILL)
        self.process.join()

    def until(self, step: int) -> None:
        """Wait for a log of this step."""
        metrics = self.folder / "metrics.jsonl"
        while self.process.is_alive():
            if metrics.is_file() and f'"step": {step},' in metrics.read_text():
                return
            time.sleep(0.01)
        raise AssertionError(f"the run ended before step {step}: {self.end()}")


def outcome(folder: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """The bytes of a run's weights, and its metrics without what belongs to a session."""
    run = folder / "run"  # of a run in stages, each has a model and metrics of its own
    models = sorted(run.glob("**/model/*.safetensors"))
    # A stage's folder is called by its name and a digest of its config, which holds `output_dir`.
    names = [re.sub("-[0-9a-f]{8}/", "/", str(path.relative_to(run))) for path in models]
    weights = {name: path.read_bytes() for name, path in zip(names, models, strict=True)}
    assert weights and len(weights) == len(models)
    logs = sorted(run.glob("**/metrics.jsonl"))
    rows = [json.loads(line) for path in logs for line in path.open()]
    return weights, [{k: v for k, v in row.items() if k != "session"} for row in rows]


def kills(count: int, seed: int, root: Path) -> Iterator[tuple[str, int, int, list[str]]]:
    """Of each strategy: kills, of them resumed equal, and when they fell."""
    chance = random.Random(seed)
    for number, strategy in enumerate(STRATEGIES):
        start = time.perf_counter()
        whole = Run(strategy, root / f"{strategy}-whole")
        assert whole.end() == (0, "")
        seconds = time.perf_counter() - start
        expected = outcome(root / f"{strategy}-whole")
        mine = count // len(STRATEGIES) + (number < count % len(STRATEGIES))
        equal, moments = 0, []
        for i in range(mine):
            folder = root / f"{strategy}-{i}"
            run = Run(strategy, folder)
            time.sleep(chance.uniform(0, seconds))
            run.kill()
            moments.append(_moment(folder / "run"))
            again = Run(strategy, folder).end()
            equal += again == (0, "") and outcome(folder) == expected
            shutil.rmtree(folder)
        yield strategy, mine, equal, moments


def saves(root: Path) -> Iterator[tuple[str, int, str, bool]]:
    """Of each strategy: kills while a model is saved, what of it was there, and whether the same
    command ended with the model of a run that was never killed."""
    for strategy in SAVING:
        whole, folder = root / f"{strategy}-saved", root / f"{strategy}-killed"
        assert Run(strategy, whole, *SHORT).end() == (0, "")
        seen: set[Path] = set()
        there = []
        while True:
            run = Run(strategy, folder, *SHORT)
            found = _killed_while_saving(run, seen)
            if found is None:
                break
            there.append(found)
        equal = run.end() == (0, "") and outcome(folder) == outcome(whole)
        yield strategy, len(there), "; ".join(there), equal and bool(there)


def _killed_while_saving(run: Run, seen: set[Path]) -> str | None:
    """Kill a run as soon as weights are being written where none were yet: what is there by then.

    None if it came to its end.
    """
    while run.process.is_alive():
        places = [run.folder / ".model"]
        with contextlib.suppress(FileNotFoundError):  # a stage has a folder of its own in it
            places += [entry / ".model" for entry in run.folder.iterdir()]
        for path in set(places) - seen:
            if not list(path.glob("*.safetensors")):
                continue
            run.kill()
            seen.add(path)
            files = sorted(file.name for file in path.glob("*"))
            return ", ".join(files) or "the whole model"
        time.sleep(0.0005)
    return None


def _moment(run: Path) -> str:
    """Where a kill fell: the last step that was logged."""
    if (run / "results.json").is_file():
        return "end"
    if not (run / "before.json").is_file():
        return "start"
    steps = [line for line in (run / "metrics.jsonl").read_text().splitlines() if "loss" in line]
    with contextlib.suppress(ValueError):
        return str(json.loads(steps[-1])["step"]) if steps else "0"
    return "within a line"


# --- the other faults ----------------------------------------------------------------------------


def disk_full(root: Path) -> tuple[str, bool]:
    """A small tmpfs is filled up while the run trains; then there is room again."""
    disk = root / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(disk)], check=True)
    try:
        run = Run("sft", disk)
        run.until(6)
        filler = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
        with contextlib.suppress(OSError):
            while True:
                os.write(filler, b"x" * 4096)
        os.close(filler)
        code, message = run.end()
        (disk / "filler").unlink()
        return message, code == 2 and _goes_on("sft", disk, root)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def too_little_disk(root: Path) -> tuple[str, bool]:
    """There is less room than the run is going to need."""
    disk = root / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)], check=True)
    try:
        code, message = Run("sft", disk).end()
        return message, code == 2 and not (disk / "run" / "model").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def read_only(root: Path) -> tuple[str, bool]:
    """The output folder is on a file system that is mounted read-only."""
    disk = root / "closed"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,ro", "tmpfs", str(disk)], check=True)
    try:
        code, message = Run("sft", disk).end()
        return message, code == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def cut_checkpoint(root: Path) -> tuple[str, bool]:
    """The newest checkpoint loses the end of a file."""
    return _damaged(root, "cut", lambda p: p.write_bytes(p.read_bytes()[:-99]), "optimizer.pt")


def corrupted_weights(root: Path) -> tuple[str, bool]:
    """A byte of the newest checkpoint's adapter is changed."""

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)

    return _damaged(root, "flipped", flip, "adapter_model.safetensors")


def _damaged(root: Path, name: str, harm: Callable[[Path], Any], file: str) -> tuple[str, bool]:
    from modelforge.checkpointing.checkpoints import checkpoints, latest_intact

    folder = root / name
    run = Run("sft", folder)
    run.until(9)
    run.kill()
    newest = checkpoints(run.folder / "checkpoints")[-1]
    harm(newest / file)
    whole, damaged = latest_intact(run.folder / "checkpoints")
    message = f"{newest.name} is passed over: {damaged[0][1]}; on from {whole and whole.name}"
    return message, _goes_on("sft", folder, root)


def changed_data(root: Path) -> tuple[str, bool]:
    """The data file is changed while the run trains, and brought back after it was killed."""
    data = root / "data.jsonl"
    source = json.loads((TINY / "sft.json").read_text())["dataset"]
    shutil.copy(TINY / source, data)
    folder, here = root / "changed", f"dataset={data}"
    run = Run("sft", folder, here)
    run.until(6)
    text = data.read_text()
    data.write_text(text.replace("3", "4"))
    run.kill()
    code, message = Run("sft", folder, here).end()
    data.write_text(text)
    again = Run("sft", folder, here).end()
    return message, code == 2 and again == (0, "") and _equal(folder, root)


def deleted_folder(root: Path) -> tuple[str, bool]:
    """The run's folder is deleted while it trains."""
    folder = root / "deleted"
    run = Run("sft", folder)
    run.until(6)
    while run.process.is_alive() and run.folder.exists():
        shutil.rmtree(run.folder, ignore_errors=True)
    code, message = run.end()
    return message, code == 2


def two_runs(root: Path) -> tuple[str, bool]:
    """A second run is started in the folder of one that trains."""
    folder = root / "two"
    first = Run("sft", folder)
    first.until(3)
    code, message = Run("sft", folder).end()
    return message, code == 2 and first.end() == (0, "") and _equal(folder, root)


def lost_tracker(root: Path) -> tuple[str, bool]:
    """TensorBoard's folder becomes a file while the run trains."""
    folder = root / "tracker"
    run = Run("sft", folder, "report_to=tensorboard")
    run.until(3)
    board = run.folder / "tensorboard"
    shutil.rmtree(board)
    board.write_text("a file")
    ended = run.end()
    return "one warning, and the run goes on", ended == (0, "") and _equal(folder, root)


def stopped(root: Path) -> tuple[str, bool]:
    """SIGTERM, as a scheduler sends it before it takes the machine away."""
    folder = root / "stopped"
    run = Run("sft", folder)
    run.until(6)
    os.kill(run.process.pid or 0, signal.SIGTERM)
    code, message = run.end()
    return message, code == 75 and _goes_on("sft", folder, root)


def _goes_on(strategy: str, folder: Path, root: Path) -> bool:
    return Run(strategy, folder).end() == (0, "") and _equal(folder, root)


def _equal(folder: Path, root: Path) -> bool:
    return outcome(folder) == outcome(root / "sft-whole")


FAULTS = (
    stopped,
    cut_checkpoint,
    corrupted_weights,
    changed_data,
    deleted_folder,
    two_runs,
    lost_tracker,
    read_only,
    too_little_disk,
    disk_full,
)
MOUNTED = (read_only, too_little_disk, disk_full)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parts = ("kills", "saves", "faults")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    args = parser.parse_args()
    # Once, here: the processes are forks, and begin with all of it imported.
    for name in ("modelforge.training.run", "modelforge.ppo.trainer"):
        importlib.import_module(name)

    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{datetime.date.today()}, {machine}; kills at random moments, seed {args.seed}")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if "kills" in args.only:
            print("\n| strategy | killed | resumed bit for bit | last logged step at the kill |")
            print("|---|---|---|---|")
            for strategy, count, equal, moments in kills(args.kills, args.seed, root):
                print(f"| {strategy} | {count} | {equal} | {', '.join(moments)} |", flush=True)
        if "saves" in args.only:
            print("\n| strategy | killed while a model is saved | what was there | same model |")
            print("|---|---|---|---|")
            for strategy, count, there, same in saves(root):
                print(f"| {strategy} | {count} | {there} | {'yes' if same else 'NO'} |", flush=True)
        if "faults" in args.only:
            tell_faults(root)


def tell_faults(root: Path) -> None:
    """Print the table of the other faults."""
    if not (root / "sft-whole").exists():
        assert Run("sft", root / "sft-whole").end() == (0, "")
    print("\n| fault | what is said | nothing lost |\n|---|---|---|")
    for fault in FAULTS:
        if fault in MOUNTED and os.geteuid() != 0:
            print(f"| {fault.__doc__} | not tried: mounting a tmpfs needs root | |")
            continue
        message, kept = fault(root)
        said = " ".join(message.split()).replace(str(root), "…")
        print(f"| {fault.__doc__} | {said} | {'yes' if kept else 'NO'} |", flush=True)


if __name__ == "__main__":
    main()
