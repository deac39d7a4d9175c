"""How the best learning rate moves with model, batch and rank: what our defaults rest on.

    OMP_NUM_THREADS=1 python benchmarks/defaults.py sweep sft/tiny/sft ppo/stories260K/hh …
    python benchmarks/defaults.py table
    python benchmarks/defaults.py page

`sweep` trains one run for each rate × batch × rank × seed and adds a line for each to
`benchmarks/results/defaults.jsonl`; runs that stand there are not done again. All runs of a sweep
see the same rows once (``--rows``), so a larger batch means fewer steps. A strategy that samples
takes ``--rows`` divided by the batch as its steps; its reward is that of `numeric_answer`, or a
reward model of the sweep's pairs, trained once and kept in ``--keep``. `table` prints, for each
sweep, the held-out figures, the best rate, and the regret of ours. `page` writes docs/defaults.md.
The rows come from `--data` (gsm8k and other files, named in
`SWEEPS`), the larger models from `--models`; the tiny model and its data ship with the project.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from math import log
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
RESULTS = ROOT / "benchmarks" / "results" / "defaults.jsonl"

#: strategy/model/data → training rows, held-out rows (files), and the longest row in tokens.
SWEEPS: dict[str, tuple[str, str, int]] = {
    "sft/tiny/sft": ("sft_train", "sft_eval", 128),
    "dpo/tiny/preference": ("preference_train", "preference_eval", 128),
    "reward/tiny/preference": ("preference_train", "preference_eval", 128),
    "sft/stories260K/gsm8k": ("gsm8k_train", "gsm8k_test", 384),
    "sft/stories260K/roleplay": ("gpteacher_roleplay", "", 384),
    "dpo/stories260K/hh": ("hh_helpful_base_train", "hh_helpful_base_test", 384),
    "reward/stories260K/hh": ("hh_helpful_base_train", "hh_helpful_base_test", 384),
    "sft/SmolLM2-135M-Instruct/gsm8k": ("gsm8k_train", "gsm8k_test", 256),
    "sft/SmolLM2-135M-Instruct/roleplay": ("gpteacher_roleplay", "", 256),
    "dpo/SmolLM2-135M-Instruct/hh": ("hh_helpful_base_train", "hh_helpful_base_test", 256),
    "reward/SmolLM2-135M-Instruct/hh": ("hh_helpful_base_train", "hh_helpful_base_test", 256),
    "grpo/tiny/prompts": ("prompts_train", "prompts_eval", 128),
    "ppo/tiny/preference": ("preference_train", "preference_eval", 128),
    "ppo/stories260K/hh": ("hh_helpful_base_train", "hh_helpful_base_test", 384),
    "grpo/stories260K/hh": ("hh_helpful_base_train", "hh_helpful_base_test", 384),
    "ppo/SmolLM2-135M-Instruct/hh": ("hh_helpful_base_train", "hh_helpful_base_test", 256),
}
#: The rate of a sweep's reward model.
REWARD_RATE = 1e-3


def config_of(sweep: str, options: argparse.Namespace, **said: Any) -> dict[str, Any]:
    """The config of one run."""
    strategy, model, data = sweep.split("/")
    train, held_out, length = SWEEPS[sweep]
    folder = TINY / "data" if model == "tiny" else options.data
    rank, batch = said.pop("rank"), said.pop("batch")
    micro = min(batch, options.micro)
    values = {
        "strategy": strategy,
        "model_name": str(TINY / "model" if model == "tiny" else options.models / model),
        "dataset": str(folder / f"{train}.jsonl"),
        "max_samples": options.rows + (0 if held_out else options.held_out),
        "max_seq_length": length,
        "lora_r": rank,
        "lora_alpha": 32,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": batch // micro,
        "num_train_epochs": 1,
        "hardware_profile": "cpu",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "resume": "never",
        **said,
    }
    if rank == 0:
        del values["lora_alpha"]
    if strategy in ("ppo", "grpo"):
        values |= {"max_steps": options.rows // batch}
        values |= {"generation": {"max_new_tokens": length // 4}}
        values |= {"logging_strategy": "steps", "logging_steps": 1}
        del values["max_samples"], values["num_train_epochs"]
        if data == "prompts":
            values["rewards"] = ["numeric_answer"]
        else:
            values["reward_model"] = str(reward_model(model, data, options))
    if held_out:
        lines = (folder / f"{held_out}.jsonl").read_text(encoding="utf-8").splitlines()
        few = Path(options.scratch, f"{held_out}.jsonl")
        few.write_text("\n".join(lines[: options.held_out]) + "\n", encoding="utf-8")
        return values | {"eval_dataset": str(few)}
    return values | {"eval_split": options.held_out}


def reward_model(model: str, data: str, options: argparse.Namespace) -> Path:
    """The reward model of a sweep: one pass over its pairs, at a rate from its own sweep."""
    import modelforge

    name = f"{model}-{data}"
    if not (options.keep / name / "results.json").is_file():
        said = {"learning_rate": REWARD_RATE, "batch": 16, "rank": 16, "run_name": name}
        values = config_of(f"reward/{model}/{data}", options, **said)
        del values["max_samples"]
        with contextlib.redirect_stderr(io.StringIO()):
            modelforge.train({**values, "output_dir": str(options.keep)})
    return options.keep / name


def one(values: dict[str, Any], folder: str) -> dict[str, float]:
    """The held-out figures after one run, and the CPU seconds it took."""
    from modelforge.configfile.load import load_config
    from modelforge.training.prepare import prepare
    from modelforge.training.run import build_trainer, load

    begin = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        prepared = prepare(load_config({**values, "output_dir": folder}))
        trainer = build_trainer(prepared, load(prepared))
        before = trainer.evaluate() if prepared.strategy.generates else {}
        trainer.train()
        figures = trainer.evaluate()
    measure = prepared.strategy.measure.key
    wanted = ("eval_loss", measure, "eval_reward_stderr", "eval_kl/reference")
    found = {key: round(figures[key], 5) for key in wanted if key in figures}
    if before:
        found["before"] = round(before[measure], 5)
        del found["eval_loss"]  # of the policy: no measure of what it learned
    key = "value/explained_variance"
    foreseen = dict.fromkeys(row[key] for row in trainer.state.log_history if key in row)
    if foreseen:  # a rollout serves several updates
        found["explained_variance"] = round(statistics.mean(foreseen), 3)
    return found | {"steps": trainer.state.global_step, "seconds": time.process_time() - begin}


def sweep(names: list[str], options: argparse.Namespace) -> None:
    """Every combination that has no line yet."""
    options.keep = (options.keep or Path(tempfile.mkdtemp())).resolve()
    done = {_key(row) for row in _rows()}
    for name in names:
        grid = itertools.product(options.seeds, options.ranks, options.batches, options.rates)
        for seed, rank, batch, rate in grid:
            row: dict[str, Any] = {"sweep": name, "rows": options.rows, "rate": rate}
            row |= {"batch": batch, "rank": rank, "seed": seed}
            if _key(row) in done:
                continue
            said = {"learning_rate": rate, "batch": batch, "rank": rank, "seed": seed}
            with tempfile.TemporaryDirectory() as folder:
                options.scratch = folder
                row |= one(config_of(name, options, **said), folder)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def _rows() -> list[dict[str, Any]]:
    if not RESULTS.is_file():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("sweep", "rows", "rate", "batch", "rank", "seed"))


def measured() -> list[str]:
    """Our sweeps as a table: the best rate, and what ours leaves on the table."""
    from modelforge import registry

    cells: dict[tuple[str, int, int, int], dict[float, list[float]]] = defaultdict(dict)
    for row in _rows():
        rates = cells[row["sweep"], row["rows"], row["batch"], row["rank"]]
        figure = row["eval_reward"] if "eval_reward" in row else row["eval_loss"]
        rates.setdefault(row["rate"], []).append(figure)
        if "before" in row:
            rates.setdefault(0.0, []).append(row["before"])
    lines = []
    for (name, rows, batch, rank), rates in sorted(cells.items()):
        starts = rates.pop(0.0, None)
        if len(rates) < 2:
            continue
        means = {rate: statistics.mean(found) for rate, found in sorted(rates.items())}
        best = (max if starts else min)(means, key=means.__getitem__)
        shown = ", ".join(f"{rate:g}: {figure:.4f}" for rate, figure in means.items())
        if starts:
            shown = f"reward, before {statistics.mean(starts):.4f}, after {shown}"
        strategy, model, _ = name.split("/")
        regret = "–"
        if batch == (128 if strategy == "grpo" else 16):
            ours = registry.get_strategy(strategy)().learning_rate("llama", MODELS[model])
            assert ours is not None
            near = min(means, key=lambda rate: abs(log(rate / ours[0])))
            lost = abs(means[best] - means[near])
            told = f"{lost:.3f}" if starts else f"{lost / means[best]:.1%}"
            regret = f"{told} (at {near:g})"
        seeds = max(len(found) for found in rates.values())
        cells_ = (name, rows, batch, rank, seeds, shown, f"{best:g}", regret)
        lines.append("| " + " | ".join(map(str, cells_)) + " |")
    return lines


def page() -> str:
    """docs/defaults.md, from the code."""
    from modelforge import registry
    from modelforge.machine.hardware import list_profiles
    from modelforge.models import rates
    from modelforge.models.rates import AT_OUR_BATCH, FULL, OURS, SWEPT
    from modelforge.training.recipe import presets

    lines = [HEAD, "## Defaults of a strategy", ""]
    lines += ["| strategy | key | value | source |", "|---|---|---|---|"]
    for name in registry.list_strategies():
        strategy = registry.get_strategy(name)()
        if not type(strategy).__module__.startswith("modelforge.strategies."):
            continue
        lines += [f"| `{name}` | `{k}` | `{v}` | {w} |" for k, (v, w) in strategy.defaults.items()]
        prompts = type(strategy).settings.model_fields.get("prompts_per_step")
        rows, why = strategy.batch_rows
        if prompts is not None:
            lines.append(f"| `{name}` | `prompts_per_step` | `{prompts.default}` | {PROMPTS} |")
        else:
            lines.append(f"| `{name}` | rows of a step | {rows} | {why} |")
        least, most = strategy.ranks
        ranks = f"{least}" if least == most else f"{least} to {most}"
        fixed = RANK_RL if strategy.generates else RANK_PAIRS
        lines.append(f"| `{name}` | `lora_r` | {ranks} | {RANK if least != most else fixed} |")
    lines += ["", "## The learning rate of sft and qlora", "", RATES, ""]
    lines += [
        "| family | below | rate, 128 rows | ours, 16 rows | source |",
        "|---|---|---|---|---|",
    ]
    for row in SWEPT:
        families = ", ".join(row.families) or "any"
        below = "any size" if row.below >= 1e9 else f"{row.below:g} billion weights"
        source = row.seen or "taken over from the families above: no sweep is known"
        rate = "–" if row.seen == OURS else f"{row.rate:g}"
        ours = f"{row.rate * AT_OUR_BATCH:g}"
        lines.append(f"| {families} | {below} | {rate} | {ours} | {source} |")
    lines += ["", f"Where all weights are trained (`lora_r` 0), the rate is divided by {FULL}.", ""]
    lines += ["## The learning rate of the other strategies", "", ENDS, ""]
    lines += [f"| strategies | {' | '.join(SIZES)} | published from | source |"]
    lines += ["|---" * (len(SIZES) + 3) + "|"]
    ended = {"`reward`": rates.REWARD_RATES, "`dpo`, `kto`": rates.PAIR_RATES}
    ended |= {"`grpo`, `rloo`": rates.GROUP_RATES, "`ppo`, `rlhf`": rates.PPO_RATES}
    for names, ends in ended.items():
        found_ = " | ".join(f"{ends.rate(weights)[0]:.2g}" for weights in SIZES.values())
        lines.append(f"| {names} | {found_} | {ends.at:g} billion weights | {ends.seen} |")
    lines += [""]
    lines += ["## How a card computes", "", CARDS, "", "| profile | sets |", "|---|---|"]
    for profile in list_profiles():
        values = ", ".join(f"`{k}` {v}" for k, v in profile.defaults.items())
        lines.append(f"| `{profile.name}` | {values} |")
    lines += ["", "## Presets", "", "| `preset` | sets |", "|---|---|"]
    for name, values_ in presets().items():
        lines.append(f"| `{name}` | {', '.join(f'`{k}` {v}' for k, v in values_.items())} |")
    lines += ["", "## What was measured", "", MEASURED, ""]
    lines += ["| sweep | rows | batch | rank | seeds | held-out loss by rate | best | regret |"]
    lines += ["|---|---|---|---|---|---|---|---|", *measured(), ""]
    return "\n".join(lines)


MODELS = {"tiny": 1e5, "stories260K": 2.6e5, "SmolLM2-135M-Instruct": 1.35e8}
SIZES = {"at most 0.26 million": 2.6e5, "135 million": 1.35e8, "1 billion": 1e9, "8 billion": 8e9}
HEAD = """# Defaults, and where each is from

`python benchmarks/defaults.py page` writes this page from the code; a test holds the two together.
What you say in a config always comes over these values.
"""
PROMPTS = "a judgement: one prompt makes a noisy step, and peers take 16 to 64"
RANK = "by the tokens that are trained on: an adapter weight for each (Tinker's LoRA primer)"
RANK_RL = "a reward teaches little a completion, which a low rank holds (LoRA Without Regret, 2025)"
RANK_PAIRS = "a judgement: a label teaches little a row, much as a reward does"
RATES = """The third column is the Tinker cookbook's sweep, the one open sweep of LoRA rates: tulu3,
780 steps of 128 rows, alpha 32. Ours is half of it, for 16 rows. The half is a judgement: the
square root of the batch would give 0.35, no change 1. The first row is our own sweep."""
ENDS = """Nobody has published a sweep of LoRA rates for preferences or rewards, as far as we
have read. So there are two ends. The rate of the smallest models is from our own sweeps (below).
From the size in the column "published from" on, the rate is what published recipes with LoRA
take. Between the two sizes it is interpolated, the logarithm of the rate against that of the
weights, and no sweep has checked that. The recipes we read do not agree: for GRPO, Tinker's run
from 1e-5 (terminal tasks) over 2e-5 (MATH) and 4e-5 (code) to 8e-5 (GSM8K), verl's example with
LoRA takes 3e-6; for DPO, ms-swift takes 1e-4.

The small ends are judgements on the table below. For `reward`, 1e-3 is the best on real pairs
(hh), and the tiny model's own would have three to ten times more. For `dpo`, 3e-4 is the only
rate at which the loss on real pairs stays below its start (0.693); the tiny model's own pairs
would have thirty times more. For `ppo`, 3e-4 is a careful choice: on the tiny model 1e-3 and
3e-3 gain more in so few steps, and configs/tiny/ppo.json takes 1e-3; on stories260K with real
pairs 1e-3 moves the policy 8 to 10 nats an answer within 24 steps, one way or the other
([rlhf_real.md](../benchmarks/results/rlhf_real.md)), and no rate of the sweep gained. For
`grpo`, 2e-3 lies between the best two, and is what configs/tiny/grpo.json has gained with over
three seeds ([grpo_batch.md](../benchmarks/results/grpo_batch.md)). `kto` takes the rates of
`dpo`, and `rloo` those of `grpo`, unmeasured."""
CARDS = (
    "A profile decides memory alone. The plan then fits micro-batch and accumulation to the card."
)
MEASURED = """`python benchmarks/defaults.py sweep …` printed these figures (2026-11-27 and
2026-11-28, 2 cores x86_64, one thread). Each run sees its rows once, so a larger batch means
fewer steps. A run of ppo or grpo takes its rows divided by its batch as its steps, and its
answers have at most a quarter of the longest row's tokens. Regret is how far the figure at the
rate nearest to ours lies behind the best of the row: a share of the held-out loss, or a
difference of held-out reward. Our rates for models of this size were chosen on these rows, so a
regret says how far our rate is a compromise, and not how it does on others. Where the best rate
is the last of its grid, a better one may lie beyond it. The held-out rows are few (113 pairs of
hh), and the seeds one or two: a difference of a few hundredths may be chance. Nothing was swept
on a model of 135 million weights, and neither was kto, rloo or the rank."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["sweep", "table", "page"])
    parser.add_argument("names", nargs="*", help=", ".join(SWEEPS))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--models", type=Path, default=ROOT.parent / "shared" / "models")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3, 1e-2])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--ranks", type=int, nargs="+", default=[16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--micro", type=int, default=16)
    parser.add_argument("--keep", type=Path, help="a folder for the reward models of the sweeps")
    options = parser.parse_intermixed_args()
    if options.what == "table":
        print("\n".join(measured()))
    elif options.what == "page":
        (ROOT / "docs" / "defaults.md").write_text(page(), encoding="utf-8")
    else:
        sweep(options.names, options)


if __name__ == "__main__":
    main()
