"""`modelforge validate`, `play` and `replay`: rewards tried without a policy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from modelforge.cli.options import AsJson, ConfigFile, Overrides, print_json, working
from modelforge.common.console import headline, say, show_line, show_table, warn


def validate(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Score the reference answers by the rewards, and begin the environments; loads no model."""
    with working(as_json=as_json):
        from modelforge.configfile.load import load_config
        from modelforge.training.answers import validate as look

        told = look(load_config(config, overrides=overrides or ()))
        headline(f"Rewards on the first {told['rows']} rows")
        rows = [
            (name, r["weight"], _figure(r["right"]), _figure(r["wrong"]), r["unscored"])
            for name, r in told["rewards"].items()
        ]
        right = "right answers" if told["references"] else "any answer"
        show_table(("reward", "weight", right, "answers of other rows", "not scored"), rows)
        for name in told["reward_models"]:
            say(f"not tried, since it would have to be loaded: {name}")
        if told["tools"]:
            say(f"tools: {', '.join(told['tools'])}")
        if "environment" in told:
            _tell_environment(told["environment"])
        for name, r in told["rewards"].items():
            if told["references"] and r["right"] is not None and r["right"] <= r["wrong"]:
                warn(f"reward {name}: right answers get no more than others")
    if as_json:
        print_json(told)


def _tell_environment(told: Mapping[str, Any]) -> None:
    say(f"environment {told['name']} begins with:")
    for text in told["observations"]:
        say(f"  {text!r}")
    if told["at once"] is not None:
        say(f"  before anything is done it pays {told['at once']:g}")


def play(
    config: ConfigFile,
    rows: Annotated[int, typer.Option("--rows", help="How many prompts.", min=1)] = 5,
    overrides: Overrides = None,
) -> None:
    """Be the policy: answer the prompts of a config yourself, and see what they are worth.

    A line such as `minus {"a": 3, "b": 1}` calls a tool; any other line is the answer.
    """
    with working(as_json=False, lasting=True):
        from modelforge.configfile.load import load_config
        from modelforge.training.answers import Turn, ready

        loaded = load_config(config, overrides=overrides or ())
        prepared, found = ready(loaded)
        for name in found.left_out:
            say(f"not asked, since it would have to be loaded: {name}")
        lines = _lines()
        for number in range(min(rows, len(prepared.data.train))):
            row = prepared.data.train[number]
            turn = Turn(row, row["prompt"], found, loaded.name)
            headline(f"Prompt {number + 1}")
            show_line(Text(_words(turn.prompt)))
            if turn.tools:
                say(f"tools: {', '.join(turn.tools)}")
            for line in lines:
                asked = _call(line, turn.tools)
                if asked is None:
                    for name, score in turn.answer(line).items():
                        say(f"{name}: {_figure(score)}")
                    break
                say(f"→ {turn.use(*asked)}")
            else:
                return


def replay(
    run: Annotated[Path, typer.Argument(help="The folder of a run.", show_default=False)],
    rewards: Annotated[
        list[str],
        typer.Option("--rewards", help="A reward, as in a config: a name, or JSON. Repeatable."),
    ],
    as_json: AsJson = False,
) -> None:
    """Score the answers that a run kept by other rewards, and see where they differ."""
    with working(as_json=as_json):
        from modelforge.training.answers import replay as score

        told = score(run, rewards)
        headline(f"{told['rows']} answers")
        table = [(name, "old", _figure(mean), "") for name, mean in told["old"].items()]
        table += [
            (name, "new", _figure(mean), _figure(told["correlation"][name]))
            for name, mean in told["new"].items()
        ]
        show_table(("reward", "", "mean", "correlation with the old sum"), table)
        headline("Where they differ most")
        for row in told["differ"]:
            say(f"step {row['step']}: old {row['old']:g}, {row['reward']} {_figure(row['new'])}")
            say(f"  {_words(row['prompt'])[-100:]!r} → {_words(row['completion'])[:100]!r}")
    if as_json:
        print_json(told)


def _lines() -> Iterator[str]:
    """What is typed, up to its end."""
    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def _call(line: str, tools: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """The call that a line makes: a tool's name, and its arguments as JSON."""
    name, _, rest = line.strip().partition(" ")
    if name not in tools:
        return None
    try:
        arguments = json.loads(rest or "{}")
    except ValueError:
        return None
    return (name, arguments) if isinstance(arguments, dict) else None


def _words(said: Any) -> str:
    if isinstance(said, str):
        return said
    return "\n".join(f"{message['role']}: {message.get('content') or ''}" for message in said)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
