"""Peak memory of a PPO run over that of SFT, same base, same tokens in a step; simulated.

    python benchmarks/rlhf_memory.py [--model llama-3.1-8b]

4-bit base, LoRA rank 16, gradient checkpointing, AdamW, micro-batch 1, accumulation 8. PPO holds
policy, reference, reward model and value head on the one base, generates its rollout of 8 at once
(half of the length prompt, half completion), and its peak is the highest of generation, scoring
and update. The plan's simulation runs the real step on meta tensors, without weights.
"""

from __future__ import annotations

import argparse
import datetime

from modelforge import registry
from modelforge.config import Choice
from modelforge.configfile.load import load_config
from modelforge.plan.memory import probe
from modelforge.plan.planner import card, find
from modelforge.plan.result import GIB


def peak(strategy: str, model: str, length: int) -> float:
    """Peak allocated, in GiB."""
    kind = registry.get_strategy(strategy)
    config = load_config(
        {
            "strategy": strategy,
            "model_name": model,
            "dataset": "pairs.jsonl",
            "use_4bit": True,
            "lora_r": 16,
            "gradient_checkpointing": True,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 8,
            "max_seq_length": length,
        }
    )
    config = config.with_defaults({k: Choice(v, "") for k, (v, _) in kind.defaults.items()})
    config = config.with_defaults(kind().derived_defaults(config))
    return probe(config, find(config), card(None)) / GIB


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="llama-3.1-8b", help="preset, hub id or folder")
    model = parser.parse_args().model
    print(f"{datetime.date.today()}, {model}, simulated\n")
    print("| tokens a sequence | sft, GiB | rlhf's PPO stage, GiB | ratio |\n|---|---|---|---|")
    for length in (512, 1024, 2048):
        sft, ppo = (peak(name, model, length) for name in ("sft", "rlhf"))
        print(f"| {length} | {sft:.2f} | {ppo:.2f} | {ppo / sft:.2f} |", flush=True)


if __name__ == "__main__":
    main()
