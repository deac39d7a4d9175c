"""The command ``modelforge``. Thin: it reads arguments, calls the library, sets the exit code.

Exit codes: 0 done, 2 the user's input, 75 stopped by a signal and resumable, 1 our fault (with a
traceback).
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

import modelforge
from modelforge.common.processes import is_main
from modelforge.errors import Interrupted, UserError
from modelforge.machine.environment import prepare_environment
from modelforge.machine.launch import launch, launched, leave_exit_code

app = typer.Typer(
    name="modelforge",
    help="One JSON file in; one trained, measured, servable model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path, typer.Argument(help="A JSON or YAML config, or a run's folder.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key, over the file. Repeatable."),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Let a config that asks for it run the model's own code."
    ),
]
NumProcesses = Annotated[
    int | None,
    typer.Option("--num-processes", help="Processes that train together, one a card.", min=1),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a machine.")]


def main() -> None:
    """Entry point: a user's mistake is one clear message and exit code 2."""
    prepare_environment()
    try:
        app()
    except UserError as error:
        leave_exit_code(2)
        if not is_main():
            sys.exit(2)  # the main process says it for all
        if "--json" in sys.argv:
            _print_json({"problems": [vars(problem) for problem in error.problems]})
        else:
            from modelforge.common.console import show_error

            show_error(error)
        sys.exit(2)
    except Interrupted as stopped:
        from modelforge.common.console import say

        leave_exit_code(stopped.exit_code)
        say(str(stopped))
        sys.exit(stopped.exit_code)


@app.command()
def train(
    config: ConfigFile,
    set_: Overrides = None,
    num_processes: NumProcesses = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Train by a config. The same command again goes on where a stopped run was."""
    from modelforge.configfile.load import load_config

    overrides = _with_processes(set_, num_processes)
    loaded = load_config(config, overrides=overrides, trust_remote_code=trust_remote_code)
    if loaded.settings.distributed.num_processes > 1 and not launched():
        sys.exit(launch(loaded, sys.argv[1:]))
    from modelforge.common.console import quieten, say

    quieten()
    with redirect_stdout(sys.stderr):  # Unsloth prints, and stdout is for --json
        result = modelforge.train(loaded)
    leave_exit_code(0)
    if as_json and is_main():
        _print_json(
            {
                "run_dir": str(result.run_dir),
                "model_dir": str(result.model_dir),
                "before": dict(result.before),
                "after": dict(result.after),
            }
        )
    say(
        f"next: open {result.run_dir / 'report.html'}, or train on from it with model_name "
        f'"{result.run_dir}"'
    )


@app.command()
def check(
    config: ConfigFile,
    set_: Overrides = None,
    trust_remote_code: TrustRemoteCode = False,
    config_only: Annotated[
        bool, typer.Option("--config-only", help="Leave the data and the machine alone.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a config, then its data and TRL's own rules, without loading weights."""
    from modelforge.common.console import say
    from modelforge.configfile.load import load_config

    loaded = load_config(config, overrides=set_ or (), trust_remote_code=trust_remote_code)
    report: dict[str, Any] = {"config": "ok"}
    if not config_only:
        from modelforge.common.console import quieten
        from modelforge.runs.folder import choices_json
        from modelforge.training.prepare import prepare

        quieten()
        job = prepare(loaded)
        report |= {"choices": choices_json(job.config), "data": job.data.ledger.to_dict()}
    if as_json:
        _print_json(report)
    say(f"{config}: ok")


@app.command()
def plan(
    config: ConfigFile,
    set_: Overrides = None,
    trust_remote_code: TrustRemoteCode = False,
    vram: Annotated[
        float | None, typer.Option("--vram", help="Plan for a card of this many GB.", min=0.5)
    ] = None,
    num_processes: NumProcesses = None,
    profile: Annotated[str | None, typer.Option("--profile", help="With its defaults.")] = None,
    as_it_is: Annotated[
        bool, typer.Option("--as-it-is", help="Change nothing to make it fit.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what memory a run needs, part by part, and fit the config to a card."""
    from modelforge.configfile.load import load_config

    overrides = _with_processes(set_, num_processes)
    overrides += [] if profile is None else [f"hardware_profile={profile}"]
    # The card that is asked about takes the place of the budget for this machine's.
    overrides += [] if vram is None else ["memory_budget_gb=null"]
    loaded = load_config(config, overrides=overrides, trust_remote_code=trust_remote_code)
    from modelforge.cli.plan import show_plan
    from modelforge.common.console import quieten

    quieten()
    planned, filled = show_plan(loaded, vram_gb=vram, as_it_is=as_it_is)
    if as_json:
        from modelforge.runs.folder import choices_json

        _print_json(planned.to_dict() | {"choices": choices_json(filled)["choices"]})


@app.command()
def data(
    config: ConfigFile,
    set_: Overrides = None,
    trust_remote_code: TrustRemoteCode = False,
    rows: Annotated[int, typer.Option("--rows", help="Rows to show.", min=0)] = 3,
    to: Annotated[
        Path | None, typer.Option("--to", help="Write the rows in normal form to this .jsonl.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is trained on: statistics, and rows coloured by what is trained and masked."""
    from modelforge.configfile.load import load_config

    loaded = load_config(config, overrides=set_ or (), trust_remote_code=trust_remote_code)
    from modelforge.cli.data import show_data
    from modelforge.common.console import quieten

    quieten()
    ledger = show_data(loaded, rows=rows, to=to)
    if as_json:
        _print_json(ledger.to_dict())


@app.command()
def init(
    strategy: Annotated[str, typer.Argument(help="sft, qlora, reward, dpo, grpo, …")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    yaml: Annotated[bool, typer.Option("--yaml", help="Commented YAML instead of JSON.")] = False,
) -> None:
    """Write a config to start from."""
    from modelforge.configfile.presets import write_preset

    path = write_preset(strategy, output, yaml=yaml)
    typer.echo(f"wrote {path}: set model_name and dataset, then run `modelforge train {path}`")


@app.command()
def strategies(as_json: AsJson = False) -> None:
    """List the strategies."""
    from modelforge import registry

    listed = {name: registry.get_strategy(name) for name in registry.list_strategies()}
    if as_json:
        _print_json(
            {
                name: {
                    "summary": cls.summary,
                    "data": cls.data_kind,
                    "measure": cls.measure.label,
                    "defaults": {k: v for k, (v, _) in cls.defaults.items()},
                }
                for name, cls in listed.items()
            }
        )
        return
    for name, cls in listed.items():
        typer.echo(f"{name:8} {cls.summary}; data: {cls.data_kind}; measure: {cls.measure.label}")


@app.command()
def profiles(as_json: AsJson = False) -> None:
    """List the hardware profiles and what they set."""
    from modelforge.machine.hardware import list_profiles

    listed = list_profiles()
    if as_json:
        _print_json([vars(profile) for profile in listed])
        return
    for profile in listed:
        typer.echo(f"{profile.name:5} {profile.summary}")
        typer.echo("      " + ", ".join(f"{k} {v}" for k, v in profile.defaults.items()))


@app.command()
def schema(
    strategy: Annotated[str, typer.Argument(help="Whose schema to print.")],
    build: Annotated[
        bool, typer.Option("--build", help="Make it anew from the installed TRL.")
    ] = False,
) -> None:
    """Print a strategy's JSON Schema."""
    from modelforge import registry
    from modelforge.configfile import schema as schemas

    chosen = registry.get_strategy(strategy)
    _print_json(schemas.build(chosen) if build else schemas.load(chosen))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, what this machine has, and what can run here."""
    from modelforge.cli.doctor import examine

    report = examine()
    if as_json:
        _print_json(report)
        return
    for part, value in report.items():
        typer.echo(f"{part}:")
        items = value.items() if isinstance(value, dict) else [("", value)]
        for key, inner in items:
            typer.echo(f"  {key + ': ' if key else ''}{inner}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the runs.")] = Path(
        "runs/demo"
    ),
    as_json: AsJson = False,
) -> None:
    """Train the tiny model that comes along: sft, then dpo, measured before and after."""
    from modelforge.cli.demo import run_demo
    from modelforge.common.console import quieten

    quieten()
    report = run_demo(output)
    if as_json:
        _print_json(report)


def _with_processes(overrides: list[str] | None, num_processes: int | None) -> list[str]:
    said = [] if num_processes is None else [f"distributed.num_processes={num_processes}"]
    return [*(overrides or ()), *said]


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


if __name__ == "__main__":
    main()
