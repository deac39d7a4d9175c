"""Predicted training throughput against what others published, and the share fitted to it.

Each row's step is simulated as the source ran it: its operators and their bytes. The share of peak
and of bandwidth that a card reaches (`modelforge/plan/speed.py`) is fitted to all sources but one,
and that one is predicted; the errors printed are those. torchtune's rows are of another program,
compiled, so that fewer bytes move: they are predicted too, and nothing is fitted to them. The last
lines give the share fitted to the other rows, and how far each row is from it.

    python benchmarks/speed_published.py

Sources: foundation-model-stack/fms-acceleration scripts/benchmarks/refs/a100_80gb.csv (commit
0aab2c6); huggingface/peft method_comparison/MetaMathQA/results (L40S, rows of 210 tokens on
average); pytorch/torchtune's README (compiled, its own model code).
"""

import statistics
from collections import Counter
from dataclasses import dataclass

from modelforge.machine.cards import Card, card_named
from modelforge.plan.memory import simulate
from modelforge.plan.planner import find
from modelforge.plan.speed import seconds

from memory_published import config, peft_log  # isort: skip

COMPILED = {"torchtune"}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@dataclass(frozen=True)
class Row:
    """A published throughput, and the work of one micro-batch and update as simulated."""

    source: str
    what: str
    card: Card
    tokens: int
    measured: float
    work: Counter[tuple[int, int]]

    def predicted(self, share: float) -> float:
        """Tokens a second."""
        return self.tokens / seconds(self.work, self.card, share=share)


def trl(source: str, what: str, gpu: str, measured: float, **values: object) -> Row:
    """A row of TRL's SFT."""
    card = card_named(gpu)
    said = config(strategy="sft", optim="adamw_torch", **values)
    made = simulate(said, find(said), card.hardware)
    work = made.tracker.work["micro-batch"] + made.tracker.work["update"]
    return Row(source, what, card, made.tokens, measured, work)


def rows() -> list[Row]:
    """The published points."""
    fms = {
        "model_name": "mistral-7b-v0.1",
        "max_seq_length": 4096,
        "lora_target_modules": ATTENTION,
    }
    four = {"per_device_train_batch_size": 4}
    tune = {"per_device_train_batch_size": 2, "max_seq_length": 2048, "lora_r": 8}
    wide = {"use_4bit": False}
    peft_rows = [
        (
            "LoRA r 32 q v",
            6776.0,
            {"r": 32, "lora_alpha": 64, "target_modules": ["q_proj", "v_proj"]},
        ),
    ]
    found = [
        trl("fms", "LoRA, 4 × 4096", "a100-80gb", 3597.6, **fms, **four, **wide),
        trl("fms", "QLoRA, 4 × 4096", "a100-80gb", 3428.6, **fms, **four),
        trl("fms", "full, 4 × 4096", "a100-80gb", 2775.2, **fms, **four, **wide, lora_r=0),
        trl("torchtune", "QLoRA, 2 × 2048", "rtx-4090", 2413.0, **tune),
        trl("torchtune", "LoRA, 2 × 2048", "rtx-4090", 3083.0, **tune, **wide),
    ]
    for what, measured, lora in peft_rows:
        tracker = peft_log(lora, length=260)  # the longest of four; 210 on average count
        work = tracker.work["micro-batch"] + tracker.work["update"]
        found.append(Row("peft", what, card_named("l40s"), 4 * 210, measured, work))
    return found


def fitted(points: list[Row]) -> float:
    """The share whose errors are smallest, each source as heavy as any other."""
    points = [row for row in points if row.source not in COMPILED]
    sources = Counter(row.source for row in points)

    def loss(share: float) -> float:
        errors = (
            abs(row.predicted(share) / row.measured - 1) / sources[row.source] for row in points
        )
        return sum(errors)

    return min((0.01 * n for n in range(30, 101)), key=loss)


def main() -> None:
    points = rows()
    errors = []
    for source in dict.fromkeys(row.source for row in points):
        share = fitted([row for row in points if row.source != source])
        for row in (row for row in points if row.source == source):
            predicted = row.predicted(share)
            error = predicted / row.measured - 1
            errors.append(abs(error))
            print(
                f"{source}, {row.card.title}, {row.what}: {row.measured:.0f} tokens/s measured, "
                f"{predicted:.0f} predicted without that source ({error:+.0%})"
            )
    median = statistics.median(errors)
    print(f"leave one source out: median error {median:.0%}, worst {max(errors):.0%}")
    share = fitted(points)
    ratios = sorted(row.measured / row.predicted(share) for row in points)
    print(f"all rows: {share:.2f} of peak and of bandwidth")
    print("measured ÷ predicted: " + ", ".join(f"{ratio:.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
