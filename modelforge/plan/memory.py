"""From a config to the log of its step, and from the log to its peak, by part."""

from __future__ import annotations

import copy
import gc
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.progress import doing
from modelforge.errors import Problem, UserError
from modelforge.machine.vllm import card_share, colocated
from modelforge.plan.allocator import CachingAllocator, OutOfMemory, rounded
from modelforge.plan.architectures import Found, repeats, with_layers
from modelforge.plan.result import GIB, NotPlanned
from modelforge.plan.speed import seconds
from modelforge.plan.tracker import TooSlow

if TYPE_CHECKING:
    from modelforge.config import Config
    from modelforge.machine.cards import Card
    from modelforge.machine.hardware import Hardware
    from modelforge.plan.step import MetaRun
    from modelforge.plan.tracker import Tracker

PARTS = (
    "quantised weights",
    "quantisation constants",
    "other weights",
    "trained weights",
    "LoRA",
    "gradients",
    "optimiser",
    "activations",
    "logits and loss",
    "reference, reward, value",
    "generation",
    "vLLM",
    "workspace",
)


@dataclass(frozen=True)
class Engine:
    """vLLM's engine on the training card, outside PyTorch's caching allocator.

    Attributes:
        nbytes: What it takes.
        sleeps: Whether only while it generates; TRL hands back what PyTorch holds unused then.
    """

    nbytes: int
    sleeps: bool

    def peak(self, phases: Mapping[str, int]) -> int:
        """The most that both take at once, from training's peak by phase."""
        return max(self.beside(phases).values())

    def beside(self, phases: Mapping[str, int]) -> dict[str, int]:
        """What both take at once by phase, from training's peak by phase."""
        awake = {"generation"} if self.sleeps else phases.keys()
        return {p: nbytes + (self.nbytes if p in awake else 0) for p, nbytes in phases.items()}


def engine_of(config: Config, hardware: Hardware) -> Engine | None:
    """The engine that a config puts on the card; None without one, or where no card is known."""
    if not (colocated(config) and hardware.vram_gb):
        return None
    nbytes = round(card_share(config) * hardware.vram_gb * GIB)
    return Engine(nbytes, bool(config.get("vllm_enable_sleep_mode")))


@dataclass(frozen=True)
class Simulation:
    """A logged step and what it was of.

    Attributes:
        tracker: The log.
        tokens: Of one optimiser step on one device.
        flops: Floating point operations of it, without generation; 0 on the CPU.
        micro_batches: Of one optimiser step.
        rollouts: That a step samples on the card; 0 where nothing is sampled, or by vLLM. Less
            than one where several steps train on one.
        sampled: Tokens of an answer, one after the other.
    """

    tracker: Tracker
    tokens: int
    flops: int
    micro_batches: int = 1
    rollouts: float = 0.0
    sampled: int = 0

    def seconds(self, card: Card) -> float:
        """How long one optimiser step takes on a card, sampling included."""
        part = {name: seconds(work, card) for name, work in self.tracker.work.items()}
        took = self.micro_batches * part["micro-batch"] + part["update"]
        if self.rollouts:
            took += self.rollouts * (part["prompt"] + self.sampled * part["token"])
        return took


def simulate(config: Config, found: Found, hardware: Hardware, *, timed: bool = True) -> Simulation:
    """Log two optimiser steps of a config's trainer on the meta device.

    Args:
        config: With all of its values.
        found: The model.
        hardware: The card.
        timed: Whether `Simulation.seconds` is asked for; without it, it takes less time.

    Raises:
        NotPlanned: If the strategy does not say what its longest batch is.
        ConfigError: If TRL refuses a value.
    """
    from modelforge.plan.kernels import cpu, cuda
    from modelforge.plan.meta_run import build_meta_run
    from modelforge.plan.step import alone, log_steps

    device = cpu() if hardware.device == "cpu" else cuda(hardware.compute_capability or (8, 6))
    with doing("planning"), tempfile.TemporaryDirectory() as folder, alone(), _no_collection():
        architecture = copy.deepcopy(found.architecture)
        meta_run = build_meta_run(
            config, architecture, hardware, adapter=found.adapter, output_dir=Path(folder)
        )
        try:
            tracker, trainer = log_steps(meta_run, device, timed=timed)
        except TooSlow as error:
            what = f"there is no plan: {error}, since this model loops over its tokens"
            fix = "set a shorter max_seq_length, or train without a plan"
            raise NotPlanned(Problem(f"{config.name}: model_name", what, fix)) from None
    accumulation = trainer.args.gradient_accumulation_steps
    return Simulation(
        tracker,
        meta_run.tokens * accumulation,
        tracker.flops * accumulation,
        accumulation,
        *_sampling(meta_run, trainer.args),
    )


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python looks for garbage all the time while so many small objects are made: a sixth of it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _sampling(meta_run: MetaRun, args: Any) -> tuple[float, int]:
    """How many rollouts a step takes, and how many tokens each samples one after the other."""
    if meta_run.generates is None or meta_run.by_vllm:
        return 0.0, 0
    uses = (getattr(args, "steps_per_generation", None) or 1) * getattr(args, "num_iterations", 1)
    return args.gradient_accumulation_steps / uses, meta_run.generates[2]


def probe(config: Config, found: Found, hardware: Hardware) -> int:
    """The largest of :func:`probe_phases`."""
    return max(probe_phases(config, found, hardware).values())


def probe_phases(config: Config, found: Found, hardware: Hardware) -> dict[str, int]:
    """Peak allocated by phase, from two models of few layers; vLLM's engine on the card included.

    Bytes alive are linear in the number of layers, phase by phase. Holds where a phase's peak stays
    at its place, which :func:`simulate` of the whole model confirms. A model that cannot be made
    shorter is simulated whole.
    """
    layers = found.architecture.get_text_config().num_hidden_layers
    first, period = repeats(found.architecture)
    few, more = first + 2 * period, first + 4 * period
    engine = engine_of(config, hardware) or Engine(0, sleeps=False)
    if layers <= more:
        return engine.beside(simulate(config, found, hardware).tracker.peaks())
    try:
        short = (_shortened(found, n) for n in (few, more))
        low, high = (simulate(config, s, hardware, timed=False).tracker.peaks() for s in short)
    except UserError:
        raise
    except Exception:  # some configs name layers by their place, or share what later ones need
        return engine.beside(simulate(config, found, hardware).tracker.peaks())
    slope = {phase: (high[phase] - low[phase]) / (more - few) for phase in high}
    return engine.beside({p: round(high[p] + slope[p] * (layers - more)) for p in high})


def _shortened(found: Found, layers: int) -> Found:
    return Found(with_layers(found.architecture, layers), found.adapter, found.source)


def reserved(tracker: Tracker, *, capacity: int | None = None, expandable: bool) -> int:
    """What the allocator comes to hold for a log, by emulation.

    Raises:
        OutOfMemory: If the capacity does not do.
    """
    if not tracker.device.rounds:
        if capacity is not None and tracker.peak > capacity:
            raise OutOfMemory(tracker.peak - capacity, tracker.peak, tracker.peak)
        return tracker.peak
    allocator = CachingAllocator(capacity=capacity, expandable=expandable)
    return allocator.replay(tracker.events).max_reserved


def parts_at_peak(tracker: Tracker, *, engine: Engine | None = None) -> dict[str, int]:
    """Bytes alive at the peak by part, largest kinds first as :data:`PARTS` lists them."""
    at = tracker.peak_at
    if engine is not None and engine.sleeps:
        if engine.peak(tracker.peaks()) == tracker.peak:
            engine = None  # asleep at the peak
        else:
            phases = (tracker.tags[abs(identity)].phase for identity, _ in tracker.events)
            at = next(i for i, phase in enumerate(phases) if phase == "generation")
    parts = dict.fromkeys(PARTS, 0)
    parts["vLLM"] = engine.nbytes if engine is not None else 0
    for identity, nbytes in tracker.alive_at(at).items():
        size = rounded(nbytes) if tracker.device.rounds else nbytes
        parts[_part(tracker, identity)] += size
    return {part: size for part, size in parts.items() if size}


def _part(tracker: Tracker, identity: int) -> str:
    phase, scope = tracker.tags[identity]
    if phase == "static":
        return scope
    if identity in tracker.gradients:
        return "gradients"
    if phase == "optimizer":
        return "optimiser"
    if phase in ("prompt", "generation"):
        return "generation"
    if phase == "reference":
        return "reference, reward, value"
    return "logits and loss" if scope == "head" else "activations"
