"""Predicted training throughput against what others published, and the shares fitted to it.

Each point of `benchmarks/speed_points.json` is simulated as its source ran it: its operators and
their bytes, by transformers' Trainer and PEFT on models of two and four layers, from which the
whole model's follow. The shares that a program reaches (`modelforge/plan/speed.py`) are fitted to
all sources but one, and that one is predicted: the errors printed are those. The interval is made
from the errors of the others too, before it is asked whether it holds the source left out. Points
of programs with other kernels are shown apart, with the reason, and nothing is fitted to them.

    OMP_NUM_THREADS=1 python benchmarks/speed_published.py
"""

import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import log
from pathlib import Path
from typing import Any

import torch

from modelforge.machine.cards import Card, card_named
from modelforge.plan.architectures import Found, find_architecture, with_layers
from modelforge.plan.kernels import cuda
from modelforge.plan.model import meta_model
from modelforge.plan.speed import REACHED, Load, Reached, Work, seconds
from modelforge.plan.step import MetaRun, alone, log_steps
from modelforge.plan.tracker import Tracker

from memory_published import config  # isort: skip

POINTS = Path(__file__).with_name("speed_points.json")


@dataclass(frozen=True)
class Point:
    """A published throughput, and the work of one micro-batch and update as simulated.

    Attributes:
        said: As in the file of points.
        card: That it was measured on.
        took: Seconds of an optimiser step, measured.
        micro_batch: The work of one.
        update: The work of the optimiser.
    """

    said: dict[str, Any]
    card: Card
    took: float
    micro_batch: Work
    update: Work

    @property
    def source(self) -> str:
        """Who measured it."""
        return str(self.said["source"])

    def ratio(self, reached: Reached) -> float:
        """Measured ÷ predicted time, which is predicted ÷ measured tokens a second."""
        micro, update = (seconds(w, self.card, reached) for w in (self.micro_batch, self.update))
        return self.took / (self.said.get("accumulation", 1) * micro + update)


def points() -> list[Point]:
    """All of the file, simulated."""
    data = json.loads(POINTS.read_text(encoding="utf-8"))
    found = []
    with tempfile.TemporaryDirectory() as name:
        for model, shape in data["models"].items():
            folder = Path(name) / model
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(shape))
        for said in data["points"]:
            tokens = said.get("accumulation", 1) * said["micro_batch"] * said["length"]
            took = said.get("seconds_per_step") or tokens / said["tokens_per_second"]
            work = whole_work(said, Path(name))
            found.append(Point(said, card_named(said["card"]), took, *work))
    return found


def whole_work(said: dict[str, Any], folder: Path) -> tuple[Work, Work]:
    """The work of a micro-batch and of an update, from models of two and of four layers."""
    found = find_architecture(said["model"], base_dir=folder, revision=None, where="")
    layers = found.architecture.get_text_config().num_hidden_layers
    low, high = (
        step(said, Found(with_layers(found.architecture, n), None, ""), folder).work for n in (2, 4)
    )
    more = (layers - 4) / 2
    micro, few = high["micro-batch"], low["micro-batch"]
    loads = {load: micro[load] + (micro[load] - few[load]) * more for load in {**micro, **few}}
    # The optimiser's kernels take many tensors at once: their number stays, their bytes grow.
    moved, little = (sum(load.nbytes * n for load, n in w["update"].items()) for w in (high, low))
    whole = Load("memory", 0, round(moved + (moved - little) * more))
    return Counter({load: round(n) for load, n in loads.items()}), Counter({whole: 1})


def step(said: dict[str, Any], found: Found, folder: Path) -> Tracker:
    """The log of the steps of one point, as its source ran them."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    settings = config(strategy="sft", use_4bit=said["four_bit"]).settings
    length, rows = said["length"], said["micro_batch"]
    keys = ("input_ids", "labels") if said["packed"] else ("input_ids", "labels", "attention_mask")
    batch = [{key: [2] * length for key in keys}] * rows
    with alone():
        model: Any = meta_model(
            found.architecture, settings, head="causal-lm", dtype=torch.bfloat16
        )
        args = TrainingArguments(
            output_dir=str(folder / "run"), use_cpu=True, bf16=said["amp"], report_to=[],
            per_device_train_batch_size=rows, optim="adamw_torch", disable_tqdm=True,
        )  # fmt: skip
        arguments = {
            "model": prepared(model, said),
            "args": args,
            "train_dataset": batch,
            "data_collator": default_data_collator,
        }
        job = MetaRun(Trainer, arguments, batch, rows * length, padded=not said["packed"])
        return log_steps(job, cuda(card_named(said["card"]).capability))[0]


def prepared(model: Any, said: dict[str, Any]) -> Any:
    """The model with checkpointing, what is lifted to 32 bits, and its adapter."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if said.get("lifted"):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if said["checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.config.use_cache = False
    if said["lora"] is None:
        return model
    if said["checkpointing"]:
        model.enable_input_require_grads()
    with torch.device("meta"):
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **said["lora"]))
    for weight in model.parameters():
        if weight.requires_grad and said.get("adapter_16_bit"):
            weight.data = weight.data.to(torch.bfloat16)
    return model


def fitted(found: Sequence[Point]) -> Reached:
    """The shares with the smallest errors; a source is as heavy as the root of its points.

    The points of one source share a machine and a program, so they are not independent.
    """
    sources = Counter(point.source for point in found)

    def loss(reached: Reached) -> float:
        """Square for small errors and straight for large ones, so that no point rules alone."""
        errors = ((abs(log(p.ratio(reached))), sources[p.source]) for p in found)
        return sum((e * e if e < 0.1 else 0.2 * e - 0.01) / n**0.5 for e, n in errors)

    best, least, factor = REACHED, loss(REACHED), 1.2
    while factor > 1.005:
        tried = [
            Reached(*(v * f if i == at else v for i, v in enumerate(astuple(best))))
            for at in range(3)
            for f in (factor, 1 / factor)
        ]
        better = min((r for r in tried if max(r.products, r.bandwidth) <= 1), key=loss)
        if loss(better) < least:
            best, least = better, loss(better)
        else:
            factor = factor**0.5
    return best


def interval(left: dict[str, list[float]]) -> tuple[float, float]:
    """Factors of the time, one the other's inverse, that hold four of five of a source's ratios.

    On the average over the sources, so that the one with the most points does not set it.
    """
    for wide in sorted(max(ratio, 1 / ratio) for ratios in left.values() for ratio in ratios):
        if statistics.mean(held(ratios, wide) / len(ratios) for ratios in left.values()) >= 0.8:
            break
    return 1 / wide, wide


def held(ratios: Sequence[float], wide: float) -> int:
    """How many are within this factor of one."""
    return sum(1 / wide <= ratio <= wide for ratio in ratios)


def name_of(said: dict[str, Any]) -> str:
    """What a point is of."""
    kind = "full" if said["lora"] is None else "LoRA"
    if said["four_bit"]:
        kind = "QLoRA"
    return f"{said['model']} {kind}, {said['micro_batch']} × {said['length']}"


def main() -> None:
    every = points()
    ours = [point for point in every if "left_out" not in point.said]
    left: dict[str, list[float]] = {}
    print("| source | card | run | s a step | predicted ÷ measured time, source left out |")
    print("|---|---|---|---|---|")
    for source in dict.fromkeys(point.source for point in ours):
        reached = fitted([point for point in ours if point.source != source])
        for point in (point for point in ours if point.source == source):
            ratio = point.ratio(reached)
            left.setdefault(source, []).append(ratio)
            what = f"{point.card.title} | {name_of(point.said)} | {point.took:.3g}"
            print(f"| {source} | {what} | {1 / ratio:.2f} |")
    ratios = [ratio for of_it in left.values() for ratio in of_it]
    errors = [abs(ratio - 1) for ratio in ratios]
    print(f"{len(ours)} points of {len(left)} sources, tokens a second, source left out: ", end="")
    print(f"median error {statistics.median(errors):.1%}, worst {max(errors):.0%}")
    for source, of_it in left.items():
        print(f"  {source}: median {statistics.median(abs(r - 1) for r in of_it):.1%}")
    low, high = interval(left)
    inside = 0
    for source, of_it in left.items():
        _, wide = interval({other: rs for other, rs in left.items() if other != source})
        inside += held(of_it, wide)
    print(f"four of five of a source are between {low:.2f} and {high:.2f} times the prediction;")
    print(f"made without the source, the interval holds {inside} of {len(ratios)}")
    reached = fitted(ours)
    print(f"fitted to all: {reached}")
    errors = [abs(point.ratio(reached) - 1) for point in ours]
    print(f"  its errors: median {statistics.median(errors):.1%}, worst {max(errors):.0%}")
    for point in (point for point in every if "left_out" in point.said):
        print(
            f"apart ({point.said['left_out']}): {point.card.title}, {name_of(point.said)}: "
            f"predicted {1 / point.ratio(reached):.2f} times the measured time"
        )


if __name__ == "__main__":
    main()
