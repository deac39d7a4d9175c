"""Secrets are kept out of what is shown and written: by name, by value and by form."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

# The environment's variables that hold secrets end so; a config's keys, which may also name a token
# of a vocabulary or a dictionary's key, say more.
_VARIABLE = re.compile(r"(?:^|_)(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_KEY = re.compile(
    r"(?:^|[_-])(?:(?:api|access|private|secret|auth)[_-]?(?:key|token)|(?:hf|hub|wandb)[_-]token|"
    r"secret|password|passwd|credentials?)$",
    re.IGNORECASE,
)
# How the hub, wandb's new keys, the common model services and a URL with a password write theirs.
_FORM = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bwandb_v1_[A-Za-z0-9_]{20,}|\bgh[pousr]_\w{20,}"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_SHORTEST = 8  # below it a variable's value is a word that may stand anywhere


def redact(text: str) -> str:
    """The text with every secret of the environment, and all that looks like one, left out.

    >>> redact("401 for hf_abcdefghijklmnopqrstuvwxyz")
    '401 for <secret>'
    """
    for name, value in _environment():
        text = text.replace(value, f"<{name}>")
    return _FORM.sub("<secret>", text)


def secrets_in(value: Any, path: str = "") -> Iterator[str]:
    """The keys of a config at which a secret stands: ``rewards[0].arguments.api_key``."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            here = f"{path}.{key}" if path else str(key)
            if isinstance(inner, str) and inner and _KEY.search(str(key)):
                yield here
            elif here != "columns":  # those are names of columns
                yield from secrets_in(inner, here)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from secrets_in(inner, f"{path}[{index}]")
    elif isinstance(value, str):
        known = (secret for _, secret in _environment())
        if _FORM.search(value) or value in known:
            yield path


def _environment() -> Iterator[tuple[str, str]]:
    """The secrets of the environment: names and values."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _VARIABLE.search(name):
            yield name, value
