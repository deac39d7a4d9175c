"""RLHF from preference pairs alone, judged by a second reward model; PPO, RLOO, GRPO.

    OMP_NUM_THREADS=1 python benchmarks/rlhf_judge.py [--seconds 40] [--seeds 0 1 2]
        [--only ppo rloo ...] [--keep FOLDER]

For each seed: a reward model is trained on `preference_train`, a judge on `preference_b_train`
(other pairs, other questions), then each algorithm trains the tiny model against the first for
the same CPU time of one thread, which is the wall time it takes alone on a machine. Reported is the
judge's mean score of sampled answers to held-out prompts, before and after, with its standard
error; no policy is trained on the judge. `--keep` keeps reward models and results in a folder, so
that the table can be made in pieces: what is there is not run again, and the table has all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import itertools
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"

COMMON: dict[str, Any] = {
    "model_name": str(TINY / "model"),
    "max_seq_length": 128,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "hardware_profile": "cpu",
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 4,
}
POLICY: dict[str, Any] = {
    "dataset": str(TINY / "data" / "preference_train.jsonl"),
    "eval_dataset": str(TINY / "data" / "preference_eval.jsonl"),
    "per_device_train_batch_size": 32,
    "max_steps": 100_000,
    "generation": {"max_new_tokens": 32},
    "eval_prompts": 150,
}
# The KL to the reference stands in PPO's and RLOO's reward for a completion, in GRPO's loss a
# token; each is given the weight that keeps its KL near 5 nats a completion.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "rloo": ("rloo", {"beta": 0.05, "num_generations": 4}),
    "grpo": ("grpo", {"beta": 0.05, "num_generations": 8}),
    "ppo": ("ppo", {}),
    "ppo, kl_coef 0.05": ("ppo", {"ppo": {"kl_coef": 0.05}}),
    "ppo, kl_coef 0.03": ("ppo", {"ppo": {"kl_coef": 0.03}}),
    "ppo, kl_coef 0.01": ("ppo", {"ppo": {"kl_coef": 0.01}}),
    "ppo, frozen": ("ppo", {"ppo": {"value_mode": "frozen"}}),
    "ppo, reference": ("ppo", {"ppo": {"reward_normalization": "reference"}}),
    "ppo, missing EOS 1": ("ppo", {"ppo": {"missing_eos_penalty": 1.0}}),
    "ppo, adapter": ("ppo", {"ppo": {"kl_coef": 0.05, "value_mode": "adapter"}}),
    "ppo, trunk": ("ppo", {"ppo": {"kl_coef": 0.05, "value_mode": "trunk"}}),
    "ppo, warmup 8": ("ppo", {"ppo": {"kl_coef": 0.05, "value_warmup_steps": 8}}),
    "ppo, no value clip": ("ppo", {"ppo": {"kl_coef": 0.05, "value_clip_range": None}}),
    "ppo, value rate 3e-2": ("ppo", {"ppo": {"kl_coef": 0.05, "value_learning_rate": 3e-2}}),
    "ppo, rollout 128": ("ppo", {"ppo": {"kl_coef": 0.05, "rollout_size": 128}}),
    "ppo, lambda 1": ("ppo", {"ppo": {"kl_coef": 0.05, "gae_lambda": 1.0}}),
}


def stop_after(seconds: float) -> Any:
    """A callback that ends training after so many seconds of CPU time (of the one thread)."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begin = time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = time.process_time() - self.begin > seconds

    return Stop()


def run(strategy: str, values: dict[str, Any], folder: Path, seconds: float | None = None) -> Any:
    """An ordinary run, its log kept quiet, stopped after so many seconds."""
    import modelforge
    from modelforge.configfile.load import load_config
    from modelforge.training import run as runs

    config = load_config(
        {"strategy": strategy, **COMMON, **values, "output_dir": str(folder), "resume": "never"}
    )
    build = runs.build_trainer

    def with_limit(*args: Any) -> Any:
        trainer = build(*args)
        if seconds is not None:
            trainer.add_callback(stop_after(seconds))
        return trainer

    runs.build_trainer = with_limit
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return modelforge.train(config)
    finally:
        runs.build_trainer = build


def reward_model(data: str, seed: int, folder: Path) -> Any:
    """A reward model of the pairs in `data`."""
    values = {
        "dataset": str(TINY / "data" / f"{data}_train.jsonl"),
        "eval_dataset": str(TINY / "data" / f"{data}_eval.jsonl"),
        "per_device_train_batch_size": 16,
        "max_steps": 120,
        "seed": seed,
    }
    return run("reward", values, folder)


def kl_of(model_dir: Path) -> float:
    """KL of a completion to the base (nats): sampled answers to the held-out prompts."""
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
    model = AutoPeftModelForCausalLM.from_pretrained(model_dir).eval()
    lines = Path(POLICY["eval_dataset"]).read_text().splitlines()
    inputs = tokenizer.apply_chat_template(
        [json.loads(line)["prompt"] for line in lines], add_generation_prompt=True,
        return_tensors="pt", return_dict=True, padding=True,
    )  # fmt: skip
    start = inputs.input_ids.shape[1]
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=32, do_sample=True, top_k=0)
        mask = torch.cat([inputs.attention_mask, torch.ones_like(ids[:, start:])], 1)
        ended = (ids[:, start:] == tokenizer.eos_token_id).int().cumsum(1)
        counts = (ended - (ids[:, start:] == tokenizer.eos_token_id).int()) == 0

        def logps() -> torch.Tensor:
            logits = model(input_ids=ids, attention_mask=mask).logits[:, start - 1 : -1]
            return logits.log_softmax(-1).gather(-1, ids[:, start:, None])[..., 0]

        policy = logps()
        with model.disable_adapter():
            return ((policy - logps()) * counts).sum(1).mean().item()


def foresight(run_dir: Path) -> tuple[float | None, float | None]:
    """Explained variance of the critic: at the end of the run's first fifth, and of its last."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
    key = "value/explained_variance"
    found = [(row["step"], row[key]) for row in rows if key in row]
    if not found:
        return None, None
    last = found[-1][0]
    parts = [[v for s, v in found if a * last <= s <= b * last] for a, b in ((0.1, 0.2), (0.8, 1))]
    early, late = (statistics.mean(part) if part else None for part in parts)
    return early, late


def measure(name: str, seed: int, seconds: float, folder: Path, models: Any) -> dict[str, Any]:
    """One policy: the judge's verdict before and after, and what it cost."""
    algorithm, keys = RUNS[name]
    values = {
        **POLICY,
        "reward_model": str(models[0]),
        "judge_model": str(models[1]),
        "seed": seed,
        **keys,
    }
    result = run(algorithm, values, folder, seconds)
    samples = json.loads((result.run_dir / "data.json").read_text())["eval_rows"]

    def score(figures: Any, name: str) -> tuple[float, float]:
        deviation = figures[f"eval_rewards/{name}/std"]
        return figures[f"eval_rewards/{name}/mean"], deviation / math.sqrt(samples)

    early, late = foresight(result.run_dir)
    return {
        "run": name,
        "seed": seed,
        "seconds": seconds,
        "steps": json.loads((result.run_dir / "results.json").read_text())["steps"],
        "judge before": score(result.before, "judge"),
        "judge after": score(result.after, "judge"),
        "reward after": score(result.after, "reward_model"),
        "kl": kl_of(result.model_dir),
        "early": early,
        "late": late,
    }


def judged(seed: int, folder: Path) -> list[dict[str, Any]]:
    """Folder and held-out accuracy of reward model and judge of a seed, trained once."""
    told = folder / f"models-{seed}.json"
    if not told.is_file():
        results = [reward_model(d, seed, folder) for d in ("preference", "preference_b")]
        found = [{"run": str(r.run_dir), "right": r.after["eval_accuracy"]} for r in results]
        told.write_text(json.dumps(found))
    return json.loads(told.read_text())


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The rows, and their means over the seeds with the standard error of those."""
    yield "| run | seed | steps | judge before | judge after | reward after | KL, nats "
    yield "| explained variance, early and late |\n|---|---|---|---|---|---|---|---|\n"
    for row in rows:
        keys = ("judge before", "judge after", "reward after")
        told = " | ".join("{:.2f} ± {:.2f}".format(*row[key]) for key in keys)
        seen = "–" if row["early"] is None else f"{row['early']:.2f}, {row['late']:.2f}"
        yield f"| {row['run']} | {row['seed']} | {row['steps']} | {told} | {row['kl']:.1f} "
        yield f"| {seen} |\n"
    yield "\n| run | judge's gain, mean over seeds | least | explained variance, early |\n"
    yield "|---|---|---|---|\n"
    for name in dict.fromkeys(row["run"] for row in rows):
        mine = [row for row in rows if row["run"] == name]
        gains = [row["judge after"][0] - row["judge before"][0] for row in mine]
        error = f" ± {statistics.stdev(gains) / len(gains) ** 0.5:.2f}" if len(gains) > 1 else ""
        early = [row["early"] for row in mine if row["early"] is not None]
        seen = f"{statistics.mean(early):.2f}" if early else "–"
        yield f"| {name} | {statistics.mean(gains):.2f}{error} | {min(gains):.2f} | {seen} |\n"


def main() -> None:
    """Run what is not there yet, and print the table of all that is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=["ppo", "rloo", "grpo"])
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    import torch
    import trl

    from modelforge.common.console import quieten

    quieten()
    with tempfile.TemporaryDirectory() as made:
        folder = (options.keep or Path(made)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "results.jsonl"
        rows = [json.loads(line) for line in log.open()] if log.is_file() else []
        rows = [row for row in rows if row["seconds"] == options.seconds]
        models = {seed: judged(seed, folder) for seed in options.seeds}
        for name, seed in itertools.product(options.only, options.seeds):
            if any((row["run"], row["seed"]) == (name, seed) for row in rows):
                continue
            paths = [model["run"] for model in models[seed]]
            rows.append(measure(name, seed, options.seconds, folder, paths))
            with log.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print("".join(table(rows[-1:])).splitlines()[2], file=sys.stderr, flush=True)
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, trl {trl.__version__}; "
        f"{options.seconds:g} s of CPU time to train a policy; mean ± standard error\n"
    )
    print("".join(table(rows)))
    told = "; ".join("{:.1%} and {:.1%}".format(*(m["right"] for m in p)) for p in models.values())
    print(f"Held-out pair accuracy of reward model and judge, by seed: {told}.")


if __name__ == "__main__":
    main()
