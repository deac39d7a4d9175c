"""ms-swift's flags → ours.

As in `modelforge.importing.values`, each function is named in ``configs/peers``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modelforge.importing.theirs import Line, Theirs, listed, says_something

_ENVIRONMENT = {
    "NNODES": "distributed.num_machines",
    "NODE_RANK": "distributed.machine_rank",
    "MASTER_ADDR": "distributed.main_address",
    "MASTER_PORT": "distributed.main_port",
}
_CUT = {
    "delete": "dropped there; cut at the end here",
    "left": "cut at the begin there; cut at the end here",
    "split": "split into several rows there; cut at the end here",
}


def environment(t: Theirs, variables: Mapping[str, str]) -> None:
    """Environment variables before a command."""
    machines = variables.get("NNODES", "1")
    several = machines.isdigit() and int(machines) > 1
    for name, text in variables.items():
        if name in ("MAX_PIXELS", "VIDEO_MAX_PIXELS", "FPS_MAX_FRAMES", "IMAGE_MAX_TOKEN_NUM"):
            t.refuse(name, "pictures, videos and sounds: every strategy trains text")
        elif name == "NPROC_PER_NODE" and text.isdigit():
            processes = int(text) * (int(machines) if several else 1)
            t.put(name, text, "distributed.num_processes", processes)
        elif name in _ENVIRONMENT and text.isdigit() and several:
            t.put(name, text, _ENVIRONMENT[name], int(text))
        else:
            t.lines.append(_stays(name, text))


def _stays(name: str, text: str) -> Any:
    return Line(
        name, text, "unneeded", note="an environment variable: set it in the shell as before"
    )


def swift_system(t: Theirs, key: str, value: Any) -> None:
    """The system message, as a text or in a file."""
    text = str(value or "")
    found = t.local(text) if len(text) < 200 else None
    if not text:
        t.lose(key, "")
    elif found is not None and found.is_file():
        t.put(
            key,
            value,
            "system_prompt",
            found.read_text(encoding="utf-8").strip(),
            "the file's text",
        )
    elif text.startswith("$"):
        t.open(key, f"is the shell's variable {text}: set system_prompt to its text")
    else:
        t.put(key, value, "system_prompt", text)


def swift_loss_scale(t: Theirs, key: str, value: Any) -> None:
    """Which tokens are trained on."""
    meant = {"last_round": "last", "all": "everything"}
    if value in meant:
        t.put(key, value, "train_on", meant[value])
    elif value in (None, "default"):
        t.leave(key, "all turns of the assistant, as here")
    else:
        t.lose(key, "train_on takes all, last and everything; rows may have weights")


def swift_sleep(t: Theirs, key: str, value: Any) -> None:
    """vLLM's sleep."""
    if says_something(value) and str(value) != "0":
        t.put(key, value, "vllm_enable_sleep_mode", True)
    else:
        t.lose(key, "")


def cut(t: Theirs, key: str, value: Any) -> None:
    """What becomes of rows that are too long."""
    if value in (None, "right", "delete", "left", "split"):
        kind = _CUT.get(str(value), "")
        t.lose(key, kind) if kind else t.leave(key, "rows are cut at the end, as there")
    else:
        t.lose(key, "rows are cut at the end")


def swift_bits(t: Theirs, key: str, value: Any) -> None:
    """The library that quantises."""
    if value in (None, "bnb"):
        t.leave(key, "bitsandbytes, as here")
    else:
        t.refuse(key, f"{value}: the base is quantised by bitsandbytes here")


def as_json(value: Any) -> Any:
    """A value that a command line gives as JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def json_value(t: Theirs, key: str, value: Any) -> None:
    """The same here, from its JSON text."""
    parsed = as_json(value)
    if isinstance(parsed, str):
        parsed = [parsed] if key.endswith("names") else parsed
    t.put(key, value, key.rpartition(".")[2], parsed)


def quietly(t: Theirs, key: str, value: Any) -> None:
    """A key that was read with another, whatever it says."""
    if not t.told(key):
        t.leave(key, "it was read with the others") if value is not None else t.lose(key, "")


def new_tokens(t: Theirs, key: str, value: Any) -> None:
    """Marks that are added."""
    t.put(key, value, "add_special_tokens", listed(value)) if value else t.lose(key, "")
