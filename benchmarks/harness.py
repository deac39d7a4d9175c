"""One number: by our evaluator, by lm-eval with the adapter, by lm-eval on the merged model.

    OMP_NUM_THREADS=1 python benchmarks/harness.py [--steps 60] [--rows 60] [--merged f32|bf16]

It needs the extra ``eval``. The tiny model learns the demonstrations, with its base in 32 bits and
in 4-bit. Answers to the held-out questions are then right where they are the data's, word for word:
by `modelforge evaluate`, by a task of lm-eval's with the adapter as it was trained, and by the same
task on the model that `modelforge export` merges. Merged in 32 bits all three have to be one
number; `--merged bf16` shows what rounding does. The task's rows lie in a file; nothing is
downloaded.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
TASK = """
task: answers
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{target}}"
generation_kwargs: {until: ["<|eos|>"], do_sample: false, max_gen_toks: 24}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def same(completions, answer, **columns):
    """The reward: 1 for the data's answer, word for word."""
    texts = [each[-1]["content"] for each in completions]
    return [float(one == other) for one, other in zip(texts, answer, strict=True)]


def asked(folder: Path, rows: int) -> tuple[Path, Path]:
    """The questions as a task of lm-eval's, and as data of ours."""
    lines = (ROOT / "examples/tiny/data/sft_eval.jsonl").read_text().splitlines()[:rows]
    pairs = [[turn["content"] for turn in json.loads(line)["messages"]] for line in lines]
    task, ours = folder / "tasks", folder / "ours.jsonl"
    task.mkdir()
    rows_of_task = [json.dumps({"question": q, "target": a}) for q, a in pairs]
    (folder / "task.jsonl").write_text("\n".join(rows_of_task))
    (task / "answers.yaml").write_text(TASK.replace("DATA", str(folder / "task.jsonl")))
    prompts = [{"prompt": [{"role": "user", "content": q}], "answer": a} for q, a in pairs]
    ours.write_text("\n".join(map(json.dumps, prompts)))
    return task, ours


def measured(folder: Path, strategy: str, steps: int, rows: int, kind: str) -> None:
    """Train, ask in three ways, and print a line."""
    import modelforge
    from modelforge.evaluation.harness import Asked, benchmark
    from modelforge.export.export import export

    folder.mkdir()
    task, ours = asked(folder, rows)
    config = ROOT / "configs" / "tiny" / f"{strategy}.json"
    told = [f"max_steps={steps}", "learning_rate=0.01", f"output_dir={folder}", "report_to=none"]
    told.append(f"use_4bit={str(strategy == 'qlora').lower()}")
    run = modelforge.train(config, overrides=told).run_dir
    found = modelforge.evaluate(
        str(run), str(ours), metrics=["same"], rewards=[f"{__file__}:same"], max_new_tokens=24,
        output_dir=folder / "kept",
    )  # fmt: skip
    merged = folder / "merged"
    export(str(run), format="merged", kind=kind, output=merged)
    by = Asked(("answers",), include=task, output_dir=folder / "kept")
    theirs = [benchmark(str(model), by) for model in (run, merged)]
    figures = [found.metrics["same"], *(each.metrics["answers exact_match"] for each in theirs)]
    texts = [[row["resps"][0][0].strip() for row in each.rows] for each in (found, *theirs)]
    alike = sum(len(set(each)) == 1 for each in zip(*texts, strict=True))
    cells = " | ".join(f"{figure:.6f}" for figure in figures)
    print(f"| {strategy} | {cells} | {alike} of {rows} |", flush=True)
    assert kind != "f32" or len(set(figures)) == 1, figures


def main() -> None:
    """Read the options, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--merged", choices=("f32", "bf16"), default="f32")
    args = parser.parse_args()
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
          f"lm-eval {version('lm-eval')}\n\n"
          "| base | modelforge evaluate | lm-eval, adapter | lm-eval, merged | answers alike |\n"
          "|---|---|---|---|---|", flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for strategy in ("sft", "qlora"):
            measured(Path(folder, strategy), strategy, args.steps, args.rows, args.merged)


if __name__ == "__main__":
    main()
