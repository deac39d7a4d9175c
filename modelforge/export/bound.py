"""What an export may differ by: what rounding to its type does to this model (`rounding.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelforge.common.console import say
from modelforge.errors import Problem, RunError
from modelforge.evaluation.opened import Named, trained_dtype
from modelforge.export.merge import merged
from modelforge.export.proof import ARITHMETIC, CEILING, Bound, Case, compared, logps_of
from modelforge.export.rounding import Rounding, inputs_rounded, move

if TYPE_CHECKING:
    import torch

#: How often as much as the measured rounding an export may diverge, for one draw is not the
#: expectation. Two of eight draws differed by up to 2.0 times in the mean and 3.3 times at the 99th
#: percentile (`python benchmarks/export.py --draws 8`, in `benchmarks/results/export.md`).
FACTOR = 4
_GAPS = 2  # its root: the divergence grows with the square of what log probabilities move
_SEED = 1  # not that of a merge


def bound_of(found: Named, cases: Sequence[Case], rounding: Rounding) -> Bound:
    """What an export of a trained model may differ by.

    Args:
        found: The trained model.
        cases: What the trained model was asked.
        rounding: What the format rounds.
    """
    import torch

    inputs = rounding.inputs or _arithmetic(found)
    if rounding.weights == "f32" and inputs is None:
        return ARITHMETIC
    model = merged(found, base="dequantised", dtype=torch.float32)
    say(f"measuring what rounding to {rounding.weights} does to it")
    whole = [logps_of(model, case.ids, case.answer) for case in cases]
    if rounding.weights != "f32":
        move(model, rounding, _SEED)
    with inputs_rounded(model, inputs):
        moved = [logps_of(model, case.ids, case.answer) for case in cases]
    proof = compared(cases, moved, CEILING, against=whole)
    gap = max(_gap(own, other) for own, other in zip(whole, moved, strict=True))
    return Bound(
        mean=min(ARITHMETIC.mean + FACTOR * proof.kl_mean, CEILING.mean),
        p99=min(ARITHMETIC.p99 + FACTOR * proof.kl_p99, CEILING.p99),
        tie=min(ARITHMETIC.tie + _GAPS * gap, CEILING.tie),
    )


def refuse_without_memory(found: Named, *, merges: bool) -> None:
    """See that the weights in 32 bits fit this machine's memory, which the proof needs.

    Args:
        found: The trained model.
        merges: Whether the format merges the adapter. A card holds the model of one that does not.

    Raises:
        RunError: If they do not.
    """
    import psutil

    from modelforge.machine.hardware import detect_hardware
    from modelforge.models.providers.huggingface import HuggingFace
    from modelforge.plan.model import sizes

    if not merges and detect_hardware().device != "cpu":
        return
    weights, _ = sizes(HuggingFace().load_model_config(found.source))
    needed, free = 4 * weights / 2**30, psutil.virtual_memory().available / 2**30
    if needed > free:
        what = f"the proof needs {needed:.1f} GiB of memory for the weights in 32 bits"
        fix = "close other programs, or use a machine with more memory"
        raise RunError(Problem(found.said, f"{what}, and {free:.1f} GiB are free", fix))


def _arithmetic(found: Named) -> str | None:
    """The type that the trained model itself multiplies in; None for 32 bits, as on a CPU."""
    import torch

    from modelforge.machine.hardware import detect_hardware

    if detect_hardware().device == "cpu":
        return None
    kinds = {torch.bfloat16: "bf16", torch.float16: "f16"}
    return kinds.get(trained_dtype(found))


def _gap(own: torch.Tensor, other: torch.Tensor) -> float:
    """How far the two likeliest tokens of a place moved against each other, at most.

    Places count where the two were near enough to change places.
    """
    likeliest = own.topk(2).indices
    gap, moved = (logps.gather(1, likeliest).diff()[:, 0] for logps in (own, other))
    near = gap > -CEILING.tie
    return (gap - moved)[near].abs().max().item() if near.any() else 0.0
