"""Normal form → token ids and labels, batch-wise, as TRL's trainers make them.

For prompt and completion the result equals ``SFTTrainer._prepare_dataset`` token for token, for
pairs ``RewardTrainer._prepare_dataset`` (TRL 1.14 to 1.16). For conversations, where TRL needs a
template with ``{% generation %}`` marks, templates without them are read by their prefixes.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from modelforge.data.convert import DataKind, Example, Text
from modelforge.data.dialogue import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED = -100  # the label that torch's cross entropy ignores
BATCH = 1000  # rows tokenized at once
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class RenderError(Exception):
    """The chat template refuses a conversation."""


@dataclass(slots=True)
class Encoded:
    """One example in tokens, uncut; four bytes a token, for all rows of a data set are held.

    Attributes:
        ids: The sequences: one for a demonstration or a prompt, chosen and rejected for a pair.
        start: The index of the first completion token, of a pair in both; for a conversation 0.
        spans: Of a demonstration: where supervised tokens begin and end (begin, end, begin, …).
        last_turn_only: Whether only the last of several assistant turns could be told apart.
    """

    ids: tuple[array[int], ...]
    start: int
    spans: array[int] | None = None
    last_turn_only: bool = False

    def labels(self, limit: int | None = None) -> list[int]:
        """Labels of a demonstration's first ``limit`` tokens: ids, or -100 where masked."""
        (ids,) = self.ids
        labels = [MASKED] * len(ids)
        for begin, end in pairwise(self.spans):
            labels[begin:end] = ids[begin:end]
        return labels[:limit]

    def supervised(self, limit: int | None = None) -> int:
        """How many of a demonstration's first ``limit`` tokens the loss is taken on."""
        most = len(self.ids[0]) if limit is None else limit
        spans = pairwise(self.spans)
        return sum(max(0, min(end, most) - begin) for begin, end in spans)


def pairwise(spans: array[int] | None) -> Iterator[tuple[int, int]]:
    """Spans as pairs of begin and end."""
    borders = iter(spans or ())
    return zip(borders, borders, strict=True)


def compact(*ids: list[int], start: int, spans: Sequence[int] | None = None) -> Encoded:
    """An example from lists of token ids."""
    return Encoded(
        tuple(array("i", sequence) for sequence in ids),
        start,
        None if spans is None else array("i", spans),
    )


def encode(
    examples: Sequence[Example], *, kind: DataKind, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Encoded | RenderError]:
    """Tokenize examples of one schema, in order; an error stands in for a row that fails."""
    encoder = {
        "demonstration": encode_demonstrations,
        "preference": encode_pairs,
        "prompt": encode_prompts,
    }[kind]
    for begin in range(0, len(examples), BATCH):
        yield from encoder(examples[begin : begin + BATCH], tokenizer)


def encode_demonstrations(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase
) -> list[Encoded | RenderError]:
    """Completion-only labels; every assistant turn of a conversation; all of a plain text."""
    if "input_ids" in examples[0]:
        return [given(example, tokenizer) for example in examples]
    if "text" in examples[0]:
        texts = [with_eos(example["text"], tokenizer) for example in examples]
        whole_texts = tokenize_text(texts, tokenizer)
        return [compact(ids, start=0, spans=(0, len(ids))) for ids in whole_texts]
    if "messages" in examples[0]:
        return encode_conversations([example["messages"] for example in examples], tokenizer)
    prompts, whole = prompts_and_wholes(examples, "completion", tokenizer)
    encoded: list[Encoded | RenderError] = []
    for prompt_ids, ids in zip(prompts, whole, strict=True):
        if isinstance(prompt_ids, RenderError) or isinstance(ids, RenderError):
            encoded.append(first_error(prompt_ids, ids))
            continue
        start = common_prefix_length(prompt_ids, ids)
        encoded.append(compact(ids, start=start, spans=(start, len(ids))))
    return encoded


def given(example: Example, tokenizer: PreTrainedTokenizerBase) -> Encoded | RenderError:
    """A row that came in tokens, supervised where its labels are."""
    ids, labels = example["input_ids"], example["labels"]
    if not all(0 <= token < len(tokenizer) for token in ids):
        return RenderError("a token that the tokenizer does not have")
    return compact(ids, start=0, spans=spans_of([label != MASKED for label in labels]))


def encode_pairs(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase
) -> list[Encoded | RenderError]:
    """Prompt with chosen and prompt with rejected, both with the index where they part."""
    prompts, chosen = prompts_and_wholes(examples, "chosen", tokenizer)
    rejected = wholes(examples, "rejected", tokenizer)
    encoded: list[Encoded | RenderError] = []
    for prompt_ids, good, bad in zip(prompts, chosen, rejected, strict=True):
        if (
            isinstance(prompt_ids, RenderError)
            or isinstance(good, RenderError)
            or isinstance(bad, RenderError)
        ):
            encoded.append(first_error(prompt_ids, good, bad))
            continue
        # As DPOTrainer does, so that both sides have the same prompt.
        start = min(common_prefix_length(prompt_ids, ids) for ids in (good, bad))
        encoded.append(compact(good, bad, start=start))
    return encoded


def encode_prompts(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase
) -> list[Encoded | RenderError]:
    """Prompts as they are generated from."""
    prompts = tokenize_texts([e["prompt"] for e in examples], tokenizer, generate=True)
    return [
        ids if isinstance(ids, RenderError) else compact(ids, start=len(ids)) for ids in prompts
    ]


def first_error(*found: Any) -> RenderError:
    """The first error among results."""
    return next(item for item in found if isinstance(item, RenderError))


Ids = list[int] | RenderError


def prompts_and_wholes(
    examples: Sequence[Example], reply: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Ids], list[Ids]]:
    """Token ids of each prompt alone, and of the prompt with its reply."""
    prompts = tokenize_texts([e["prompt"] for e in examples], tokenizer, generate=True)
    return prompts, wholes(examples, reply, tokenizer)


def wholes(
    examples: Sequence[Example], reply: str, tokenizer: PreTrainedTokenizerBase
) -> list[Ids]:
    """Token ids of each prompt with its reply; raw text ends with EOS."""
    texts = [
        e["prompt"] + (with_eos(e[reply], tokenizer) if isinstance(e[reply], str) else e[reply])
        for e in examples
    ]
    return tokenize_texts(texts, tokenizer)


def with_eos(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Raw text closed with EOS, unless it is already."""
    return text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token


def tokenize_text(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, *, special: bool = True
) -> list[list[int]]:
    """Token ids of strings."""
    encoded: Any = tokenizer(
        texts, add_special_tokens=special, return_attention_mask=False, verbose=False
    )
    return encoded["input_ids"]


def tokenize_texts(
    texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, *, generate: bool = False
) -> list[Ids]:
    """Token ids of strings, or of conversations under the chat template."""
    if isinstance(texts[0], str):
        return list(tokenize_text(list(texts), tokenizer))  # type: ignore[arg-type]
    rendered = render(texts, tokenizer, generate=generate)  # type: ignore[arg-type]
    good = [text for text in rendered if isinstance(text, str)]
    ids = iter(tokenize_text(good, tokenizer, special=False) if good else [])
    return [next(ids) if isinstance(text, str) else text for text in rendered]


def render(
    conversations: Sequence[list[Message]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    generate: bool = False,
) -> list[str | RenderError]:
    """Conversations as text; an error for each that the template refuses."""
    try:
        rendered: Any = tokenizer.apply_chat_template(
            list(conversations), tokenize=False, add_generation_prompt=generate
        )
        return rendered
    except Exception as error:  # a template is a program of its author; it may raise anything
        if len(conversations) == 1:
            return [RenderError(" ".join(str(error).split()) or type(error).__name__)]
    return [
        text
        for conversation in conversations
        for text in render([conversation], tokenizer, generate=generate)
    ]


def common_prefix_length(ids: list[int], others: list[int]) -> int:
    """How many leading tokens two sequences share."""
    if others[: len(ids)] == ids:
        return len(ids)
    pairs = enumerate(zip(ids, others, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ids), len(others)))


# --- conversations -----------------------------------------------------------------------------


def encode_conversations(
    conversations: Sequence[list[Message]], tokenizer: PreTrainedTokenizerBase
) -> list[Encoded | RenderError]:
    """Labels on every assistant turn."""
    rendered = render(conversations, tokenizer)
    good = [c for c, text in zip(conversations, rendered, strict=True) if isinstance(text, str)]
    if not good:
        encoded: Iterator[Encoded] = iter(())
    elif GENERATION.search(tokenizer.get_chat_template()):
        encoded = iter(by_generation_marks(good, tokenizer))
    else:
        texts = [text for text in rendered if isinstance(text, str)]
        encoded = iter(by_prefixes(good, texts, tokenizer))
    return [next(encoded) if isinstance(text, str) else text for text in rendered]


def by_generation_marks(
    conversations: list[list[Message]], tokenizer: PreTrainedTokenizerBase
) -> list[Encoded]:
    """Assistant turns as the template marks them; equals TRL's ``assistant_only_loss``."""
    found: Any = tokenizer.apply_chat_template(
        conversations,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"verbose": False},
    )
    return [
        compact(ids, start=0, spans=spans_of(mask))
        for ids, mask in zip(found["input_ids"], found["assistant_masks"], strict=True)
    ]


def by_prefixes(
    conversations: list[list[Message]], texts: list[str], tokenizer: PreTrainedTokenizerBase
) -> list[Encoded]:
    """Assistant turns found by rendering the conversation up to each of them.

    The turn at i begins where ``messages[:i]`` with the generation prompt ends, and ends where
    ``messages[:i + 1]`` ends. If one of these is not a prefix of the whole (templates that strip
    earlier thoughts), only the last turn is supervised.
    """
    spans = assistant_spans(conversations, texts, tokenizer)
    found: Any = tokenizer(
        texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    encoded = []
    for i, conversation in enumerate(conversations):
        ids, wanted = found["input_ids"][i], spans[i]
        if wanted is None:
            encoded.append(last_turn(conversation, ids, tokenizer))
            continue
        trained = [
            # A token across the border belongs to the turn, as where TRL's sequences part.
            any(begin < stop and max(end, begin + 1) > start for start, stop in wanted)
            for begin, end in found["offset_mapping"][i]
        ]
        encoded.append(compact(ids, start=0, spans=spans_of(trained)))
    return encoded


def spans_of(mask: Sequence[int]) -> list[int]:
    """Where runs of true values begin and end: begin, end, begin, …"""
    borders = zip([0, *mask], [*mask, 0], strict=True)
    return [i for i, (before, after) in enumerate(borders) if bool(before) != bool(after)]


def assistant_spans(
    conversations: list[list[Message]], texts: list[str], tokenizer: PreTrainedTokenizerBase
) -> list[list[tuple[int, int]] | None]:
    """Character spans of the assistant turns in each text; None where prefixes do not hold."""
    turns = [
        (row, at)
        for row, conversation in enumerate(conversations)
        for at, message in enumerate(conversation)
        if message["role"] == "assistant"
    ]
    befores = [conversations[row][:at] for row, at in turns]
    opened = render_non_empty(befores, tokenizer, generate=True)
    closed = render_non_empty([conversations[row][: at + 1] for row, at in turns], tokenizer)
    spans: list[list[tuple[int, int]] | None] = [[] for _ in conversations]
    for (row, _), start, stop in zip(turns, opened, closed, strict=True):
        holds = isinstance(start, str) and isinstance(stop, str) and stop.startswith(start)
        wanted = spans[row]
        if wanted is None or not holds or not texts[row].startswith(stop):  # type: ignore[arg-type]
            spans[row] = None
        else:
            wanted.append((len(start), len(stop)))  # type: ignore[arg-type]
    return spans


def render_non_empty(
    conversations: list[list[Message]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    generate: bool = False,
) -> list[str | RenderError]:
    """`render`, where a conversation without messages is an error of its own only."""
    rendered = iter(render([c for c in conversations if c], tokenizer, generate=generate))
    return [next(rendered) if c else RenderError("no message before it") for c in conversations]


def last_turn(
    conversation: list[Message], ids: list[int], tokenizer: PreTrainedTokenizerBase
) -> Encoded:
    """Supervise the last assistant turn and what follows it, as TRL does a completion."""
    turns = [i for i, message in enumerate(conversation) if message["role"] == "assistant"]
    (prompt,) = (
        tokenize_texts([conversation[: turns[-1]]], tokenizer, generate=True)
        if turns[-1]
        else [RenderError("no message before it")]
    )
    start = 0 if isinstance(prompt, RenderError) else common_prefix_length(prompt, ids)
    return replace(compact(ids, start=0, spans=(start, len(ids))), last_turn_only=True)
