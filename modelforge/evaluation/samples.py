"""A few held-out prompts answered, and a few held-out pairs scored, before and after training."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelforge.common.progress import Task
from modelforge.constraints import Constraints
from modelforge.data.carried import carrying, chat_ids
from modelforge.data.dialogue import answer_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from modelforge.data.encoded import Encoded

COUNT = 4
_MAX_NEW_TOKENS = 64


@contextlib.contextmanager
def undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients; mode and every random state are put back after.

    So a run that looks at its model trains on exactly as one that does not.
    """
    import torch

    from modelforge.checkpointing.randomness import random_state_kept

    training = model.training
    model.eval()
    try:
        with random_state_kept(), torch.no_grad():
            yield
    finally:
        model.train(training)


def prompt_and_reference(row: dict[str, Any]) -> tuple[Any, str]:
    """The prompt of a row in normal form (messages or text), and the answer the data gives."""
    if "messages" in row:
        turns = row["messages"]
        last = max((i for i, m in enumerate(turns) if m["role"] == "assistant"), default=len(turns))
        return turns[:last], answer_of(turns[last]) if last < len(turns) else ""
    if "text" in row:
        words = row["text"].split(" ")
        return " ".join(words[:12]), " ".join(words[12:])
    given = (row.get(name) for name in ("completion", "chosen", "answer"))
    return row["prompt"], _shown(next((each for each in given if each is not None), ""))


def _shown(answer: Any) -> str:
    """An answer of the data as text: the last of messages, or all of several right ones."""
    if isinstance(answer, list) and answer and isinstance(answer[-1], dict):
        answer = answer_of(answer[-1]) if "content" in answer[-1] else answer[-1]
    if isinstance(answer, list):
        return " or ".join(map(_shown, answer))
    return json.dumps(answer, ensure_ascii=False) if isinstance(answer, dict) else str(answer)


def readable(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A row that came in tokens as texts, parted where its labels begin; any other as it is."""
    if "input_ids" not in row:
        return row
    ids, labels = row["input_ids"], row["labels"]
    begin = next((i for i, label in enumerate(labels) if label >= 0), len(ids)) or len(ids) // 2
    prompt, completion = (
        tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:begin], ids[begin:])
    )
    return {"prompt": prompt, "completion": completion}


def answer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    *,
    limit: int,
    new_tokens: int = _MAX_NEW_TOKENS,
    batch: int = COUNT,
    template_kwargs: Mapping[str, Any] | None = None,
    constraints: Constraints | None = None,
) -> list[dict[str, Any]]:
    """Greedy answers to the first rows.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        rows: Rows in normal form.
        limit: Longest prompt and answer together, in tokens; the prompt's end is kept.
        new_tokens: Longest answer, in tokens.
        batch: How many prompts are answered at once.
        template_kwargs: What every prompt gives the chat template.
        constraints: What answers are held to; then each sample says what it breaks.
    """
    new_tokens = min(new_tokens, limit // 2)
    samples, asked = [], []
    for row in rows.select(range(min(COUNT, len(rows)))):
        prompt, reference = prompt_and_reference(readable(row, tokenizer))
        if isinstance(prompt, list):
            ids = chat_ids(tokenizer, carrying(prompt, row), template_kwargs, generate=True)
        else:
            ids = tokenizer(prompt)["input_ids"]
        asked.append(ids[-(limit - new_tokens) :])
        samples.append({"prompt": prompt, "reference": reference})
    told: list[str] = []
    task = Task("sample answers", len(asked), unit="prompts")
    try:
        for at in range(0, len(asked), batch):
            part = asked[at : at + batch]
            told += _told(model, tokenizer, part, new_tokens, constraints)
            task.advance(len(part))
    finally:
        task.close()
    found = [sample | {"completion": text} for sample, text in zip(samples, told, strict=True)]
    return found if constraints is None else [_held(each, constraints) for each in found]


def _held(sample: dict[str, Any], constraints: Constraints) -> dict[str, Any]:
    """A sample as it may be shown."""
    answer = constraints.held(sample["prompt"], sample["completion"])
    broken = [violation.constraint for violation in constraints.violations(answer)]
    return sample | {"completion": answer.text, "violations": broken}


def _told(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    new_tokens: int,
    constraints: Constraints | None,
) -> list[str]:
    """Greedy answers to prompts in tokens, all of them at once."""
    import torch

    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = [[pad] * (width - len(row)) + row for row in prompts]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in prompts]
    output = model.generate(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        max_new_tokens=new_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=pad,
        eos_token_id=eos_ids(model, tokenizer),
        **_steered(tokenizer, constraints),
    )
    return tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)


def _steered(tokenizer: Any, constraints: Constraints | None) -> dict[str, Any]:
    if constraints is None or not constraints.steered:
        return {}
    from modelforge.constraints.steering import Steering

    return {"logits_processor": Steering(tokenizer, constraints).processors()}


def score(
    model: PreTrainedModel, rows: Dataset, tokens: Sequence[Encoded], *, limit: int
) -> list[dict[str, Any]]:
    """A reward model's scores of the first pairs.

    Args:
        model: With a score head.
        rows: Pairs in normal form.
        tokens: The same in tokens, uncut.
        limit: Where a side is cut, in tokens.
    """
    import torch

    samples = []
    for row, pair in zip(rows.select(range(min(COUNT, len(rows)))), tokens, strict=False):
        scores = {}
        for side, ids in zip(("chosen", "rejected"), pair.ids, strict=True):
            input_ids = torch.tensor([ids[:limit].tolist()], device=model.device)
            scores[f"score_{side}"] = model(input_ids=input_ids).logits[0, 0].item()
        samples.append({key: row[key] for key in ("prompt", "chosen", "rejected")} | scores)
    return samples


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All tokens that end an answer: the tokenizer's and the generation config's."""
    return ends_of(model.generation_config, tokenizer)


def ends_of(config: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The same, of a generation config or None."""
    ids = config.eos_token_id if config else None
    listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
    return sorted({*listed, tokenizer.eos_token_id})
