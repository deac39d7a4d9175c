"""A process of its own without its five seconds of imports: forked from one that has them.

``python tests/warm.py SOCKET`` is the server; it lives as long as its standard input is open.
``python tests/warm.py SOCKET python-arguments...`` stands for ``python python-arguments...``: the
server forks a process with the caller's environment, folder and open files, which runs them. The
caller passes signals on, ends as that process ended, and takes it along where it is killed.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
IMPORTED = [
    *("bitsandbytes", "jsonschema", "tensorboard.summary"),
    *("trl.trainer.sft_trainer", "trl.trainer.dpo_trainer", "trl.trainer.grpo_trainer"),
    "transformers.models.llama.modeling_llama",
    *("modelforge.cli.main", "modelforge.training.train", "modelforge.evaluation.report"),
    *("modelforge.plan", "modelforge.ppo.trainer"),
]


def serve(path: str) -> None:
    """Import what every run needs, then fork a guardian for each request."""
    for name in IMPORTED:
        importlib.import_module(name)
    assert threading.active_count() == 1  # a fork keeps one thread
    gc.freeze()  # nor does a fork look through it
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        print("ready", flush=True)
        while True:
            ready = select.select([listening, sys.stdin], [], [], 1)[0]
            while _reaped():
                pass
            if sys.stdin in ready:
                return
            if listening in ready:
                connection, _ = listening.accept()
                if os.fork() == 0:
                    listening.close()
                    _guard(connection)
                connection.close()


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _guard(connection: socket.socket) -> None:
    """Fork the process that was asked for, pass signals on to it, and report how it ended."""
    size = int.from_bytes(connection.recv(4), "big")
    message, files, _, _ = socket.recv_fds(connection, 1, 3)
    while len(message) < size:
        message += connection.recv(size - len(message))
    child = os.fork()
    if child == 0:
        connection.close()
        _become(json.loads(message), files)
    watched = os.pidfd_open(child)
    while True:
        ready = select.select([connection, watched], [], [])[0]
        if watched in ready:
            status = os.waitpid(child, 0)[1]
            connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
            os._exit(0)
        number = connection.recv(1)
        os.kill(child, number[0] if number else signal.SIGKILL)


def _become(request: dict, files: list[int]) -> None:
    """Run what ``python arguments...`` runs, in the caller's place."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.executable = request["executable"]  # what it starts is forked too
    arguments = [word for word in request["arguments"] if word != "-u"]  # torchrun's
    code = 0
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            sys.path[0] = request["folder"]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            sys.path[0] = ""
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = arguments
            sys.path[0] = str(Path(arguments[0]).parent)
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    # As Python ends, but for taking apart one by one what was imported: seconds for nothing.
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def ask(path: str, arguments: list[str]) -> int:
    """Have a process forked for these arguments, and wait for its end."""
    request = {
        "arguments": arguments,
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
        "executable": os.environ["WARM_PYTHON"],
    }
    message = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        for number in PASSED_ON:
            signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
        connection.sendall(len(message).to_bytes(4, "big"))
        socket.send_fds(connection, [message[:1]], [0, 1, 2])
        connection.sendall(message[1:])
        code = connection.recv(4)
    return int.from_bytes(code, "big", signed=True) if code else 1


def start(folder: Path) -> tuple[subprocess.Popen, Path]:
    """Start a server; returns it and the command that stands for ``python``."""
    path, python = folder / "warm.socket", folder / "python"
    this = Path(__file__).resolve()
    python.write_text(
        f'#!/bin/sh\nWARM_PYTHON={python} exec {sys.executable} -S -E {this} {path} "$@"\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    server = subprocess.Popen(
        [sys.executable, str(this), str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None and server.stdout.readline() == "ready\n"
    return server, python


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        ended = ask(sys.argv[1], sys.argv[2:])
        if ended < 0:
            if -ended != signal.SIGKILL:
                signal.signal(-ended, signal.SIG_DFL)
            os.kill(os.getpid(), -ended)
        raise SystemExit(ended)
