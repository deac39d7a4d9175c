"""The longest sequences that fit: strategies against sizes of card, for one model.

In 4 bits, LoRA rank 16, gradient checkpointing, paged 8-bit AdamW, micro-batch 1 (a pair for dpo
and reward; a rollout of 8 for grpo, rloo and ppo), half of the length generated where anything is.
Prints a Markdown table.

    python benchmarks/memory_limits.py --model llama-3.1-8b
"""

import argparse
from pathlib import Path

from modelforge import registry
from modelforge.config import Choice
from modelforge.configfile.load import load_config
from modelforge.plan import Calibration
from modelforge.plan.memory import probe
from modelforge.plan.planner import card, find
from modelforge.plan.result import GIB, MARGIN

CARDS = (8, 12, 16, 24, 48, 80)
STRATEGIES = ("sft", "reward", "dpo", "grpo", "rloo", "ppo")
LENGTHS = (256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768)
# What the allocator holds beyond what tensors take: more than any plan of these showed.
RESERVED = 1.05


def needed(strategy: str, model: str, length: int) -> float:
    """GiB that a card must have."""
    kind = registry.get_strategy(strategy)
    config = load_config(
        {
            "strategy": strategy,
            "model_name": model,
            "dataset": "d",
            "use_4bit": True,
            "lora_r": 16,
            "gradient_checkpointing": True,
            "optim": "paged_adamw_8bit",
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 8,
            "max_seq_length": length,
        }
    )
    config = config.with_defaults({k: Choice(v, "") for k, (v, _) in kind.defaults.items()})
    config = config.with_defaults(kind().derived_defaults(config))
    peak = probe(config, find(config), card(None))
    return (peak * RESERVED / GIB + Calibration().context_gb) / (1 - MARGIN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="llama-3.1-8b", help="preset, hub id or folder")
    model = parser.parse_args().model
    model = str(Path(model).resolve()) if Path(model).is_dir() else model
    print(f"{model}: longest sequence in tokens\n")
    print("| strategy |" + "".join(f" {size} GiB |" for size in CARDS))
    print("|---|" + "---|" * len(CARDS))
    for strategy in STRATEGIES:
        longest = dict.fromkeys(CARDS, 0)
        for length in LENGTHS:
            needs = needed(strategy, model, length)
            longest |= {size: length for size in CARDS if needs <= size}
            if needs > max(CARDS):
                break
        cells = "".join(f" {n if n else '–'} |" for n in longest.values())
        print(f"| {strategy} |{cells}", flush=True)


if __name__ == "__main__":
    main()
