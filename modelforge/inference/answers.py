"""Prompts become tokens by the model's own template, and are answered in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelforge.data.carried import chat_ids
from modelforge.data.render import RenderError
from modelforge.errors import DataError, Problem, UserError

if TYPE_CHECKING:
    from modelforge.constraints.steering import Steering
    from modelforge.inference.trained import Trained

Prompt = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        max_new_tokens: The longest answer, in tokens.
        temperature: 0 takes the likeliest token each time.
        top_p: The share of probability that is drawn from.
        top_k: The number of tokens that are drawn from; 0 for all.
        seed: An answer depends on it, on its prompt and on its number, and not on its batch.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 42

    def __post_init__(self) -> None:
        problems = [
            Problem(f"--{name.replace('_', '-')}", f"is {getattr(self, name)}", fix)
            for name, right, fix in (
                ("max_new_tokens", self.max_new_tokens > 0, "set 1 or more"),
                ("temperature", self.temperature >= 0, "set 0 (the likeliest) or more"),
                ("top_p", 0 < self.top_p <= 1, "set a share above 0, up to 1"),
                ("top_k", self.top_k >= 0, "set 0 (all) or more"),
            )
            if not right
        ]
        drawn = [n for n, v in (("top_p", self.top_p != 1), ("top_k", self.top_k)) if v]
        if self.temperature == 0:
            what, fix = "has no effect at temperature 0", "set a temperature, such as 0.7"
            problems += [Problem(f"--{name.replace('_', '-')}", what, fix) for name in drawn]
        if problems:
            raise UserError(*problems)

    def arguments(self) -> dict[str, Any]:
        """For ``generate``; they come over the model's own generation config."""
        if self.temperature == 0:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
        }


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: Without special tokens.
        ids: Its tokens, the one that ended it included.
        finish_reason: ``stop`` if the model ended it, ``length`` if it was cut, ``content_filter``
            if a constraint ended it or took its place.
    """

    text: str
    ids: list[int]
    finish_reason: str


def prompt_ids(
    trained: Trained, prompt: Prompt, kwargs: Mapping[str, Any] | None = None
) -> list[int]:
    """The tokens of a prompt, as in training: messages by the template, text as it stands.

    Args:
        trained: The model.
        prompt: Messages, of which the first may carry ``tools``; or text.
        kwargs: For the template, over those that the run was trained with.

    Raises:
        DataError: If the template refuses the messages.
    """
    if isinstance(prompt, str):
        ids: list[int] = trained.tokenizer(prompt)["input_ids"]
        return ids
    given = {**(trained.named.recorded.get("chat_template_kwargs") or {}), **(kwargs or {})}
    try:
        return chat_ids(trained.tokenizer, prompt, given, generate=True)
    except RenderError as error:
        roles = ", ".join(message["role"] for message in prompt)
        what = f"its chat template refuses messages of {roles}: {error}"
        fix = "leave out --system, or change the messages"
        raise DataError(Problem(trained.named.said, what, fix)) from None


def answer_all(
    trained: Trained,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    group: int = 1,
    streamer: Any = None,
    steered: Steering | None = None,
    enough: Callable[[], bool] | None = None,
) -> list[Answer]:
    """The answers to a batch of prompts.

    Args:
        trained: The model.
        prompts: Token ids, each within the context together with ``max_new_tokens``.
        sampling: How they are drawn.
        group: Answers to a prompt; they stand together.
        streamer: Is given each token of a single answer as it comes.
        steered: Which tokens may not come next; None for any.
        enough: Whether a single answer has come far enough; None for never.
    """
    import torch

    from modelforge.evaluation.samples import eos_ids
    from modelforge.measuring.sampling import draws_of, sampled_with

    model, tokenizer = trained.model, trained.tokenizer
    rows = [ids for ids in prompts for _ in range(group)]
    batch = tokenizer.pad(
        {"input_ids": [list(ids) for ids in rows]},
        padding_side="left",
        return_attention_mask=True,
        return_tensors="pt",
    )
    length = sampling.max_new_tokens
    draws = draws_of(rows, seed=sampling.seed, group=group, length=length)
    ends = eos_ids(model, tokenizer)
    with torch.inference_mode(), sampled_with(model, draws):
        output = model.generate(
            input_ids=batch["input_ids"].to(model.device),
            attention_mask=batch["attention_mask"].to(model.device),
            max_new_tokens=length,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=ends,
            streamer=streamer,
            logits_processor=None if steered is None else steered.processors(),
            stopping_criteria=None if enough is None else [lambda ids, *_: _all(ids, enough())],
            **sampling.arguments(),
        )
    return [_answer(row, ends, tokenizer) for row in output[:, batch["input_ids"].shape[1] :]]


def _all(ids: Any, value: bool) -> Any:
    """One answer for every row, as ``generate`` wants it."""
    import torch

    return torch.full((len(ids),), value, dtype=torch.bool, device=ids.device)


def _answer(row: Any, ends: Sequence[int], tokenizer: Any) -> Answer:
    ids = row.tolist()
    stop = next((i for i, token in enumerate(ids) if token in ends), None)
    ids = ids if stop is None else ids[: stop + 1]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Answer(text, ids, "length" if stop is None else "stop")
