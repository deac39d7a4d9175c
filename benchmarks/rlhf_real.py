"""RLHF with the default keys on real pairs: does the critic foresee, does the reward rise?

    OMP_NUM_THREADS=1 python benchmarks/rlhf_real.py MODEL PAIRS HELD_OUT [--steps 48]
        [--reward-steps 15] [--longest 900] [--set key=value ...]

MODEL is a folder; PAIRS and HELD_OUT are files of preference pairs, such as Anthropic's hh-rlhf. A
reward model is trained on PAIRS, then PPO on their prompts against it. Only model, data and what
bounds the time are said: the steps of PPO, the longest row in characters, those of the reward model
if they are not to be the default's (one pass), and what `--set` gives. Printed
are the reward model's held-out accuracy, how far its scores hang on where an answer is cut, the
critic's explained variance by rollout, each alarm, and the held-out reward before and after with
the 95 % interval of the change.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


#: How many places one answer is cut at.
CUTS = 8


def short_rows(source: Path, longest: int, folder: Path) -> Path:
    """A copy of a file's rows that are not longer than this, in characters."""
    rows = [row for row in source.read_text(encoding="utf-8").split("\n") if 0 < len(row) < longest]
    path = folder / source.name
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def by_the_cut(reward: Path, answers: list[dict]) -> str:
    """What of the scores is the answer, and what the place where it is cut.

    Args:
        reward: The run of the reward model.
        answers: Lines of a run's rollouts, as conversations.
    """
    from modelforge.rewards.model import RewardModel

    model = RewardModel.load(str(reward))
    prompts = [answer["prompt"] for answer in answers]
    tokens = [model.tokenizer(a["completion"][-1]["content"])["input_ids"] for a in answers]
    scores = []
    for cut in range(CUTS):
        texts = [
            model.tokenizer.decode(ids[: len(ids) - cut], skip_special_tokens=True)
            for ids in tokens
        ]
        messages = [[{"role": "assistant", "content": text}] for text in texts]
        scores.append(model(prompts=prompts, completions=messages))
    within = statistics.mean(statistics.stdev(of_one) for of_one in zip(*scores, strict=True))
    return (
        f"standard deviation of the score: {statistics.stdev(scores[0]):.3f} between "
        f"{len(answers)} sampled answers, {within:.3f} of one answer cut 0 to {CUTS - 1} tokens "
        "earlier"
    )


def told(root: Path, seconds: float) -> list[str]:
    """What the stages of a run have come to, a line each."""
    stages = json.loads((root / "stages.json").read_text())["stages"]
    reward, policy = (root / stages[name]["run"] for name in ("reward", "ppo"))
    pairs = json.loads((reward / "data.json").read_text())["eval_rows"]
    right = stages["reward"]["after"]["eval_accuracy"]
    rows = [json.loads(line) for line in (policy / "metrics.jsonl").open()]
    told_by = ("value/explained_variance", "reward/total", "kl/reference")
    of_rollouts = (tuple(row[name] for name in told_by) for row in rows if told_by[0] in row)
    variances = [key[0] for key in dict.fromkeys(of_rollouts)]  # a rollout serves several updates
    results = json.loads((policy / "results.json").read_text())
    answers = [json.loads(line) for line in (policy / "rollouts.jsonl").open()]
    alarms = policy / "warnings.jsonl"
    warned = [json.loads(line) for line in alarms.open()] if alarms.is_file() else []
    before, after = (results[when]["eval_reward"] for when in ("before", "after"))
    low, high = results["interval"]
    return [
        f"reward model: right on {right:.1%} of {pairs} held-out pairs",
        by_the_cut(reward, answers),
        f"explained variance by rollout: {' '.join(f'{value:.2f}' for value in variances)}",
        f"held-out reward: {before:.3f} → {after:.3f}, 95 % interval of the change "
        f"{low:+.3f} to {high:+.3f}, {results['rows']} prompts, {results['steps']} steps",
        f"KL to the reference: {results['after']['eval_kl/reference']:.3f} nats an answer",
        *(f"alarm at step {row['step']}: {row['where']} {row['what']}" for row in warned),
        *([] if warned else ["no alarm"]),
        f"{seconds:.0f} s of CPU time",
    ]


def main() -> None:
    """Run it and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--reward-steps", type=int)
    parser.add_argument("--longest", type=int, default=900)
    parser.add_argument("--set", nargs="*", default=[])
    options = parser.parse_args()
    import torch
    import trl

    import modelforge
    from modelforge.common.console import quieten

    quieten()
    with tempfile.TemporaryDirectory() as made:
        values = {
            "strategy": "rlhf",
            "model_name": str(options.model.resolve()),
            "dataset": str(short_rows(options.pairs, options.longest, Path(made))),
            "eval_dataset": str(short_rows(options.held_out, options.longest, Path(made))),
            "output_dir": made,
            "report_to": "none",
            "save_strategy": "no",
            "max_steps": options.steps,
            "logging_steps": 1,
            # of the policy: without steps of its own the reward model takes its pass
            "reward_stage": {"max_steps": options.reward_steps or -1},
        }
        begin = time.process_time()
        result = modelforge.train(values, overrides=options.set)
        lines = told(result.run_dir.parent, time.process_time() - begin)
    more = f", {' '.join(options.set)}" if options.set else ""
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} thread(s), trl {trl.__version__}; {options.model.name} on "
        f"{options.pairs.name}, rows below {options.longest} characters, "
        f"{options.reward_steps or 'the default'} steps of the reward model{more}\n"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
