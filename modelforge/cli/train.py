"""`modelforge train` and `modelforge check`: a config trained, or seen to be one that can."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import modelforge
from modelforge.cli.options import (
    AsJson,
    ConfigFile,
    NumProcesses,
    Overrides,
    TrustRemoteCode,
    print_json,
    with_processes,
    working,
)
from modelforge.common.console import say
from modelforge.common.processes import is_main
from modelforge.errors import ConfigError, Problem
from modelforge.runs import files


def train(
    config: ConfigFile,
    set_: Overrides = None,
    num_processes: NumProcesses = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Train by a config. The same command again resumes a stopped run."""
    from modelforge.configfile.load import load_config
    from modelforge.machine.launch import launch, launched, leave_exit_code

    overrides = with_processes(set_, num_processes)
    with working(as_json=as_json):
        loaded = load_config(config, overrides=overrides, trust_remote_code=trust_remote_code)
    if loaded.settings.distributed.num_processes > 1 and not launched():
        sys.exit(launch(loaded, sys.argv[1:]))
    with working(as_json=as_json):
        result = modelforge.train(loaded)
    leave_exit_code(0)
    if as_json and is_main():
        print_json(
            {
                "run_dir": str(result.run_dir),
                "model_dir": str(result.model_dir),
                "before": dict(result.before),
                "after": dict(result.after),
            }
        )
    say(
        f"next: open {result.run_dir / files.REPORT}, or train on from it with model_name "
        f'"{result.run_dir}"'
    )


def check(
    config: ConfigFile,
    set_: Overrides = None,
    trust_remote_code: TrustRemoteCode = False,
    config_only: Annotated[
        bool, typer.Option("--config-only", help="Leave the data and the machine alone.")
    ] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what is sure; the file is kept as FILE.before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a config, then its data and TRL's own rules, without loading weights."""
    report: dict[str, Any] = {"config": "ok"}

    def checked() -> None:
        report.update(_check(config, set_, trust_remote_code, config_only=config_only))

    from modelforge.configfile.mend import mend

    with working(as_json=as_json):
        if fix and set_:
            raise ConfigError(Problem("--set", "has no place in a file", "leave it, or --fix"))
        if fix:
            report["changes"] = mend(config, checked, say)
        else:
            checked()
    if as_json:
        print_json(report)
    say(f"{config}: ok")


def _check(
    config: Path, set_: list[str] | None, trust_remote_code: bool, *, config_only: bool
) -> dict[str, Any]:
    """What there is to report of a config that can be trained; without its data, nothing.

    Raises:
        UserError: If it cannot.
    """
    from modelforge import registry
    from modelforge.configfile.load import load_config
    from modelforge.runs.folder import choices_json

    loaded = load_config(config, overrides=set_ or (), trust_remote_code=trust_remote_code)
    strategy = registry.get_strategy(loaded.settings.strategy)()
    if config_only:
        from modelforge.training.defaults import under_each_profile
        from modelforge.training.effects import refuse_idle_everywhere

        refuse_idle_everywhere(loaded, under_each_profile(loaded, strategy), strategy)
        return {}
    from modelforge.training.prepare import prepare, refuse_no_step, told_once

    with told_once():
        job = prepare(loaded)
        refuse_no_step(job)
        if strategy.stages(loaded):
            modelforge.RLHFTrainer(loaded).check()
    return {"choices": choices_json(job.config), "data": job.data.ledger.to_dict()}
