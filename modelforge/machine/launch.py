"""Several processes: started by ``accelerate launch``, which is told what the config says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from modelforge.common.console import say
from modelforge.common.processes import world_size
from modelforge.config import Choice, Config
from modelforge.errors import ConfigError, Problem, RunError
from modelforge.machine.hardware import Hardware
from modelforge.machine.versions import install

#: Where the main process of a launch leaves its exit code: torchrun's own says only that one of
#: them failed.
EXIT_CODE = "MODELFORGE_EXIT_CODE"


def distributed_choices(config: Config) -> dict[str, Choice]:
    """The fields of transformers' arguments that a backend means.

    Raises:
        ConfigError: If its own file is not there.
    """
    distributed = config.settings.distributed
    backend = distributed.backend
    if backend == "ddp":
        return {}
    path = config.base_dir / distributed.config if distributed.config else None
    if path is not None and not path.is_file():
        where = f"{config.name}: distributed.config"
        raise ConfigError(Problem(where, f"{path} is not there", "give a JSON file, or remove it"))
    why = f"distributed.backend is {backend}"
    if backend == "fsdp":
        found = path or files("modelforge.configs") / "distributed" / "fsdp.json"
        values = json.loads(found.read_text(encoding="utf-8"))
        return {"fsdp": Choice(True, "config", why), "fsdp_config": Choice(values, "config", why)}
    found = path or files("modelforge.configs") / "distributed" / f"{backend}.json"
    values = json.loads(found.read_text(encoding="utf-8"))
    return {"deepspeed": Choice(values, "config", why)}


def group_problems(config: Config) -> Iterator[Problem]:
    """What keeps several machines from meeting: each would wait for the others, or train alone."""
    said = config.settings.distributed
    where = f"{config.name}: distributed"
    machines, processes = said.num_machines, said.num_processes
    if said.machine_rank >= machines:
        what = (
            f"is {said.machine_rank}, and machines are counted from 0: the last is {machines - 1}"
        )
        yield Problem(f"{where}.machine_rank", what, "set num_machines, or a lower machine_rank")
    if machines == 1:
        return
    if processes % machines:
        what = f"{processes} processes in all do not go into {machines} equal machines"
        fix = f"set it to a multiple, such as {machines} for one on each"
        yield Problem(f"{where}.num_processes", what, fix)
    for key in ("main_address", "main_port"):
        if getattr(said, key) is None:
            what = f"is not set, and {machines} machines meet there"
            yield Problem(f"{where}.{key}", what, "set the same one on each machine")


def refuse_backend(config: Config, hardware: Hardware) -> None:
    """See, before anything is loaded, that the backend can run here.

    Raises:
        RunError: If it cannot.
    """
    backend, where = config.settings.distributed.backend, f"{config.name}: distributed.backend"
    fsdp = backend == "fsdp" or bool(config.get("fsdp"))
    if fsdp and hardware.device == "cpu":
        at = where if backend == "fsdp" else f"{config.name}: fsdp"
        what = "on a CPU, fsdp trains as plain DDP and does not say so"
        raise RunError(Problem(at, what, "set ddp, zero2 or zero3, or train on CUDA cards"))
    if config.get("fsdp") and processes_of(config) == 1:
        what = "shards the model over several processes, and one is started"
        fix = "set distributed.backend to fsdp, and start with --num-processes; or remove it"
        raise RunError(Problem(f"{config.name}: fsdp", what, fix))
    if backend.startswith("zero") and find_spec("deepspeed") is None:
        fix = f"{install('deepspeed')}, or set ddp"
        raise RunError(Problem(where, f"{backend} needs DeepSpeed, which is not installed", fix))


def refuse_uneven(args: Any, config: Config) -> None:
    """See that each process gets as many batches as the others, which it waits for, and can.

    Args:
        args: The trainer's.
        config: The run's.

    Raises:
        ConfigError: If the batches cannot be shared out among the processes as is asked.
    """
    count, asked = processes_of(config), args.accelerator_config
    if count == 1:
        return
    what = fix = ""
    if not asked.even_batches:
        what = "even_batches is false: one process would get a batch more than another, and wait "
        what += "for it until it is killed"
        fix = "remove it: held-out rows that fill up the last batches are not counted twice"
    elif asked.dispatch_batches:
        what = "dispatch_batches is true: batches of rows of unlike length cannot be sent on"
        fix = "remove it: each process reads its own rows"
    elif asked.split_batches:
        sizes = (args.per_device_train_batch_size, args.per_device_eval_batch_size)
        if any(size % count for size in sizes):
            what = f"split_batches is true: batches of {sizes[0]} rows, and of {sizes[1]} held-out "
            what += f"ones, do not go into {count} equal parts"
            fix = "remove it, or set both per_device batch sizes to a multiple"
    if what:
        raise ConfigError(Problem(f"{config.name}: accelerator_config", what, fix))


def refuse_other_group(trainer: Any, config: Config) -> None:
    """See that the processes train together, and are sharded as was asked: not always so.

    A launcher that was told otherwise trains as something else and does not say so.

    Raises:
        RunError: If they do not.
    """
    accelerator = trainer.accelerator
    problems = []
    if accelerator.num_processes != world_size():
        what = f"{world_size()} processes were started, and {accelerator.num_processes} train"
        problems.append(Problem(f"{config.name}: distributed", what, "start with --num-processes"))
    backend = config.settings.distributed.backend
    wanted = {"fsdp": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}.get(backend)
    found = accelerator.distributed_type.value
    if wanted is not None and found != wanted:
        what = f"{backend} was asked for, and this machine trains as {found}"
        fix = "set distributed.backend to ddp, or train on CUDA cards"
        problems.append(Problem(f"{config.name}: distributed.backend", what, fix))
    if problems:
        raise RunError(*problems)


def launched() -> bool:
    """Whether a launcher (ours, torchrun, accelerate, deepspeed, srun with one) started this."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def processes_of(config: Config) -> int:
    """How many processes train together: those that are here, or those that will be started."""
    return world_size() if launched() else config.settings.distributed.num_processes


def of_all_processes(kind: type, config: Config) -> Any:
    """TRL's class of arguments, which holds groups against all processes, started or not."""
    together = processes_of(config)
    if together == world_size():
        return kind
    return type(kind.__name__, (kind,), {"world_size": together})


def launch(config: Config, arguments: Sequence[str]) -> int:
    """Start the same command in so many processes, and wait for them.

    Args:
        config: Whose ``distributed`` says how many, and where.
        arguments: Of the command ``modelforge``.

    Returns:
        The exit code of the main process; 1 if it left none.
    """
    distributed = config.settings.distributed
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "code"
        command = [
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
            *("--num_processes", str(distributed.num_processes)),
            *("--num_machines", str(distributed.num_machines)),
            *("--machine_rank", str(distributed.machine_rank)),
            *("--main_process_port", str(distributed.main_port or 0)),
            *("--mixed_precision", "no", "--dynamo_backend", "no"),  # the trainer decides
        ]
        if distributed.main_address:
            command += ["--main_process_ip", distributed.main_address]
        command += ["-m", "modelforge", *arguments]
        say(f"starting {distributed.num_processes} processes with accelerate launch")
        process = subprocess.Popen(command, env={**os.environ, EXIT_CODE: str(code)})
        before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT,)}
        before[signal.SIGTERM] = signal.signal(
            signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM)
        )
        try:
            process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return int(code.read_text()) if code.is_file() else int(process.returncode != 0)


def leave_exit_code(code: int) -> None:
    """Tell the command that launched this process how it ended; only the main one does."""
    path = os.environ.get(EXIT_CODE)
    if path and os.environ.get("RANK") == "0":
        Path(path).write_text(str(code), encoding="utf-8")
