"""`modelforge docs`: where the pages are; with `--agent`, all of it in short for a coding agent."""

from __future__ import annotations

from typing import Annotated

import typer

from modelforge.errors import ConfigError, Problem

_AGENT = """\
# ModelForge {version}: one JSON or YAML config in; one trained, measured model out

Work in this order. Commands have --json (the answer on stdout, notes on stderr), except where
`--help` does not list it.
1. `modelforge init STRATEGY -o c.json` writes a config that runs, its JSON Schema and example rows.
   `--from FILE` carries over a config of TRL, LLaMA-Factory, Axolotl, ms-swift, torchtune, Unsloth.
2. `modelforge data c.json` shows rows with the trained tokens marked. No model is loaded.
3. `modelforge check c.json --json` finds every error before a model is loaded. Each problem has
   `where`, `what`, `fix`, and `patch` (JSON Patch) where the change is sure; `--fix` applies these.
4. `modelforge plan c.json --gpu rtx-4090` says memory and time, and fits the config to the card.
5. `modelforge train c.json --json` trains. The same command again resumes. `run_dir` holds the run.
6. `modelforge compare A=RUN B=RUN --data FILE --json` says which is better; `evaluate` scores one.
7. `modelforge export RUN --format merged|gguf|onnx|ollama`, `modelforge serve RUN`.

Exit codes: 0 done; 2 a mistake of the user's, told in one message; 75 stopped by a signal, run it
again; 1 a fault of ModelForge. `compare --gate`: 1 worse, 3 too few rows.

A config is flat. Required: `strategy`, `model_name` (hub id, folder, or a run's folder), `dataset`
(file, folder, hub id, or a list). Leave out what you do not know: rate, rank, batch and precision
are chosen with a reason (`choices.json` of the run). Each field of its TRL config is a key.
`--set key=value` overrides, `--set section.key=value` too. Unknown keys are refused.

| strategy | trains on | rows look like |
|---|---|---|
{strategies}

Rows are recognised by their columns in JSON, JSONL, CSV, Parquet and more.
Pipelines (`modelforge init NAME`): {pipelines}. Sizes: {sizes}. Profiles: {profiles}.
Rewards by name for grpo, rloo, ppo: {rewards}; or `file.py:function(completions, **columns)`.

A run's folder: `model/` (load it, or name the run as `model_name`), `results.json` (held-out
figures before and after), `metrics.jsonl`, `samples.jsonl`, `report.html`, `choices.json`,
`checkpoints/`.
In Python: `modelforge.train(config) -> Result` with `run_dir`, `before`, `after`, `model`,
`tokenizer`, `history`. Errors are `modelforge.UserError` with `problems`.

Do not: put a token into a config (set HF_TOKEN), guess memory (plan), train before `check` is ok,
report the training loss as quality (use `results.json`), edit a run's folder.
"""
_ROWS = {
    "demonstration": '{"messages": [{"role": "user", …}, {"role": "assistant", …}]}',
    "preference": '{"prompt": …, "chosen": …, "rejected": …}',
    "labelled": '{"prompt": …, "completion": …, "label": true}',
    "prompt": '{"prompt": …, "answer": …}',
}


def docs(
    agent: Annotated[
        bool, typer.Option("--agent", help="All of it in short, for a coding agent.")
    ] = False,
) -> None:
    """Print the documentation in short, for a coding agent (--agent)."""
    if not agent:
        fix = "add --agent; the pages for people are in docs/, and `make docs` builds their site"
        raise ConfigError(Problem("docs", "prints the short form alone", fix))
    typer.echo(for_an_agent(), nl=False)


def for_an_agent() -> str:
    """What a coding agent has to know, made of the tables that the commands use."""
    from importlib.metadata import version

    from modelforge import registry
    from modelforge.configfile.starts import PROFILES, starts
    from modelforge.rewards.builtin import BUILTIN

    strategies = (registry.get_strategy(name) for name in registry.list_strategies())
    return _AGENT.format(
        version=version("modelforge-trl"),
        strategies="\n".join(
            f"| `{s.name}` | {s.summary} | `{_ROWS[s.data_kind]}` |" for s in strategies
        ),
        pipelines=", ".join(starts()["pipelines"]),
        sizes=", ".join(starts()["sizes"]),
        profiles=", ".join(PROFILES),
        rewards=", ".join(BUILTIN),
    )
