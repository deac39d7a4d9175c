"""Rows judged as the chat template renders them: answers that are empty, pairs that are equal."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from modelforge.data.convert import DataKind, Example, Text
from modelforge.data.encoded import Encoded, pairwise
from modelforge.data.render import RenderError
from modelforge.data.tokens import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORT = 32  # tokens; a longer answer is not decoded to see whether it says anything


class Rendered:
    """What a tokenizer and its chat template make of answers that say nothing.

    Args:
        tokenizer: With its chat template.
        kind: Of the rows that are judged.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kind: DataKind) -> None:
        self.tokenizer, self.kind = tokenizer, kind

    @cached_property
    def silence(self) -> str:
        """What the template puts behind an empty answer, such as the token that ends a turn."""
        prompt: Text = "?"
        reply: Text = ""
        if self.tokenizer.chat_template:
            prompt = [{"role": "user", "content": "?"}]
            reply = [{"role": "assistant", "content": ""}]
        example: Example = {"prompt": prompt, "completion": reply}
        (found,) = encode([example], kind="demonstration", tokenizer=self.tokenizer)
        return "" if isinstance(found, RenderError) else self.read(found.ids[0][found.start :])

    def read(self, ids: Sequence[int], **options: Any) -> str:
        """Tokens as text, without white space around."""
        return str(self.tokenizer.decode(list(ids), **options)).strip()

    def is_silent(self, answer: Sequence[int]) -> bool:
        """Whether the tokens of an answer say nothing but that it ends."""
        if len(answer) > SHORT:
            return False
        return self.read(answer) == self.silence or not self.read(answer, skip_special_tokens=True)

    def mask_silence(self, found: Encoded) -> int:
        """Take empty answers out of what is trained on, in place; how many there were."""
        if found.spans is None:
            return 0
        (ids,) = found.ids
        spans = list(pairwise(found.spans))
        spoken = [
            (begin, end)
            for begin, end in spans
            if end - begin > SHORT or not self.is_silent(ids[begin:end])
        ]
        if len(spoken) < len(spans):
            found.spans = array("i", [border for span in spoken for border in span])
        return len(spans) - len(spoken)

    def flaw(self, found: Encoded, example: Example) -> str | None:
        """Why a pair or a labelled answer teaches nothing, or None."""
        names = {"preference": ("chosen", "rejected"), "labelled": ("completion",)}
        sides = dict(zip(names.get(self.kind, ()), found.ids, strict=False))
        if len(sides) == 2 and sides["chosen"] == sides["rejected"]:
            return "equal as rendered"
        for side, ids in sides.items():
            if len(ids) - found.start <= SHORT and self.is_silent(ids[found.start :]):
                return f"empty as rendered: {side}"
        return None


def differs_in_blanks_alone(example: Example) -> bool:
    """Whether the two sides of a pair are the same but for white space."""
    chosen, rejected = (words_of(example[side]) for side in ("chosen", "rejected"))
    return chosen == rejected


def words_of(value: Text) -> list[str]:
    """The words of a text, or of all messages."""
    if isinstance(value, str):
        return value.split()
    return [word for message in value for word in str(message.get("content")).split()]
