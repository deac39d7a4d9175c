"""What a tokenizer puts before and behind plain text, once and never where it does harm."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from modelforge.data.convert import Example
from modelforge.data.encoded import MASKED
from modelforge.data.read import Row
from modelforge.data.template import adds_bos
from modelforge.errors import ModelError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def adds_eos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer ends plain text with its EOS token."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.eos_token_id is not None and ids[-1:] == [tokenizer.eos_token_id]


def keep_prompts_open(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Stop a tokenizer from ending plain text with EOS: a prompt that ends so asks for nothing.

    A reply gets its EOS in any case. The tokenizer is changed in place, and is saved so.

    Returns:
        Whether there was anything to stop.

    Raises:
        ModelError: If it cannot be stopped, and plain text is all there is.
    """
    if not adds_eos(tokenizer):
        return False
    if getattr(tokenizer, "add_eos_token", False):
        tokenizer.add_eos_token = False
    if adds_eos(tokenizer):
        _edit_post_processor(tokenizer)
    if not adds_eos(tokenizer):
        return True
    if tokenizer.chat_template:
        return False  # a chat template writes all special tokens itself
    what = "the tokenizer appends EOS to every text, so a prompt would end before its answer"
    fix = "set add_eos_token to false in the model's tokenizer_config.json, or set chat_template"
    raise ModelError(Problem("tokenizer", what, fix))


def _edit_post_processor(tokenizer: PreTrainedTokenizerBase) -> None:
    """Take EOS out of the templates that a fast tokenizer puts around text."""
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return
    state = json.loads(backend.to_str())
    for template in _templates(state["post_processor"]):
        specials = template["special_tokens"]
        for form in ("single", "pair"):
            while (last := template[form][-1].get("SpecialToken")) is not None:
                if specials[last["id"]]["ids"] != [tokenizer.eos_token_id]:
                    break
                template[form].pop()
    backend.post_processor = Tokenizer.from_str(json.dumps(state)).post_processor


def _templates(processor: dict[str, Any] | None) -> Iterable[dict[str, Any]]:
    """The templates among a post-processor's parts."""
    if processor is None:
        return
    if processor["type"] == "TemplateProcessing":
        yield processor
    for part in processor.get("processors", []):
        yield from _templates(part)


def segments_to_tokens(
    pairs: Iterable[tuple[Row, Example]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[Row, Example]]:
    """Examples, those in pieces of text as tokens with labels, after the tokenizer's BOS.

    Args:
        pairs: Rows and their examples, which are changed in place.
        tokenizer: Of the model.
    """
    for row, example in pairs:
        pieces = example.pop("segments", None)
        if pieces is not None:
            example |= tokens_of(pieces, tokenizer)
        yield row, example


def tokens_of(pieces: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> Example:
    """Pieces of text as tokens with labels."""
    ids: list[int] = []
    labels: list[int] = []
    for piece in pieces:
        found = list(tokenizer(piece["text"], add_special_tokens=False)["input_ids"])
        ids += found
        labels += found if piece["label"] else [MASKED] * len(found)
    bos = tokenizer.bos_token_id
    if bos is not None and adds_bos(tokenizer) and ids[:1] != [bos]:
        ids, labels = [bos, *ids], [MASKED, *labels]
    return {"input_ids": ids, "labels": labels}


def without_bos(examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase) -> int:
    """Take the BOS that is written in plain text off, where the tokenizer adds its own.

    Returns:
        In how many examples, which are changed in place.
    """
    bos, count = tokenizer.bos_token, 0
    if not bos or not adds_bos(tokenizer):
        return 0
    for example in examples:
        for name in ("text", "prompt"):
            value = example.get(name)
            if isinstance(value, str) and value.startswith(bos) and value != bos:
                example[name] = value.removeprefix(bos)
                count += 1
    return count
