"""What a run forgets: how far a model has moved on texts that have nothing to do with its data.

The texts were written for this package: plain prose, a little code, three other languages. Before
training, the likeliest next tokens at each place are kept with their log probabilities; after it,
the same places are read again. So nothing of the first model has to stay in memory.

The KL divergence is that of the next token's distribution under the first model from that under the
trained one, with all tokens but the `KEPT` likeliest taken together. Taking outcomes together can
only lower a divergence (Cover and Thomas, "Elements of Information Theory", 2.7: the log sum
inequality), so it is a lower bound. Where nothing has changed it is 0 to 1e-6: what is kept is
rounded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from modelforge.common.processes import world_size
from modelforge.common.progress import track

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modelforge.data import Data

KEPT = 16  # tokens of each distribution
LONGEST = 64  # tokens of a text
_SHARE = 0.1  # of a run's work, for both looks together
_PASSES = 3  # a training step is a forward pass and a backward pass, which costs two


def affordable(data: Data, args: Any) -> int:
    """How many of the texts both looks may read for a tenth of what training costs a process.

    Args:
        data: The run's rows.
        args: Its TRL config object.
    """
    tokens = data.ledger.tokens.get("total", 0.0)
    rows = max(data.ledger.train_rows, 1)
    trained = tokens * args.num_train_epochs / world_size()  # each process reads all texts
    if args.max_steps > 0:
        step = args.per_device_train_batch_size * args.gradient_accumulation_steps
        trained = tokens / rows * step * args.max_steps
    return min(len(texts()), int(_SHARE * _PASSES * trained / (2 * LONGEST)))


def texts() -> list[str]:
    """The texts that ship with the package."""
    folder = files("modelforge.configs") / "texts"
    found: list[str] = json.loads((folder / "neutral.json").read_text(encoding="utf-8"))
    return found


def begun(model: Any, tokenizer: PreTrainedTokenizerBase, count: int) -> dict[str, Any]:
    """The model as it begins, for ``before.json``.

    Args:
        model: A causal language model, in evaluation mode and without gradients.
        tokenizer: Its tokenizer.
        count: How many texts.

    Returns:
        ``texts`` and ``tokens``; ``loss``, in nats a token; ``losses``: that of each text, and its
        tokens; ``places``: of each text the `KEPT`
        likeliest tokens at each place, and their log probabilities.
    """
    places, losses, each = [], [], []
    for ids, logps in _read(model, tokenizer, count):
        best = logps.topk(min(KEPT, logps.shape[1]), dim=1)
        rounded = [[round(p, 5) for p in row] for row in best.values.tolist()]
        places.append({"tokens": best.indices.tolist(), "logps": rounded})
        own = (-logps.gather(1, ids[:, None])[:, 0]).tolist()
        losses += own
        each.append(_mean(own))
    loss = math.fsum(losses) / len(losses) if losses else None
    found = {"texts": count, "tokens": len(losses), "loss": loss}
    return {**found, "losses": each, "places": places}


def moved(
    model: Any, tokenizer: PreTrainedTokenizerBase, start: Mapping[str, Any]
) -> dict[str, Any]:
    """How far the model is from where it began, for ``results.json``.

    Args:
        model: The trained one, as for `begun`.
        tokenizer: As it was for `begun`.
        start: What `begun` found.

    Returns:
        ``texts``, ``tokens``, ``loss_before`` and ``loss_after``; ``kl``, in nats a token;
        ``losses``: the loss of each text, and its tokens.
    """
    import torch

    losses: list[float] = []
    each: list[tuple[float, int]] = []
    gaps: list[float] = []
    looks = _read(model, tokenizer, start["texts"])
    for (ids, logps), places in zip(looks, start["places"], strict=True):
        own = (-logps.gather(1, ids[:, None])[:, 0]).tolist()
        losses += own
        each.append(_mean(own))
        tokens = torch.tensor(places["tokens"], device=logps.device)
        first = torch.tensor(places["logps"], device=logps.device, dtype=torch.float64)
        now = logps.gather(1, tokens).double()
        gap = (first.exp() * (first - now)).sum(1)
        rest = [(1 - part.exp().sum(1)).clamp(min=1e-6) for part in (first, now)]
        gaps += (gap + rest[0] * (rest[0] / rest[1]).log()).tolist()
    count = max(len(losses), 1)
    return {
        "texts": start["texts"],
        "tokens": len(losses),
        "loss_before": start["loss"],
        "loss_after": math.fsum(losses) / count,
        "kl": max(math.fsum(gaps) / count, 0.0),
        "losses": each,
    }


def _mean(losses: list[float]) -> tuple[float, int]:
    """The loss of a text, and its tokens."""
    return math.fsum(losses) / max(len(losses), 1), len(losses)


def told(found: Mapping[str, Any]) -> str:
    """`moved` in a sentence's part, for a reader."""
    return (
        f"on {found['texts']} texts that have nothing to do with the data: KL from the start "
        f"{found['kl']:.3g} nats a token, loss {found['loss_before']:.4g} → "
        f"{found['loss_after']:.4g}"
    )


def _read(model: Any, tokenizer: PreTrainedTokenizerBase, count: int) -> Iterator[tuple[Any, Any]]:
    """Each text's tokens from the second on, and the log probabilities of all at their places."""
    import torch

    for text in track(texts()[:count], "neutral texts", count, unit="texts"):
        ids: Any = tokenizer(text, return_tensors="pt", truncation=True, max_length=LONGEST)
        ids = ids["input_ids"].to(model.device)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        yield ids[0, 1:], logits[0, :-1].float().log_softmax(-1)
