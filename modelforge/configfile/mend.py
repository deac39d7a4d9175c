"""`modelforge check --fix`: what the errors of a config say would mend it is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import yaml

from modelforge.common.files import write_whole, writing
from modelforge.common.patch import patched, said
from modelforge.configfile.load import raw_config
from modelforge.errors import ConfigError, Problem, UserError

# One check may stop at the first kind of problem, and the next be seen once that is mended.
_ROUNDS = 20


def mend(path: Path, check: Callable[[], None], tell: Callable[[str], None]) -> list[str]:
    """Patch a config until a check passes, or says nothing that would mend it.

    The file as it was is kept beside it.

    Args:
        path: A JSON or YAML file.
        check: Checks what the file holds by now.
        tell: Is told each change.

    Returns:
        What was changed, in words.

    Raises:
        UserError: What is left.
    """
    if path.is_dir():
        what = "is a run's folder, whose config is what the run began with"
        raise ConfigError(Problem(f"--fix {path}", what, "name a config file"))
    changes: list[str] = []
    for _ in range(_ROUNDS):
        try:
            check()
            return changes
        except UserError as error:
            done = _applied(path, error, first=not changes)
            if not done:
                raise
            for change in done:
                tell(f"{path}: {change}")
            changes += done
    check()
    return changes


def _applied(path: Path, error: UserError, *, first: bool) -> list[str]:
    """Write the file with every patch that can be applied; what they did."""
    patches = [problem.patch for problem in error.problems if problem.patch]
    if not patches:
        return []
    values, done = raw_config(path), []
    for patch in patches:
        try:
            values = patched(values, patch)
        except (LookupError, TypeError):
            continue  # another patch has changed that place
        done += [said(operation) for operation in patch]
    if not done:
        return []
    if path.suffix in (".yaml", ".yml"):
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    else:
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    with writing(path, "make room, or mend a copy in another folder"):
        if first:
            shutil.copy2(path, _free(path))
        write_whole(path, text)
    return done


def _free(path: Path) -> Path:
    """A name beside the file that nothing has."""
    names = [path.with_name(f"{path.name}.before{number or ''}") for number in range(1000)]
    return next(name for name in names if not name.exists())
