"""The model as it was trained: what every export of it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelforge.common.progress import track
from modelforge.evaluation.opened import Named
from modelforge.evaluation.samples import eos_ids
from modelforge.export.prompts import prompts_for
from modelforge.export.proof import NEW_TOKENS, Case, logps_of
from modelforge.inference.answers import Sampling, answer_all, prompt_ids
from modelforge.inference.trained import Trained, load_tokenizer, load_trained

if TYPE_CHECKING:
    import torch


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
        found.append(Case(prompt, ids, answer.ids, answer.finish_reason, logps))
    return found


def scores_of(trained: Trained, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """(N,): the scores of texts, in float32; scored together, as a server would."""
    import torch

    batch = trained.tokenizer.pad(
        {"input_ids": [list(ids) for ids in texts]},
        padding_side="right",
        return_attention_mask=True,
        return_tensors="pt",
    )
    given = {name: batch[name].to(trained.model.device) for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        return trained.model(**given).logits[:, 0].float().cpu()
