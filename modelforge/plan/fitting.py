"""``fit``: a config changed, where the user left it open, to stay within a budget.

What is changed, in this order; each change is a :class:`~modelforge.config.Choice` with its reason:

0. gradient checkpointing off, where only a profile turned it on, and the whole length fits without
   in micro-batches that keep the card busy
1. micro-batch and accumulation together: their product, the rows of a step, stays
2. gradient checkpointing: a third more computation
3. the optimiser: ``paged_adamw_8bit``
4. the answers that are sampled at once, in whole groups
5. the length, down to 128, with a warning: it is all of what is learned that may give way

Rank, alpha, rate and the rows of a step stay. What the user set is never touched. If nothing fits,
the error names the smallest budget that does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from modelforge.config import Choice, Config
from modelforge.errors import Problem
from modelforge.machine.launch import processes_of
from modelforge.plan.planner import assemble, card, find
from modelforge.plan.result import GIB, MARGIN, Calibration, DoesNotFit, Plan
from modelforge.registry import get_strategy

if TYPE_CHECKING:
    from modelforge.machine.hardware import Hardware
    from modelforge.plan.architectures import Found

_MICRO, _ACCUMULATION, _LENGTH = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_seq_length",
)
_SHORTEST = 128
# Tokens of a micro-batch that keep a card busy: below, recomputing costs less than smaller ones.
_BUSY = 2048
_STEP = 64  # lengths are multiples of it
_DECODED = "steps_per_generation"
# What the allocator holds beyond what tensors take, until the whole model has shown it.
_RESERVED = 1.03


def fit(
    config: Config,
    *,
    budget_gb: float,
    hardware: Hardware | None = None,
    num_processes: int = 1,
    calibration: Calibration | None = None,
    longest_row: int | None = None,
) -> tuple[Config, Plan]:
    """A config that stays within a budget, and its plan.

    Args:
        config: With every value filled in.
        budget_gb: What the run may take of a card, in GiB.
        hardware: Of the machine to plan for; by default a CUDA card with bfloat16.
        num_processes: Cards that train together.
        calibration: What earlier runs on that machine taught.
        longest_row: Tokens of the longest row (prompt and completion): the length that is wanted,
            where the user set none.

    Raises:
        DoesNotFit: If nothing fits, with the smallest budget that does.
        NotPlanned: If the strategy does not say what its longest batch is.
        ConfigError: If TRL refuses a value.
        ModelError: If the model's shape cannot be found.
    """
    search = _Search(
        config=config,
        found=find(config),
        hardware=hardware or card(budget_gb),
        budget_gb=budget_gb,
        num_processes=num_processes,
        calibration=calibration or Calibration(),
        wanted=_wanted_length(config, longest_row),
    )
    for lean, reach in _levers(config, search.hardware):
        while (best := search.best(lean, reach)) is not None:
            plan = search.plan(best)
            if plan.fits:
                return best, plan
            search.learn(best, plan)
    raise search.refusal(lean)


def estimates(
    config: Config,
    *,
    budgets: Sequence[float],
    hardware: Hardware,
    longest_row: int | None,
    peaks: dict[tuple[Any, ...], int],
) -> list[tuple[Config, int] | None]:
    """What :func:`fit` would choose for each budget, and about how many bytes that takes.

    By short models alone: the whole model is not simulated, so both are estimates.

    Args:
        config: With every value filled in.
        budgets: In GiB; each is a card of its own.
        hardware: Of the machines, which differ in memory alone.
        longest_row: As in :func:`fit`.
        peaks: Of what was simulated so far, which is added to.
    """
    found, wanted = find(config), _wanted_length(config, longest_row)
    chosen: list[tuple[Config, int] | None] = []
    for budget in budgets:
        search = _Search(config, found, hardware, budget, 1, Calibration(), wanted, peaks=peaks)
        fitting = (search.best(*lever) for lever in _levers(config, hardware))
        best = next((found for found in fitting if found is not None), None)
        chosen.append(None if best is None else (best, round(search.total(best))))
    return chosen


def _wanted_length(config: Config, longest_row: int | None) -> int:
    chosen = config.choices.get(_LENGTH)
    fixed = config.given(_LENGTH) or (chosen is not None and chosen.source == "preset")
    if longest_row is None or fixed:
        return config.settings.max_seq_length
    return max(_STEP, -(-longest_row // _STEP) * _STEP)


# At the whole length in micro-batches that keep a card busy, at the whole length, or at less.
Reach = Literal["busy", "whole", "shorter"]


def _levers(config: Config, hardware: Hardware) -> Iterator[tuple[Config, Reach]]:
    """The config leaner and leaner, and how much of the length may be given up with it."""
    checkpointing = config.choices.get("gradient_checkpointing")
    if checkpointing is not None and checkpointing.value and checkpointing.source == "profile":
        why = "activations fit: nothing is computed twice"
        off = Choice(False, "plan", why)
        yield _chosen(config, gradient_checkpointing=off), "busy"
    yield config, "whole"
    if not config.given("gradient_checkpointing") and not config.get("gradient_checkpointing"):
        why = "activations do not fit otherwise: recomputed, for a third more computation"
        config = _chosen(config, gradient_checkpointing=Choice(True, "plan", why))
        yield config, "whole"
    optim = str(config.get("optim", "adamw_torch_fused"))
    if not config.given("optim") and "adamw" in optim and "8bit" not in optim:
        paged = "paged_adamw_8bit" if hardware.device == "cuda" else "adamw_8bit"
        paging = ", in RAM when the card is full" if hardware.device == "cuda" else ""
        why = f"8-bit states, a quarter of the memory{paging}"
        config = _chosen(config, optim=Choice(paged, "plan", why))
        yield config, "whole"
    for size in _rollouts(config):
        config = _chosen(config, **{_DECODED: Choice(*size)})
        yield config, "whole"
    for section in _smaller_rollouts(config):
        config = _chosen(config, ppo=section)
        yield config, "whole"
    yield config, "shorter"


def _rollouts(config: Config) -> Iterator[tuple[int, str, str]]:
    """Ever fewer answers sampled at once, in whole groups, each with its reason."""
    group = config.get("num_generations")
    micro, steps = config.micro_batch, config.get(_ACCUMULATION) or 1
    fixed = config.given(_DECODED) or config.given("generation_batch_size")
    if not group or not config.get("prompts_per_step") or fixed:
        return
    for parts in (2, 4, 8, 16):
        if steps % parts == 0 and micro * steps // parts % group == 0:
            at_once = micro * steps // parts
            yield steps // parts, "plan", f"{at_once} answers sampled at once: more do not fit"


def _smaller_rollouts(config: Config) -> Iterator[Choice]:
    """PPO's section with ever fewer answers in a rollout, in whole steps."""
    section = config.get("ppo")
    size = getattr(section, "rollout_size", None)
    if size is None or "rollout_size" in (config.said.get("ppo") or {}):
        return
    step = config.micro_batch * (config.get(_ACCUMULATION) or 1) * processes_of(config)
    while size % (2 * step) == 0:
        size //= 2
        values = section.model_copy(update={"rollout_size": size}).model_dump()
        yield Choice(values, "plan", f"a rollout of {size} answers: more do not fit")


def _chosen(config: Config, **choices: Choice) -> Config:
    return config.with_choices(choices)


@dataclass
class _Search:
    """Probes of one config's variants, each made once."""

    config: Config
    found: Found
    hardware: Hardware
    budget_gb: float
    num_processes: int
    calibration: Calibration
    wanted: int
    ratio: float = _RESERVED
    peaks: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def best(self, lean: Config, reach: Reach) -> Config | None:
        """The longest, then the largest micro-batch, that the probes say fits."""
        for length in self._lengths(reach):
            base = _with_length(lean, length, self.wanted)
            sizes = self._micro_batches(base)
            if reach == "busy":
                sizes = [n for n in sizes if n * length >= _BUSY] or sizes[-1:]
            smallest = _with_micro(base, sizes[0])
            if not self._fits(smallest):
                continue
            low, high = 0, len(sizes) - 1
            while low < high:  # peaks grow with the micro-batch
                middle = (low + high + 1) // 2
                if self._fits(_with_micro(base, sizes[middle])):
                    low = middle
                else:
                    high = middle - 1
            return _with_micro(base, sizes[low])
        return None

    def plan(self, config: Config) -> Plan:
        """The whole model, simulated and replayed."""
        from modelforge.plan.memory import simulate

        return assemble(
            config, self.found, self.hardware, simulate(config, self.found, self.hardware),
            budget_gb=self.budget_gb, num_processes=self.num_processes,
            calibration=self.calibration,
        )  # fmt: skip

    def learn(self, config: Config, plan: Plan) -> None:
        """Take the ratio of reserved to probed from a plan that did not fit after all."""
        self.ratio = max(self.ratio * 1.01, plan.peak_reserved / self._peak(config))

    def refusal(self, leanest: Config) -> DoesNotFit:
        """What to say when nothing fits."""
        shortest = _with_micro(
            _with_length(leanest, self._lengths("shorter")[-1], self.wanted),
            self._micro_batches(leanest)[0],
        )
        plan = self.plan(shortest)
        needed = plan.total / (1 - MARGIN) / GIB
        what = (
            f"{self.config.settings.model_name} with {self.config.settings.strategy} does not fit "
            f"in {self.budget_gb:g} GiB: the leanest settings need {needed:.1f} GiB"
        )
        return DoesNotFit(
            Problem(f"{self.config.name}: memory_budget_gb", what, _what_could_give(self.config))
        )

    def total(self, config: Config) -> float:
        """About what the card must hold, by short models."""
        context = self.calibration.context_gb * GIB if self.hardware.device == "cuda" else 0.0
        return self._peak(config) * self.ratio * self.calibration.reserved + context

    def _fits(self, config: Config) -> bool:
        return self.total(config) <= (1 - MARGIN) * self.budget_gb * GIB

    def _peak(self, config: Config) -> int:
        from modelforge.plan.memory import probe

        key = tuple(config.get(k) for k in (_MICRO, _LENGTH, *_LEVER_KEYS))
        if key not in self.peaks:
            self.peaks[key] = probe(config, self.found, self.hardware)
        return self.peaks[key]

    def _lengths(self, reach: Reach) -> list[int]:
        """Lengths to try, longest first."""
        if reach != "shorter" or self.config.given(_LENGTH):
            return [self.wanted]
        shares = (3 / 4, 1 / 2, 3 / 8, 1 / 4, 1 / 8, 1 / 16)
        floor = max(min(_SHORTEST, self.wanted), _fixed_completion(self.config) + _STEP)
        lengths = [round(self.wanted * share / _STEP) * _STEP for share in shares]
        kept = sorted({n for n in lengths if floor <= n < self.wanted}, reverse=True)
        return [self.wanted, *kept, *([floor] if floor < self.wanted else [])]

    def _micro_batches(self, config: Config) -> list[int]:
        """Micro-batches to try, smallest first: divisors of the effective batch."""
        micro = config.micro_batch
        if config.given(_MICRO) or config.given(_ACCUMULATION):
            return [micro]
        effective = micro * (config.get(_ACCUMULATION) or 1)
        sampled = config.choices.get(_DECODED)
        if sampled is not None and sampled.source == "plan":
            effective = micro * sampled.value  # what is sampled at once is whole micro-batches
        least = get_strategy(config.settings.strategy)().least_micro_batch(config)
        return [n for n in range(least, effective + 1) if effective % n == 0] or [micro]


_LEVER_KEYS = ("gradient_checkpointing", "optim", _DECODED)


def _with_micro(config: Config, micro: int) -> Config:
    now = config.micro_batch
    if micro == now:
        return config
    effective = now * (config.get(_ACCUMULATION) or 1)
    size = "the largest that fits" if micro > now else "more does not fit"
    kept = f"effective batch stays {effective}"
    choices = {
        _MICRO: Choice(micro, "plan", size),
        _ACCUMULATION: Choice(effective // micro, "plan", kept),
    }
    sampled = config.choices.get(_DECODED)
    if sampled is not None and sampled.source == "plan":
        choices[_DECODED] = replace(sampled, value=max(1, sampled.value * now // micro))
    return _chosen(config, **choices)


def _with_length(config: Config, length: int, wanted: int) -> Config:
    if length == config.settings.max_seq_length:
        return config
    why = "the longest row" if length == wanted else f"{wanted} does not fit"
    choices = {_LENGTH: Choice(length, "plan", why)}
    new = _open_completion(config)
    if new and length < wanted:
        # The prompts stay whole as long as that leaves a quarter to the answers.
        left = min(new, max(length - (config.settings.max_seq_length - new), length // 4))
        generation = config.get("generation").model_copy(update={"max_new_tokens": left})
        choices["generation"] = Choice(generation.model_dump(), "plan", why)
    return _chosen(config, **choices)


def _open_completion(config: Config) -> int:
    """Tokens of the longest answer, where the user left them open; else 0."""
    generation = config.get("generation")
    return 0 if generation is None or _fixed_completion(config) else generation.max_new_tokens or 0


def _fixed_completion(config: Config) -> int:
    """Tokens the user wants generated; 0 where that was left open."""
    said = config.said.get("generation")
    return (said.get("max_new_tokens") or 0) if isinstance(said, Mapping) else 0


def _what_could_give(config: Config) -> str:
    """What the user set that stands in the way, or else a smaller model."""
    levers = (_MICRO, _ACCUMULATION, _LENGTH, *_LEVER_KEYS)
    said = [key for key in levers if config.given(key)]
    advice = []
    if said:
        advice.append("remove these keys, so that the plan can set them: " + ", ".join(said))
    if config.settings.lora_r == 0:
        if config.settings.dtype != "bfloat16":
            advice.append("set dtype to bfloat16")
        advice.append("train a LoRA adapter on a 4-bit base (lora_r 16, use_4bit true)")
    elif not config.settings.use_4bit:
        advice.append("set use_4bit to true")
    return "; or ".join([*advice, "take a smaller model or a larger card"])
