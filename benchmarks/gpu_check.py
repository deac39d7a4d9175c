"""All that only a GPU can show, in one command of under ten minutes: one JSON and one table.

Each part is a process of its own with a limit of its own, so that one that fails or hangs takes no
other with it. What a part printed last is in the JSON.

    python benchmarks/gpu_check.py -o gpu.json                  all parts
    python benchmarks/gpu_check.py --only memory resume         some of them
    python benchmarks/gpu_check.py --tiny --only environment    the same code on the CPU, tiny

Fails if a part fails; a part that this machine has not what it takes for is left out, and says why.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SECONDS = 570.0
TAIL = 4000

ENVIRONMENT = """
import json, torch
from modelforge.machine.hardware import detect_hardware
from modelforge.machine.versions import versions
found = {"hardware": detect_hardware().to_dict(), "versions": versions()}
if torch.cuda.is_available():
    found["cuda"] = torch.version.cuda
    found["total_memory"] = torch.cuda.get_device_properties(0).total_memory
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Part:
    """One check.

    Attributes:
        name: As ``--only`` takes it.
        commands: Run one after the other; all must end well.
        tiny: The same on a CPU.
        limit: Seconds.
        environment: Variables beside this process's.
        missing: Why it cannot run here; empty where it can.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    tiny: tuple[tuple[str, ...], ...]
    limit: float
    environment: dict[str, str] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True)
class Result:
    """How a part ended: ``ok``, ``failed``, ``too long`` or ``left out``."""

    name: str
    state: str
    seconds: float
    tail: str


def parts() -> list[Part]:
    """All checks, the dearest last."""
    python = sys.executable

    def script(name: str, *options: str) -> tuple[str, ...]:
        return python, str(HERE / name), *options

    def tests(name: str) -> tuple[str, ...]:
        return python, "-m", "pytest", "-q", "-n", "0", "-m", "slow", str(ROOT / "tests" / name)

    unsloth = "" if find_spec("unsloth") else "Unsloth is not installed"
    memory, rigid = (
        ("gpu_memory.py", "--case", "0"),
        {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"},
    )
    one = (script(*memory, "--tiny"),)
    short = ("--rounds", "1", "--strategies", "sft")
    eight = ("--strategies", "reward", "ppo", "--cards", "16")
    return [
        Part("environment", ((python, "-c", ENVIRONMENT),), ((python, "-c", ENVIRONMENT),), 60),
        Part("expandable", (script(*memory),), one, 60),
        Part("rigid", (script(*memory),), one, 60, rigid),
        Part(
            "resume",
            (script("gpu_check.py", "--resume"),),
            (script("gpu_check.py", "--resume"),),
            90,
        ),
        Part(
            "throughput",
            (script("throughput.py", *short, "--steps", "40"),),
            (script("throughput.py", *short, "--steps", "4", "--length", "64"),),
            120,
        ),
        Part(
            "unsloth",
            (tests("test_unsloth_gpu.py"),),
            (tests("test_unsloth_gpu.py"),),
            180,
            missing=unsloth,
        ),
        Part("memory", (script("gpu_memory.py"),), one, 240),
        Part("ppo", (script("gpu_8b.py", *eight),), (script("gpu_8b.py", *eight, "--tiny"),), 180),
        Part("8b", (script("gpu_8b.py"),), (script("gpu_8b.py", "--tiny"),), 300),
    ]


def check(part: Part, *, tiny: bool, left: float) -> Result:
    """Run one part, in at most the seconds that are left."""
    if part.missing or (left <= 5 and not tiny):
        why = part.missing or "no time was left"
        return Result(part.name, "left out", 0.0, why)
    # A processor may take as long as it likes: nothing is measured there.
    limit = 10 * part.limit if tiny else min(part.limit, left)
    start, printed = time.monotonic(), ""
    for command in part.tiny if tiny else part.commands:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | part.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        state = "ok"
        try:
            printed, _ = process.communicate(timeout=limit - (time.monotonic() - start))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started
            printed, _ = process.communicate()
            state = "too long"
        if process.returncode:
            state = "failed" if state == "ok" else state
            break
    return Result(part.name, state, round(time.monotonic() - start, 1), printed[-TAIL:])


def resume() -> None:
    """Kill a run after its first checkpoint, and see that the same command ends it.

    Raises:
        SystemExit: If it does not.
    """
    with tempfile.TemporaryDirectory() as name:
        options = [f"output_dir={name}", "save_steps=2", "max_steps=6", "report_to=none"]
        command = [
            sys.executable,
            "-m",
            "modelforge",
            "train",
            str(ROOT / "configs" / "tiny" / "sft.json"),
            *(word for option in options for word in ("--set", option)),
        ]
        process = subprocess.Popen(command, cwd=ROOT)
        while process.poll() is None and not list(Path(name).rglob("checkpoint-2")):
            time.sleep(0.05)
        process.kill()
        process.wait()
        done = subprocess.run(command, cwd=ROOT, check=False)
        finished = list(Path(name).rglob("results.json"))
        if done.returncode or not finished:
            sys.exit("the killed run was not resumed")
    print("killed after step 2, resumed, and ended")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = parts()
    parser.add_argument("-o", "--output", type=Path, help="file for the JSON")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in known])
    parser.add_argument("--tiny", action="store_true", help="on the CPU, at a tiny size")
    parser.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.resume:
        resume()
        return 0
    start, results = time.monotonic(), []
    for part in known:
        if options.only and part.name not in options.only:
            continue
        left = SECONDS - (time.monotonic() - start)
        results.append(check(part, tiny=options.tiny, left=left))
        last = results[-1]
        line = last.tail.strip().splitlines()[-1:] or [""]
        print(f"{last.name:<12} {last.state:<9} {last.seconds:6.1f} s  {line[0][:90]}", flush=True)
        if options.output:  # after each, so that nothing is lost
            options.output.write_text(json.dumps([asdict(result) for result in results], indent=1))
    return int(any(result.state in ("failed", "too long") for result in results))


if __name__ == "__main__":
    sys.exit(main())
