"""RLHF from preference pairs alone, judged by a second reward model; PPO, RLOO, GRPO.

    OMP_NUM_THREADS=1 python benchmarks/rlhf_judge.py [--seconds 40] [--seeds 0 1 2]

For each seed: a reward model is trained on `preference_train`, a judge on `preference_b_train`
(other pairs, other questions), then each algorithm trains the tiny model against the first for
the same CPU time of one thread, which is the wall time it takes alone on a machine. Reported is the
judge's mean score of sampled answers to held-out prompts, before and after, with its standard
error; no policy is trained on the judge.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import math
import os
import platform
import statistics
import tempfile
import time
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
    "logging_steps": 10,
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
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {"ppo": {"kl_coef": 0.05, "value_learning_rate": 1e-2}},
    "rloo": {"beta": 0.05, "num_generations": 4},
    "grpo": {"beta": 0.05, "num_generations": 8},
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


def measure(algorithm: str, seed: int, seconds: float, folder: Path, models: Any) -> dict[str, Any]:
    """One policy: the judge's verdict before and after, and what it cost."""
    reward, judge = models
    values = {
        **POLICY,
        "reward_model": str(reward.run_dir),
        "judge_model": str(judge.run_dir),
        "seed": seed,
        **ALGORITHMS[algorithm],
    }
    result = run(algorithm, values, folder, seconds)
    samples = json.loads((result.run_dir / "data.json").read_text())["eval_rows"]

    def score(figures: Any, name: str) -> tuple[float, float]:
        deviation = figures[f"eval_rewards/{name}/std"]
        return figures[f"eval_rewards/{name}/mean"], deviation / math.sqrt(samples)

    return {
        "judge before": score(result.before, "judge"),
        "judge after": score(result.after, "judge"),
        "reward before": score(result.before, "reward_model"),
        "reward after": score(result.after, "reward_model"),
        "kl": kl_of(result.model_dir),
        "steps": json.loads((result.run_dir / "results.json").read_text())["steps"],
    }


def main() -> None:
    """Run all of it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    import torch
    import trl

    from modelforge.common.console import quieten

    quieten()
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, trl {trl.__version__}; "
        f"{options.seconds:g} s of CPU time to train a policy; mean ± standard error\n"
    )
    print("| algorithm | seed | steps | judge before | judge after | reward after | KL, nats |")
    print("|---|---|---|---|---|---|---|", flush=True)
    gains: dict[str, list[float]] = {name: [] for name in ALGORITHMS}
    accuracies = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            models = [reward_model(d, seed, folder) for d in ("preference", "preference_b")]
            accuracies.append([m.after["eval_accuracy"] for m in models])
            for algorithm in ALGORITHMS:
                row = measure(algorithm, seed, options.seconds, folder, models)
                first, last, trained = (
                    "{:.2f} ± {:.2f}".format(*row[key])
                    for key in ("judge before", "judge after", "reward after")
                )
                gains[algorithm].append(row["judge after"][0] - row["judge before"][0])
                print(
                    f"| {algorithm} | {seed} | {row['steps']} | {first} | {last} | {trained} "
                    f"| {row['kl']:.1f} |",
                    flush=True,
                )
    print("\n| algorithm | judge's gain, mean over seeds | least |\n|---|---|---|")
    for algorithm, values in gains.items():
        print(f"| {algorithm} | {statistics.mean(values):.2f} | {min(values):.2f} |")
    told = "; ".join(f"{a:.1%} and {b:.1%}" for a, b in accuracies)
    print(f"\nHeld-out pair accuracy of reward model and judge, by seed: {told}.")


if __name__ == "__main__":
    main()
