"""All examples of a run in one schema: what is known of all of them, and what is done to each."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelforge.data.beside import drop_weights, replies_of, same_weights
from modelforge.data.convert import Example
from modelforge.data.ledger import Ledger, Tally
from modelforge.data.message import Message
from modelforge.data.read import Row
from modelforge.data.special import without_bos
from modelforge.errors import DataError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = re.compile(r"\{\{\s*[A-Za-z_][\w .-]*\}\}")
Pair = tuple[Row, Example]
CARRIED = ("tools", "chat_template_kwargs")


@dataclass
class Survey:
    """What must be known of all examples before one of them can be encoded.

    Attributes:
        forms: Kind of content → the first row that has it.
        carried: Which of `CARRIED` any example has.
        count: How many examples there are.
        margins: Those that pairs have.
        weights: Those of messages that are trained on.
    """

    forms: dict[str, str] = field(default_factory=dict)
    carried: set[str] = field(default_factory=set)
    count: int = 0
    margins: array[float] = field(default_factory=lambda: array("d"))
    weights: set[float] = field(default_factory=set)

    def look(self, row: Row, example: Example) -> None:
        """Take note of one example."""
        self.count += 1
        for name in ("text", "input_ids", "messages", "completion"):
            if name in example:
                self.forms.setdefault(name, row.where)
        if "margin" in example:
            self.margins.append(example["margin"])
        self.carried.update(name for name in CARRIED if name in example)
        for message in replies_of(example):
            if message.get("train") is not False:
                self.weights.add(message.get("weight", 1))


@dataclass(frozen=True)
class Settled:
    """What is done to each example.

    Attributes:
        joins: Whether prompt and completion become one conversation.
        carried: What every example has a place for.
        margins: Whether margins are kept.
        weights: Whether weights are kept.
        system: The system message of conversations without one; None for none.
        tokenizer: Of plain text, for its BOS.
    """

    joins: bool
    carried: Sequence[str]
    margins: bool
    weights: bool
    system: str | None
    tokenizer: PreTrainedTokenizerBase

    def settle(self, pairs: Sequence[Pair], placeholders: Tally) -> int:
        """Bring examples into the schema, in place.

        Args:
            pairs: Rows and their examples.
            placeholders: Takes the rows in which a ``{{name}}`` was never filled in.

        Returns:
            In how many of them a BOS was taken off that the tokenizer adds.

        Raises:
            DataError: If a row is plain text, which has no place for a system message.
        """
        for row, example in pairs:
            self.unify(example)
            if not self.weights:
                drop_weights(example)
            if self.system is not None:
                add_system(row, example, self.system)
            if any(map(has_placeholder, example.values())):
                placeholders.add(row.where)
        # Where the tokenizer adds its own: the user's text may be the same again.
        return without_bos((example for _, example in pairs), self.tokenizer)

    def unify(self, example: Example) -> None:
        """Give an example the keys that all have."""
        if self.joins and "completion" in example:
            # Of a prompt nothing is trained on, in whatever form its row is.
            before = [unspoken(message) for message in example.pop("prompt")]
            example["messages"] = before + example.pop("completion")
        if not self.margins:
            example.pop("margin", None)
        for name in self.carried:
            example.setdefault(name, None)


def has_placeholder(value: Any) -> bool:
    """Whether a text, or one within a list, holds a ``{{name}}``."""
    # Of most rows, roles and words: to look at them is faster than to write all of it out.
    bare = isinstance(value, list) and all(isinstance(m, dict) and len(m) == 2 for m in value)
    if bare and not any("{{" in str(message.get("content", message)) for message in value):
        return False
    if not isinstance(value, str | list):
        return False
    text = str(value)
    return "{{" in text and PLACEHOLDER.search(text) is not None


def settled(
    pairs: Iterable[Pair],
    ledger: Ledger,
    *,
    system: str | None,
    tokenizer: PreTrainedTokenizerBase,
) -> Settled:
    """What is to be done to each of these examples; what becomes of margins goes into the ledger.

    Raises:
        DataError: If plain text or tokens are mixed with prompts and replies, or weights differ.
    """
    survey = Survey()
    for row, example in pairs:
        survey.look(row, example)
    refuse_mixture(survey.forms)
    tell_margins(survey, ledger)
    return Settled(
        joins="messages" in survey.forms,
        carried=[name for name in CARRIED if name in survey.carried],
        margins=len(survey.margins) == survey.count,
        weights=not same_weights(survey.weights, ledger),
        system=system,
        tokenizer=tokenizer,
    )


def refuse_mixture(forms: dict[str, str]) -> None:
    """See that plain text and tokens stand alone.

    Raises:
        DataError: If they do not.
    """
    for name, called in (("text", "plain text"), ("input_ids", "tokens")):
        if name in forms and len(forms) > 1:
            other = next(where for form, where in forms.items() if form != name)
            fix = "train on them one after the other, or give the text a prompt column"
            what = f"{called} cannot be mixed with prompts and replies ({other})"
            raise DataError(Problem(forms[name], what, fix))


def tell_margins(survey: Survey, ledger: Ledger) -> None:
    """Say what becomes of margins."""
    margins = survey.margins
    if margins and len(margins) < survey.count:
        ledger.note(f"{len(margins)} of {survey.count} pairs have a margin, so that none is used")
    elif margins:
        mean = sum(margins) / len(margins)
        ledger.note(
            f"the column margin says how far apart `reward` is to score the two sides of a pair: "
            f"{min(margins):g} to {max(margins):g}, {mean:.3g} on average; `dpo` does not use it"
        )


def add_system(row: Row, example: Example, system: str) -> None:
    """Begin a conversation that has no system message with this one, in place.

    Raises:
        DataError: If it is plain text.
    """
    name = "messages" if "messages" in example else "prompt"
    messages = example.get(name)
    if not isinstance(messages, list):
        what = f"has no place in plain text ({row.where})"
        raise DataError(Problem("system_prompt", what, "set chat_template, or leave it out"))
    if messages[0]["role"] != "system":
        example[name] = [{"role": "system", "content": system}, *messages]


def tell_bos(doubled: int, tokenizer: PreTrainedTokenizerBase, ledger: Ledger) -> None:
    """Say that BOS tokens were taken off."""
    if doubled:
        what = f"{doubled} rows begin with the text {tokenizer.bos_token}"
        ledger.note(f"{what}, which the tokenizer adds: it is taken off")


def unspoken(message: Message) -> Message:
    """A message of a prompt: nothing of it is trained on."""
    return {**message, "train": False} if message["role"] == "assistant" else message
