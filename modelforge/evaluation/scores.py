"""What a model makes of rows: how likely it finds the data's answers, what it answers itself.

Rows are padded on the right where they are scored, and on the left where they are continued. What
is drawn for an answer depends on the seed, the prompt and the answer's number alone
(`modelforge.measuring.sampling`), and not on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelforge.evaluation.statistics import kl_estimates
from modelforge.measuring.sampling import draws_of, sampled_with

if TYPE_CHECKING:
    import torch

    from modelforge.evaluation.items import Answer


@dataclass(frozen=True)
class Sampling:
    """How a model is asked.

    Attributes:
        samples: Answers to each prompt.
        temperature: 0 takes the likeliest token each time.
        max_new_tokens: The longest answer, in tokens.
        seed: Of the draws.
    """

    samples: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 128
    seed: int = 0


@dataclass
class Told:
    """An answer of the model.

    Attributes:
        ids: Its tokens, with the one that ended it.
        text: Without special tokens.
        ended: Whether it stopped by itself.
        figures: What else was found of it.
    """

    ids: list[int]
    text: str
    ended: bool
    figures: dict[str, float] = field(default_factory=dict)


def likelihoods(model: Any, answers: Sequence[Answer], *, pad: int) -> list[tuple[float, int]]:
    """Of each answer -log p of its tokens given its prompt, in nats, and how many they are.

    Args:
        model: A causal language model, in evaluation mode and without gradients.
        answers: A batch.
        pad: A token to fill up with.
    """
    ids, mask = _padded([answer.ids for answer in answers], pad, model.device)
    labels, _ = _padded([answer.labels for answer in answers], -100, model.device)
    found = []
    for logits, wanted in zip(_logits(model, ids, mask), labels[:, 1:], strict=True):
        kept = wanted != -100
        logps = logits[kept].float().log_softmax(-1)
        nats = -logps.gather(-1, wanted[kept][:, None]).double().sum()
        found.append((float(nats), int(kept.sum())))
    return found


def answered(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    how: Sampling,
    *,
    limit: int | None,
) -> list[list[Told]]:
    """The model's answers to each prompt.

    Args:
        model: As for `likelihoods`.
        tokenizer: With a pad token.
        prompts: In tokens; the end of a long one is kept.
        how: How it is asked.
        limit: Prompt and answer together, in tokens; None for any.
    """
    import torch

    from modelforge.evaluation.samples import eos_ids as ends_of

    new = how.max_new_tokens if limit is None else min(how.max_new_tokens, limit // 2)
    room = None if limit is None else limit - new
    asked = [list(ids[-room:] if room else ids) for ids in prompts for _ in range(how.samples)]
    width = max(map(len, asked))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in asked], device=model.device)
    mask = torch.tensor(
        [[0] * (width - len(row)) + [1] * len(row) for row in asked], device=model.device
    )
    ends = ends_of(model, tokenizer)
    kwargs: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if how.temperature:
        kwargs = {"do_sample": True, "temperature": how.temperature, "top_p": 1.0, "top_k": 0}
    draws = draws_of(asked, seed=how.seed, group=how.samples, length=new)
    with sampled_with(model, draws):
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=new,
            use_cache=True,
            pad_token_id=pad,
            eos_token_id=ends,
            **kwargs,
        )
    told = [_cut(row[width:].tolist(), ends, tokenizer) for row in output]
    return [told[i : i + how.samples] for i in range(0, len(told), how.samples)]


def _cut(ids: list[int], ends: Sequence[int], tokenizer: Any) -> Told:
    at = next((i for i, token in enumerate(ids) if token in ends), None)
    ids = ids if at is None else ids[: at + 1]
    return Told(ids, tokenizer.decode(ids, skip_special_tokens=True), at is not None)


def from_start(
    model: Any,
    start: AbstractContextManager[Any],
    prompts: Sequence[Sequence[int]],
    told: Sequence[Told],
    *,
    pad: int,
) -> None:
    """Put ``kl``, ``kl_k3`` and ``entropy`` into the figures of answers, each a sum in nats.

    The divergence is that of the model from its start, over the whole vocabulary at each place of
    its own answer; ``kl_k3`` is Schulman's estimate from the tokens drawn.

    Args:
        model: As for `likelihoods`.
        start: Gives the model that this one began from; entered once.
        prompts: Of each answer, in tokens.
        told: The answers.
        pad: A token to fill up with.
    """
    import torch

    rows = [[*prompt, *answer.ids] for prompt, answer in zip(prompts, told, strict=True)]
    ids, mask = _padded(rows, pad, model.device)
    now = [logits.float().log_softmax(-1) for logits in _logits(model, ids, mask)]
    with start as other:
        first = [logits.float().log_softmax(-1) for logits in _logits(other, ids, mask)]
    for i, (prompt, answer) in enumerate(zip(prompts, told, strict=True)):
        part = slice(len(prompt) - 1, len(prompt) - 1 + len(answer.ids))
        p, q = now[i][part], first[i][part]
        drawn = torch.tensor(answer.ids, device=p.device)[:, None]
        own, before = (side.gather(-1, drawn)[:, 0].tolist() for side in (p, q))
        answer.figures["kl"] = float((p.exp() * (p - q)).double().sum())
        answer.figures["kl_k3"] = float(kl_estimates(own, before)["k3"].sum())
        answer.figures["entropy"] = float(-(p.exp() * p).double().sum())


def _logits(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    return found


def _padded(
    rows: Sequence[Sequence[int]], fill: int, device: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of one length and their mask, filled up on the right."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask
