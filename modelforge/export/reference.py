"""The model as it was trained: what every export of it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from modelforge.common.progress import track
from modelforge.evaluation.opened import Named
from modelforge.evaluation.samples import eos_ids
from modelforge.export.prompts import prompts_for
from modelforge.export.proof import NEW_TOKENS, Bound, Case, logps_of
from modelforge.inference.answers import Sampling, answer_all, prompt_ids
from modelforge.inference.trained import Trained, load_tokenizer, load_trained

if TYPE_CHECKING:
    import torch

_SCORES = 0.5  # the most that scores may ever differ by, of the largest one; a lost head's: 1


@dataclass(frozen=True)
class Reference:
    """What is kept of the trained model once it is out of memory.

    Attributes:
        cases: Prompts, answered; empty for a reward model.
        texts: Token ids of texts that are scored; empty for a language model.
        scores: (N,): their scores.
        template: Its chat template.
        stops: The tokens that end an answer.
        pad: The token that fills a batch.
    """

    cases: list[Case]
    texts: list[list[int]]
    scores: torch.Tensor | None
    template: Any
    stops: list[int]
    pad: int


def reference_of(found: Named) -> Reference:
    """Load the model as it was trained, and ask it.

    Raises:
        ModelError: If it cannot be loaded here.
    """
    tokenizer: Any = load_tokenizer(found)
    prompts = prompts_for(found, chat=bool(tokenizer.chat_template))
    trained = load_trained(found)
    compute_in_32_bits(trained.model)
    if found.scores:
        texts = [prompt_ids(trained, prompt) for prompt in prompts]
        scores = scores_of(trained, texts)
        return Reference([], texts, scores, tokenizer.chat_template, [], tokenizer.pad_token_id)
    return Reference(
        cases=_cases(trained, prompts),
        texts=[],
        scores=None,
        template=tokenizer.chat_template,
        stops=eos_ids(trained.model, trained.tokenizer),
        pad=tokenizer.pad_token_id,
    )


def compute_in_32_bits(model: Any) -> None:
    """On a CPU, multiply in 32 bits; the weights keep the values that their type gave them.

    So the figures are those of the weights, and not those of a CPU's 16-bit arithmetic. A card has
    no room for it: there the bound counts that arithmetic (`bound.py`).
    """
    import torch

    if model.device.type != "cpu":
        return
    for each in (*model.parameters(), *model.buffers()):
        if each.dtype in (torch.bfloat16, torch.float16):
            each.data = each.data.float()
    for module in model.modules():
        if hasattr(module, "compute_dtype"):  # bitsandbytes' layers in 4 bits
            module.forward = partial(_unpacked, module)


def _unpacked(layer: Any, values: torch.Tensor) -> torch.Tensor:
    """A layer in 4 bits as training computes it: unpacked to its type.

    bitsandbytes' kernel for inference unpacks to the type of ``values``, which is another rounding.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(values.dtype)
    return torch.nn.functional.linear(values, weight, layer.bias)


def _cases(trained: Trained, prompts: Sequence[Any]) -> list[Case]:
    """What the trained model makes of each prompt that has room for an answer."""
    found = []
    sampling = Sampling(max_new_tokens=NEW_TOKENS)
    for prompt in track(prompts, "asking the trained model", len(prompts), unit="prompts"):
        ids = prompt_ids(trained, prompt)
        if trained.context is not None and len(ids) + NEW_TOKENS > trained.context:
            continue
        answer = answer_all(trained, [ids], sampling)[0]
        logps = logps_of(trained.model, ids, answer.ids)
        start = None
        if trained.named.source.adapter is not None:
            with trained.model.disable_adapter():
                start = logps_of(trained.model, ids, answer.ids)
        found.append(Case(prompt, ids, answer.ids, answer.finish_reason, logps, start))
    return found


def padded(tokenizer: Any, texts: Sequence[Sequence[int]]) -> Any:
    """(N, L) each: tokens and mask of texts, as a server would score them together."""
    return tokenizer.pad(
        {"input_ids": [list(ids) for ids in texts]},
        padding_side="right",
        return_attention_mask=True,
        return_tensors="pt",
    )


def scores_of(trained: Trained, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """(N,): the scores of texts, in float32."""
    import torch

    batch = padded(trained.tokenizer, texts)
    given = {name: batch[name].to(trained.model.device) for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        return trained.model(**given).logits[:, 0].float().cpu()


def scores_differ(
    tokenizer: Any, scores: torch.Tensor, reference: Reference, bound: Bound
) -> tuple[dict[str, Any], list[str]]:
    """A reward model's export against the model as it was trained.

    Args:
        tokenizer: The export's.
        scores: (N,): that it gives to the reference's texts.
        reference: Of a reward model.
        bound: What its type explains.

    Returns:
        The figures, and what is wrong in words.
    """
    if tokenizer.chat_template != reference.template:
        return {}, ["its chat template is another than in training"]
    assert reference.scores is not None
    difference = (scores - reference.scores).abs().max().item()
    most = min(bound.tie, _SCORES) * reference.scores.abs().max().item()
    figures = {"texts": len(reference.texts), "largest_difference": difference}
    if difference <= most:
        return figures, []
    return figures, [f"its scores differ by {difference:.3g}; its type explains {most:.3g}"]
