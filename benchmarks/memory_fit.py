"""An emulated card never runs out on a config that ``fit`` accepted.

Random configs of few but wide layers are fitted to 12 and 16 GiB. The allocator's emulation, capped
at what CUDA leaves, then serves the steps that were planned, and steps of ragged batches that were
not. Fails at the first card that runs out.

    python benchmarks/memory_fit.py --configs 200
"""

import argparse
import dataclasses
import random
import tempfile
import time
from pathlib import Path

from transformers import LlamaConfig

from modelforge import registry
from modelforge.config import Choice, Config
from modelforge.configfile.load import load_config
from modelforge.errors import RunError
from modelforge.machine.hardware import choose_profile
from modelforge.plan import Plan, fit
from modelforge.plan.allocator import CachingAllocator
from modelforge.plan.kernels import cuda
from modelforge.plan.memory import simulate
from modelforge.plan.meta_run import build_meta_run
from modelforge.plan.planner import card, find
from modelforge.plan.step import MetaRun, alone, log_steps
from modelforge.plan.tracker import Tracker

SHAPES = {
    "num_attention_heads": [8, 16, 32],
    "hidden_size": [1024, 2048, 4096],
    "intermediate_size": [2816, 8192, 14336],
    "vocab_size": [32000, 64000, 152000],
    "num_hidden_layers": [1, 2, 3, 4],
}
SAID = {
    "gradient_checkpointing": [True, False],
    "max_seq_length": [512, 1024, 4096, 8192],
    "lora_r": [8, 64],
    "lora_dropout": [0.0, 0.05],
    "optim": ["adamw_torch", "paged_adamw_8bit"],
    "use_4bit": [True, False],
    "per_device_train_batch_size": [8, 16],
}


@dataclasses.dataclass(frozen=True)
class Ragged(MetaRun):
    """A job whose every micro-batch has rows of other lengths, up to the longest."""

    seed: int = 0

    def __getattribute__(self, name: str):
        value = super().__getattribute__(name)
        if name != "batch" or not isinstance(value[0].get("input_ids"), list):
            return value
        drawn = random.Random(self.seed)
        lengths = [drawn.randint(2, len(row["input_ids"])) for row in value]
        return [{k: v[:n] for k, v in row.items()} for row, n in zip(value, lengths, strict=True)]


def draw_config(drawn: random.Random, folder: Path) -> tuple[Config, float]:
    """A config with a profile's defaults and some keys said, for a model saved in ``folder``."""
    shape = {key: drawn.choice(values) for key, values in SHAPES.items()}
    LlamaConfig(num_key_value_heads=8, tie_word_embeddings=False, **shape).save_pretrained(folder)
    said = {k: drawn.choice(values) for k, values in SAID.items() if drawn.random() < 0.4}
    strategy = drawn.choice(["sft", "dpo", "reward", "grpo"])
    budget = drawn.choice([12.0, 16.0])
    config = load_config({"strategy": strategy, "model_name": str(folder), "dataset": "d", **said})
    kind = registry.get_strategy(strategy)
    profile, _ = choose_profile(card(budget))
    defaults = {k: Choice(v, "profile") for k, v in profile.defaults.items()}
    defaults |= {k: Choice(v, "strategy") for k, (v, _) in kind.defaults.items()}
    config = config.with_defaults(defaults)
    return config.with_defaults(kind().derived_defaults(config)), budget


def ragged_steps(config: Config, budget: float, folder: Path, seed: int) -> Tracker:
    """The log of steps on batches that were not planned."""
    with alone():
        shape = find(config).architecture
        job = build_meta_run(config, shape, card(budget), adapter=None, output_dir=folder)
        fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
        return log_steps(Ragged(**fields, seed=seed), cuda())[0]


def try_card(drawn: random.Random) -> Plan | None:
    """Fit one random config and run it on its emulated card; None where nothing fits.

    Raises:
        OutOfMemory: If the card runs out.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, budget = draw_config(drawn, folder)
        try:
            fitted, plan = fit(config, budget_gb=budget)
        except RunError:
            return None
        planned = simulate(fitted, find(fitted), card(budget)).tracker
        other = ragged_steps(fitted, budget, folder, seed=drawn.randrange(2**32))
    assert plan.budget is not None
    for tracker in (planned, other):
        allocator = CachingAllocator(capacity=plan.budget - plan.context, expandable=True)
        allocator.replay(tracker.events)
        assert allocator.max_allocated <= plan.peak_allocated
    return plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", type=int, default=200)
    count = parser.parse_args().configs
    start, fitted = time.monotonic(), []
    for seed in range(count):
        plan = try_card(random.Random(seed))
        fitted += [plan] if plan else []
        used = f"{plan.total / plan.budget:.0%} of {plan.budget / 2**30:.0f} GiB" if plan else "-"
        print(f"{seed:4} {plan.strategy if plan else 'nothing fits':<14} {used}", flush=True)
    print(
        f"{count} configs, {len(fitted)} fitted, none ran out, {time.monotonic() - start:.0f} s, "
        f"median use {sorted(p.total / p.budget for p in fitted)[len(fitted) // 2]:.0%}"
    )


if __name__ == "__main__":
    main()
