"""An export against the model as it was trained: the same prompts, token by token.

Both read the trained model's own greedy answers. At each place of an answer the next token's
distribution of the export is compared with that of the trained model: KL(trained ‖ export). So one
early difference does not hide what follows. An export is the same model if the divergence is within
what rounding to its type gives this very model (`bound.py`), and if it says another token only
where the trained model itself was near a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

NEW_TOKENS = 32  # of each answer


@dataclass(frozen=True)
class Bound:
    """What an export may differ by.

    Attributes:
        mean: KL divergence, in nats a token.
        p99: Its 99th percentile.
        tie: Log probabilities nearer to each other than this are a tie. Of a reward model: how far
            a score may be off, as a share of the largest one.
    """

    mean: float
    p99: float
    tie: float


# What 32-bit arithmetic explains: another order of the same sums. Right exports of three models
# measure up to 1e-7 nats a token (`benchmarks/results/export.md`).
ARITHMETIC = Bound(1e-6, 1e-5, 1e-2)
# What no rounding excuses: an export that differs more is another model, whatever explains it. It
# also tells an adapter in the base before that was rounded to 4 bits, which is another model, from
# a wrong one.
CEILING = Bound(0.1, 1.0, 1.0)
# However much a coarse type explains, an export has to be nearer to the trained model than the
# model before training is: its KL divergence is at most this share of that one's.
NEARER = 0.5
# Of a reward model's scores, by type; a lost head's differ by 1.
_SCORES = {"f32": 0.01, "f16": 0.05, "bf16": 0.1, "int8": 0.2, "int4": 0.5}


def bound_of_scores(kind: str) -> Bound:
    """What a reward model's export may differ by."""
    return Bound(0.0, 0.0, _SCORES[kind])


@dataclass(frozen=True)
class Case:
    """A prompt as the trained model took and answered it.

    Attributes:
        prompt: Messages, or text.
        ids: Its tokens.
        answer: The greedy answer's tokens, the one that ended it included.
        finish_reason: ``stop`` or ``length``.
        logps: (T, V): log probabilities before each token of the answer.
        start: (T, V): those of the model before it was trained; None where all weights were.
    """

    prompt: Any
    ids: list[int]
    answer: list[int]
    finish_reason: str
    logps: torch.Tensor
    start: torch.Tensor | None = None


@dataclass(frozen=True)
class Proof:
    """How an export compares with the trained model.

    Attributes:
        prompts: How many were asked.
        tokens: Places that were compared.
        kl_mean: Mean KL divergence, in nats a token.
        kl_p99: Its 99th percentile.
        kl_max: Its largest.
        others: Places with another likeliest token, beyond a near tie.
        ties: Places with another likeliest token at a near tie.
        kl_start: Mean KL divergence of the model before training, which an export has to be nearer
            than. None where that one is not at hand.
    """

    prompts: int
    tokens: int
    kl_mean: float
    kl_p99: float
    kl_max: float
    others: int
    ties: int
    kl_start: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For ``export.json``."""
        return asdict(self)

    def wrong(self, bound: Bound) -> list[str]:
        """Each way in which an export is beyond its bound, in words."""
        found = []
        for name, value, most in (
            ("mean", self.kl_mean, bound.mean),
            ("99th percentile", self.kl_p99, bound.p99),
        ):
            if not value <= most:  # not a comparison that NaN passes
                found.append(
                    f"its KL divergence from the trained model is {value:.3g} nats a token "
                    f"({name}), and its type explains {most:.3g}"
                )
        if self.others:
            found.append(
                f"at {self.others} of {self.tokens} places it says another token, where the "
                "trained model was not near a tie"
            )
        near = None if self.kl_start is None else max(NEARER * self.kl_start, ARITHMETIC.mean)
        if near is not None and not self.kl_mean <= near:
            found.append(
                f"it is {self.kl_mean:.3g} nats a token from the trained model, and the model "
                f"before training is {self.kl_start:.3g}: what was learned drowns in the difference"
            )
        return found


def logps_of(model: Any, ids: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """(T, V): the log probabilities before each token of an answer, in float32 on the CPU."""
    import torch

    whole = torch.tensor([[*ids, *answer]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=whole).logits[0, len(ids) - 1 : -1]
    return logits.float().log_softmax(-1).cpu()


def compared(
    cases: Sequence[Case],
    found: Sequence[torch.Tensor],
    bound: Bound,
    *,
    against: Sequence[torch.Tensor] | None = None,
) -> Proof:
    """The figures of an export.

    Args:
        cases: Of the trained model.
        found: The export's log probabilities at the same places: (T, V) each.
        bound: What tells a near tie.
        against: Log probabilities to hold them against; by default the trained model's.
    """
    import torch

    kls, others, ties = [], 0, 0
    held = [case.logps for case in cases] if against is None else against
    for reference, logps in zip(held, found, strict=True):
        # A token that the trained model rules out adds nothing; one that the export does, all.
        gap = torch.where(reference.exp() > 0, reference - logps, torch.zeros_like(reference))
        kls.append((reference.exp() * gap).sum(-1).clamp(min=0))
        first, second = reference.topk(2).values.unbind(-1)
        differs = reference.argmax(-1) != logps.argmax(-1)
        near = first - second < bound.tie
        others += int((differs & ~near).sum())
        ties += int((differs & near).sum())
    kl = torch.cat(kls).double()
    return Proof(
        prompts=len(cases),
        tokens=len(kl),
        kl_mean=kl.mean().item(),
        kl_p99=kl.quantile(0.99).item(),
        kl_max=kl.max().item(),
        others=others,
        ties=ties,
        kl_start=None if against is not None else _start(cases),
    )


def _start(cases: Sequence[Case]) -> float | None:
    """KL(trained ‖ before training), the mean over all places; None where it is not at hand."""
    starts = [case.start for case in cases if case.start is not None]
    if len(starts) < len(cases):
        return None
    return compared(cases, starts, CEILING, against=[case.logps for case in cases]).kl_mean


Difference = Literal["none", "tie", "other"]


def answers_differ(case: Case, ids: Sequence[int], bound: Bound) -> Difference:
    """How a greedy answer differs from the trained model's: not, from a near tie on, or beyond it.

    Args:
        case: The trained model's.
        ids: The answer's tokens, the one that ended it included.
        bound: What tells a near tie.
    """
    length = len(case.answer)
    for place, (own, other) in enumerate(zip(case.answer, ids, strict=False)):
        if own != other:
            first, second = case.logps[place].topk(2).values.tolist()
            return "tie" if first - second < bound.tie else "other"
    return "none" if len(ids) >= length else "other"
