"""What a finished run says of itself: the model card, and the run on one page."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelforge.machine.versions import versions

if TYPE_CHECKING:
    from modelforge.training.prepare import Prepared

_CHART_WIDTH, _CHART_HEIGHT, _CHARTS = 420, 140, 8


def model_card(job: Prepared, results: Mapping[str, Any]) -> str:
    """A model card with the hub's metadata, the figures, and how to load the model."""
    settings = job.config.settings
    is_adapter = (job.run.model / "adapter_config.json").is_file()
    metadata = {
        "library_name": "peft" if is_adapter else "transformers",
        "base_model": settings.model_name,
        "tags": ["modelforge", settings.strategy, "trl"],
    }
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in metadata.items())
    used = versions()
    lines = [
        f"---\n{front}\n---",
        f"# {job.run.path.name}",
        f"{job.strategy.summary[0].upper()}{job.strategy.summary[1:]}, from "
        f"`{settings.model_name}`, {results['steps']} steps on {job.data.ledger.train_rows} rows.",
        "## Figures",
        _markdown_figures(results) or "No rows were held out.",
        "## Load it",
        _load_snippet(job, is_adapter),
        "## How it was made",
        "| key | value |\n|---|---|\n"
        + "\n".join(f"| {k} | `{v}` |" for k, v in _told(job).items()),
        "Made with "
        + ", ".join(
            f"{name} {used[name]}"
            for name in ("modelforge-trl", "trl", "transformers", "peft", "torch")
            if name in used
        )
        + ".",
    ]
    return "\n\n".join(lines) + "\n"


def _told(job: Prepared) -> dict[str, Any]:
    """The config's values worth a reader's time: those said or chosen."""
    return {key: job.config.get(key) for key in job.config.choices}


def _markdown_figures(results: Mapping[str, Any]) -> str:
    rows = [
        f"| {key} | {_figure(results['before'].get(key))} | {_figure(value)} |"
        for key, value in results["after"].items()
    ]
    return "\n".join(["| held-out | before | after |", "|---|---|---|", *rows]) if rows else ""


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"


def _load_snippet(job: Prepared, is_adapter: bool) -> str:
    head = "SequenceClassification" if job.strategy.head == "reward" else "CausalLM"
    library, kind = ("peft", "AutoPeftModelFor") if is_adapter else ("transformers", "AutoModelFor")
    extra = ", num_labels=1" if job.strategy.head == "reward" and is_adapter else ""
    return (
        f"```python\nfrom {library} import {kind}{head}\nfrom transformers import AutoTokenizer\n\n"
        f'model = {kind}{head}.from_pretrained("{job.run.model}"{extra})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{job.run.model}")\n```'
    )


def html_report(
    job: Prepared, results: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> str:
    """The run as one page without scripts or outside files: figures, curves, samples, choices."""
    metrics = job.run.path / "metrics.jsonl"
    rows = []
    if metrics.is_file():
        rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figures = [
        (key, _figure(results["before"].get(key)), _figure(value))
        for key, value in results["after"].items()
    ]
    choices = [
        (key, choice.value, choice.source, choice.reason)
        for key, choice in job.config.choices.items()
    ]
    shown = [
        tuple(
            json.dumps(value, ensure_ascii=False, indent=1) if not isinstance(value, str) else value
            for value in sample.values()
        )
        for sample in samples
    ]
    body = [
        f"<h1>{html.escape(job.run.path.name)}</h1>",
        f"<p>{html.escape(job.strategy.summary)}; {results['steps']} steps</p>",
        "<h2>Held-out figures</h2>",
        _table(("figure", "before", "after"), figures),
        "<h2>Training</h2>",
        *_charts(rows),
        "<h2>Samples</h2>",
        _table(tuple(samples[0]) if samples else (), shown),
        "<h2>Data</h2>",
        "<pre>" + html.escape("\n".join(job.data.ledger.summary_lines())) + "</pre>",
        "<h2>Choices</h2>",
        _table(("key", "value", "source", "reason"), choices),
    ]
    style = (
        "body{font:15px system-ui;max-width:70em;margin:2em auto;padding:0 1em}"
        "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.3em .6em;"
        "text-align:left;vertical-align:top;white-space:pre-wrap}"
        "figure{display:inline-block;margin:.5em}svg{background:#f6f6f6}"
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>'
        f"{html.escape(job.run.path.name)}</title><style>{style}</style></head><body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def cells(values: Sequence[Any], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values)

    lines = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{cells(head, 'th')}</tr>{lines}</table>"


def _charts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One curve for each figure logged at two steps or more, the first few of them."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, value in row.items():
            if isinstance(value, int | float) and key not in ("step", "epoch", "num_tokens"):
                curves.setdefault(key, []).append((row["step"], value))
    return [_chart(key, points) for key, points in curves.items() if len(points) > 1][:_CHARTS]


def _chart(title: str, points: Sequence[tuple[float, float]]) -> str:
    steps, values = [p[0] for p in points], [p[1] for p in points]
    low, high = min(values), max(values)
    across = (_CHART_WIDTH - 20) / max(steps[-1] - steps[0], 1)
    up = (_CHART_HEIGHT - 20) / ((high - low) or 1)
    path = " ".join(
        f"{10 + (step - steps[0]) * across:.1f},{_CHART_HEIGHT - 10 - (value - low) * up:.1f}"
        for step, value in points
    )
    caption = f"{title}: {values[0]:.4g} → {values[-1]:.4g} (between {low:.4g} and {high:.4g})"
    return (
        f'<figure><svg width="{_CHART_WIDTH}" height="{_CHART_HEIGHT}"><polyline points="{path}" '
        f'fill="none" stroke="#06c" stroke-width="1.5"/></svg>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
