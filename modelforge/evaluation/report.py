"""What a finished run says of itself, read from its folder: the model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from modelforge import registry
from modelforge.errors import Problem, RunError
from modelforge.evaluation.neutral import told
from modelforge.evaluation.usage import usage
from modelforge.runs import files
from modelforge.runs.folder import RunDir


def model_card(folder: Path, results: Mapping[str, Any] | None = None) -> str:
    """A model card with the hub's metadata, the figures, and how to load the model.

    Args:
        folder: The run's folder, with the model.
        results: What ``results.json`` is going to hold, where it is not written yet.

    Raises:
        RunError: If the run is not finished and no results are given.
    """
    run = RunDir(folder)
    results = results or results_of(run)
    strategy = registry.get_strategy(run.read_json(files.CONFIG)["strategy"])
    chosen = choices(run)
    rows = run.read_json(files.DATA)["train_rows"]
    used = run.read_json(files.ENVIRONMENT)["versions"]
    summary = strategy.summary[0].upper() + strategy.summary[1:]
    lines = [
        f"---\n{_metadata(run, results).to_yaml()}\n---",
        f"# {folder.name}",
        f"{summary}, from `{_code(chosen['model_name']['value'])}`, "
        f"{results['steps']} steps on {rows} rows.",
        *([_compared(results)] if _compared(results) else []),
        *([stopped(results)] if stopped(results) else []),
        "## Figures",
        rows_of(("held-out", "before", "after"), figures_of(results)) or "No rows were held out.",
        *([verdict_of(results)] if verdict_of(results) else []),
        *([of_greedy(results)] if "greedy" in results else []),
        *([forgotten(results)] if "neutral" in results else []),
        *([remembered(results)] if "membership" in results else []),
        "## Load it",
        _usage(run, strategy.head, results),
        "## How it was made",
        rows_of(("key", "value"), [(k, f"`{_code(c['value'])}`") for k, c in chosen.items()]),
        "Made with "
        + ", ".join(
            f"{name} {used[name]}"
            for name in ("modelforge-trl", "trl", "transformers", "peft", "torch")
            if name in used
        )
        + ".",
    ]
    return "\n\n".join(lines) + "\n"


def results_of(run: RunDir) -> Mapping[str, Any]:
    """What its ``results.json`` holds.

    Raises:
        RunError: If the run is not finished.
    """
    if not run.finished:
        what = "holds no finished run"
        raise RunError(Problem(str(run.path), what, "run `modelforge train` on it to its end"))
    results: Mapping[str, Any] = run.read_json(files.RESULTS)
    return results


def _metadata(run: RunDir, results: Mapping[str, Any]) -> ModelCardData:
    """The card's front matter, with the figures as the hub shows them."""
    config = run.read_json(files.CONFIG)
    reward = registry.get_strategy(config["strategy"]).head == "reward"
    base = run.read_json(files.ENVIRONMENT)["origin"]["model"]
    sources = run.read_json(files.DATA)["sources"]
    held_out = [s for s in sources if s["role"] == "eval"] or sources
    # A hub data set by its id, a file by its name: its folder is of this machine only.
    names = [s["path"] if s["revision"] else Path(s["path"]).name for s in held_out]
    return ModelCardData(
        # The hub links the base by its id and refuses a card that names a folder of this machine.
        base_model=base if _hub_id(base) else None,
        library_name="peft" if _is_adapter(run) else "transformers",
        tags=["modelforge", config["strategy"], "trl"],
        model_name=run.path.name,
        eval_results=[
            EvalResult(
                task_type="text-classification" if reward else config["task"],
                dataset_type=", ".join(names),
                dataset_name=", ".join(names),
                metric_type=key.removeprefix("eval_"),
                metric_name=results["label"] if key == results["measure"] else None,
                metric_value=value,
            )
            for key, value in results["after"].items()
        ],
    )


def _hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _is_adapter(run: RunDir) -> bool:
    return (run.model / "adapter_config.json").is_file()


def choices(run: RunDir) -> dict[str, dict[str, Any]]:
    """The config's values worth a reader's time: those said, in their order, and those chosen."""
    stored = run.read_json(files.CHOICES)
    said = {key: stored["choices"][key] for key in stored["said"] if key in stored["choices"]}
    return said | stored["choices"]


def verdict_of(results: Mapping[str, Any]) -> str:
    """How sure the figure is that the run is judged by; nothing where no rows were held out."""
    if "no_signal" in results:
        silent = results["no_signal"]
        return f"Nothing was learned: the {silent['where']} {silent['what']}."
    if "verdict" not in results:
        return ""
    label: str = results["label"]
    told = f"{label[0].upper()}{label[1:]} (`{results['measure']}`): {results['verdict']}."
    shared = results.get("shared_with_training")  # none in a run of an earlier version
    if shared:
        kinds = ", ".join(f"{count} {kind}" for kind, count in shared.items())
        told += f" It flatters: held-out rows are also trained on ({kinds})."
    return told


def _compared(results: Mapping[str, Any]) -> str:
    """What got better, worse and cannot be told apart; nothing where nothing was compared."""
    found: str = results.get("compared", {}).get("told", "")
    return found


def of_greedy(results: Mapping[str, Any]) -> str:
    """How the likeliest answers are rewarded; nothing where none were given."""
    words: str = results.get("greedy", {}).get("told", "")
    return f"{words[0].upper()}{words[1:]}." if words else ""


def forgotten(results: Mapping[str, Any]) -> str:
    """How far the model moved on neutral texts; nothing where it was not looked at."""
    if "neutral" not in results:
        return ""
    words = told(results["neutral"])
    return f"{words[0].upper()}{words[1:]}."


def remembered(results: Mapping[str, Any]) -> str:
    """Whether the loss tells training rows from held-out ones; nothing where none were held out."""
    words: str = results.get("membership", {}).get("told", "")
    return f"{words[0].upper()}{words[1:]}." if words else ""


def stopped(results: Mapping[str, Any]) -> str:
    """Where and why the run stopped early; nothing where it did not."""
    words: str = results.get("stopped_early", {}).get("told", "")
    return f"{words[0].upper()}{words[1:]}." if words else ""


def figures_of(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Each held-out figure before and after, as text."""
    return [
        (key, _figure(results["before"].get(key)), _figure(value))
        for key, value in results["after"].items()
    ]


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"


def rows_of(head: tuple[str, ...], rows: list[Any]) -> str:
    """A table in Markdown; nothing where there are no rows."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def _code(value: Any) -> str:
    """A value inside of Markdown's backticks and of a table's cell: it ends neither."""
    return " ".join(str(value).replace("`", "'").replace("|", "\\|").split())


def _usage(run: RunDir, head: str, results: Mapping[str, Any]) -> str:
    blocks = usage_of(run, head, results)
    return "\n\n".join(f"```python\n{block}\n```" for block in blocks)


def usage_of(run: RunDir, head: str, results: Mapping[str, Any]) -> list[str]:
    """Blocks of Python that load and use the model."""
    return usage(
        run.model.resolve(),
        head=head,
        config=run.read_json(files.CONFIG),
        dtype=results["dtype"],
        chat=(run.model / "chat_template.jinja").is_file(),
    )
