"""Normal form → token ids and labels, batch-wise, as TRL's trainers make them.

For prompt and completion the tokens equal those of ``SFTTrainer._prepare_dataset``, for pairs those
of ``RewardTrainer._prepare_dataset`` (TRL 1.14 to 1.16). What of a conversation is trained on is
what ``assistant_only_loss`` trains on, under TRL's training template where it has one; any other
template's turns are found by `modelforge.data.spans`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from modelforge.data.convert import DataKind, Example
from modelforge.data.left_out import look_for_left_out
from modelforge.data.marks import Marks
from modelforge.data.masks import Offsets, dropped, is_trained, kept_parts, token_spans
from modelforge.data.message import Message
from modelforge.data.render import Conversation, Renderer, RenderError, Span
from modelforge.data.spans import SpanFinder, lost_in, reflowed, training_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED = -100  # the label that torch's cross entropy ignores
BATCH = 1000  # rows tokenized at once

TrainOn = Literal["all", "last", "everything"]


@dataclass(slots=True)
class Encoded:
    """One example in tokens, uncut; four bytes a token, for all rows of a data set are held.

    Attributes:
        ids: The sequences: one for a demonstration or a prompt, chosen and rejected for a pair.
        start: The index of the first token to train on; of a pair the same in both.
        spans: Of a demonstration: where supervised tokens begin and end (begin, end, begin, …).
        findings: What the template did to it (see `modelforge.data.advice.FINDINGS`).
    """

    ids: tuple[array[int], ...]
    start: int
    spans: array[int] | None = None
    findings: tuple[str, ...] = ()

    def labels(self, limit: int | None = None) -> array[int]:
        """Labels of a demonstration's first ``limit`` tokens: ids, or -100 where masked."""
        (ids,) = self.ids
        labels = array("i", [MASKED]) * len(ids)
        for begin, end in pairwise(self.spans):
            labels[begin:end] = ids[begin:end]
        return labels[:limit]

    def supervised(self, limit: int | None = None) -> int:
        """How many of a demonstration's first ``limit`` tokens the loss is taken on."""
        most = len(self.ids[0]) if limit is None else limit
        spans = pairwise(self.spans)
        return sum(max(0, min(end, most) - begin) for begin, end in spans)


@dataclass(frozen=True)
class How:
    """How rows are rendered, and what of them is trained on.

    Attributes:
        train_on: ``all`` assistant turns, the ``last`` one, or ``everything``, prompts too.
        template_kwargs: What every conversation gives the chat template.
        end_ids: Token ids that end a reply.
        scores: Whether pairs train a reward model, which is asked with the model's own template.
    """

    train_on: TrainOn = "all"
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    end_ids: frozenset[int] = frozenset()
    scores: bool = False


def pairwise(spans: array[int] | None) -> Iterator[tuple[int, int]]:
    """Spans as pairs of begin and end."""
    borders = iter(spans or ())
    return zip(borders, borders, strict=True)


def compact(
    *ids: list[int],
    start: int,
    spans: Sequence[int] | None = None,
    findings: tuple[str, ...] = (),
) -> Encoded:
    """An example from lists of token ids."""
    return Encoded(
        tuple(array("i", sequence) for sequence in ids),
        start,
        None if spans is None else array("i", spans),
        findings,
    )


Result = Encoded | RenderError


@dataclass(frozen=True, slots=True)
class Chosen:
    """A conversation as text, the spans of it to train on, and what was found."""

    text: str
    spans: list[Span]
    findings: tuple[str, ...]


def labelled(row: Chosen, ids: list[int], offsets: Sequence[Span]) -> Encoded:
    """Spans of characters → spans of tokens."""
    spans = token_spans(offsets, row.spans)
    return compact(ids, start=spans[0] if spans else 0, spans=spans, findings=row.findings)


def encode(
    examples: Sequence[Example],
    *,
    kind: DataKind,
    tokenizer: PreTrainedTokenizerBase,
    how: How | None = None,
) -> Iterator[Result]:
    """Tokenize examples of one schema, in order; an error stands in for a row that fails."""
    encoder = Encoder(tokenizer, how or How())
    encode_batch = {
        "demonstration": encoder.demonstrations,
        "preference": encoder.pairs,
        "labelled": encoder.labelled,
        "prompt": encoder.prompts,
    }[kind]
    batches = (examples[begin : begin + BATCH] for begin in range(0, len(examples), BATCH))
    return (found for batch in batches for found in encode_batch(batch))


class Encoder:
    """Examples of one data set → tokens.

    Args:
        tokenizer: With the model's chat template, if it has one.
        how: What is trained on.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, how: How) -> None:
        self.tokenizer, self.how = tokenizer, how
        if not tokenizer.chat_template:
            return
        self.marks = Marks(tokenizer)
        self.own = Renderer(tokenizer, kwargs=how.template_kwargs)
        template = training_template(tokenizer)
        self.trained = self.own
        if template is not None:
            self.trained = Renderer(tokenizer, template=template, kwargs=how.template_kwargs)
        self.finder = SpanFinder(self.trained, self.own, how.end_ids)
        # The policy writes its thoughts itself; a template that strips them hides them from it.
        strips = self.own.thought_form == "" and self.trained.thought_form != ""
        self.paired = self.trained if strips and not how.scores else self.own

    # --- demonstrations ------------------------------------------------------------------------

    def demonstrations(self, examples: Sequence[Example]) -> list[Result]:
        """Labels on every assistant turn, or on a completion; on all of a plain text."""
        tokenizer = self.tokenizer
        if "input_ids" in examples[0]:
            return [given(example, tokenizer) for example in examples]
        if "text" in examples[0]:
            texts = [with_eos(example["text"], tokenizer) for example in examples]
            whole = tokenize_text(texts, tokenizer)
            return [compact(ids, start=0, spans=(0, len(ids))) for ids in whole]
        if "messages" in examples[0] or isinstance(examples[0]["prompt"], list):
            return self.conversations(examples)
        prompts = tokenize_text([example["prompt"] for example in examples], tokenizer)
        encoded: list[Result] = []
        for prompt_ids, ids in zip(prompts, self.closed(examples, "completion"), strict=True):
            start = common_prefix_length(prompt_ids, ids)
            first = 0 if self.how.train_on == "everything" else start
            encoded.append(compact(ids, start=start, spans=(first, len(ids))))
        return encoded

    def closed(self, examples: Sequence[Example], reply: str) -> list[list[int]]:
        """Token ids of each prompt with its reply, as plain text that ends with EOS."""
        texts = [e["prompt"] + with_eos(e[reply], self.tokenizer) for e in examples]
        return tokenize_text(texts, self.tokenizer)

    def conversations(self, examples: Sequence[Example]) -> list[Result]:
        """Labels on the assistant turns, found in the text."""
        from transformers import BatchEncoding

        rows = [self._found(example) for example in examples]
        texts = [row.text for row in rows if not isinstance(row, RenderError)]
        tokens: Any = (
            self.tokenizer(
                texts,
                add_special_tokens=False,
                return_attention_mask=False,
                verbose=False,
            )
            if texts
            else BatchEncoding({"input_ids": ()}, [])
        )
        found = zip(tokens["input_ids"], map(Offsets, tokens.encodings), strict=True)
        return [
            row if isinstance(row, RenderError) else labelled(row, *next(found)) for row in rows
        ]

    def _found(self, example: Example) -> Chosen | RenderError:
        """A conversation as text, the spans of it to train on, and what was found."""
        before = example.get("prompt", ())
        messages = [*before, *example.get("completion", ()), *example.get("messages", ())]
        try:
            look_for_left_out(example, messages, self.trained)
            found = self.finder.find(conversation_of(example, messages))
        except RenderError as error:
            return error
        context = [i for i in found.cut if messages[i]["role"] != "assistant"]
        if context:
            return RenderError(*dropped(messages, context[0], found.cut))
        speaks = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        wanted = [i for i in speaks if i >= len(before) and is_trained(messages[i])]
        if self.how.train_on == "last":
            wanted = [i for i in wanted if i == speaks[-1]]
        whole = [i for i in wanted if i in found.turns and i not in found.cut]
        cut = [i for i in wanted if i in found.cut]
        if cut and not whole:
            return RenderError(*dropped(messages, cut[-1], found.cut))
        spans = [span for i in whole for span in kept_parts(found, messages[i], i)]
        if self.how.train_on == "everything":
            spans = [(0, len(found.text))]
        said = (
            *(f"turn cut: {found.cut[i]}" for i in cut[:1]),
            *(("turn not found",) if any(i not in found.turns for i in wanted) else ()),
            *((f"not opened: {self.finder.opening}",) if found.unopened else ()),
            *self.marks.found(messages),
            *reflowed(messages, found.text),
            *begun(example),
            *self.trained.unread(conversation_of(example, messages)),
        )
        return Chosen(found.text, spans, said)

    # --- pairs and prompts ---------------------------------------------------------------------

    def pairs(self, examples: Sequence[Example]) -> list[Result]:
        """Prompt with chosen and prompt with rejected, both with the index where they part."""
        return self._answered(examples, SIDES)

    def labelled(self, examples: Sequence[Example]) -> list[Result]:
        """Prompt with answer, and the index where the answer begins, as KTOTrainer has it."""
        return self._answered(examples, ("completion",))

    def _answered(self, examples: Sequence[Example], names: Sequence[str]) -> list[Result]:
        """Prompt with each of the answers of these names, and the index where they part."""
        if isinstance(examples[0]["prompt"], str):
            prompts: Any = tokenize_text([e["prompt"] for e in examples], self.tokenizer)
            sides: Any = [[(ids, ()) for ids in self.closed(examples, name)] for name in names]
        else:
            prompts = [ids for ids, _ in self.texts(examples, self.paired, generate=True)]
            sides = [self.texts(examples, self.paired, reply=name) for name in names]
        encoded: list[Result] = []
        for prompt_ids, *answers in zip(prompts, *sides, strict=True):
            whole = [ids for ids, _ in answers]
            failed = [ids for ids in (prompt_ids, *whole) if isinstance(ids, RenderError)]
            if failed:
                encoded.append(failed[0])
                continue
            # As DPOTrainer does, so that both sides have the same prompt.
            start = min(common_prefix_length(prompt_ids, ids) for ids in whole)
            findings = tuple(dict.fromkeys(said for _, all_said in answers for said in all_said))
            if start < len(prompt_ids) and isinstance(examples[0]["prompt"], list):
                findings += self._not_opened()
            encoded.append(compact(*whole, start=start, findings=findings))
        return encoded

    def _not_opened(self) -> tuple[str, ...]:
        return (f"not opened: {self.finder.opening}",) if self.finder.opening else ()

    def prompts(self, examples: Sequence[Example]) -> list[Result]:
        """Prompts as they are generated from."""
        if isinstance(examples[0]["prompt"], str):
            whole = tokenize_text([e["prompt"] for e in examples], self.tokenizer)
            return [compact(ids, start=len(ids)) for ids in whole]
        return [
            ids if isinstance(ids, RenderError) else compact(ids, start=len(ids), findings=said)
            for ids, said in self.texts(examples, self.own, generate=True)
        ]

    def texts(
        self,
        examples: Sequence[Example],
        renderer: Renderer,
        *,
        reply: str = "",
        generate: bool = False,
    ) -> list[tuple[Any, tuple[str, ...]]]:
        """Token ids of each prompt, with its reply if one is named, and what was found."""
        # A prompt reads so when the model answers it, too; and so a reward model is asked.
        learned = bool(reply) and not self.how.scores
        rows: list[tuple[str | RenderError, tuple[str, ...]]] = []
        for example in examples:
            messages = [*example["prompt"], *(example[reply] if reply else ())]
            try:
                look_for_left_out(example, messages, renderer, thoughts=learned)
                text = renderer.text(conversation_of(example, messages), generate=generate)
                shown = [renderer.untagged(message) for message in messages]
                told = self._told(shown, text, len(example["prompt"]))
                unread = renderer.unread(conversation_of(example, messages))
                rows.append((text, (*told, *begun(example), *unread)))
            except RenderError as error:
                rows.append((error, ()))
        good = [text for text, _ in rows if isinstance(text, str)]
        ids = iter(tokenize_text(good, self.tokenizer, special=False) if good else [])
        return [(next(ids) if isinstance(text, str) else text, said) for text, said in rows]

    def _told(self, messages: Sequence[Message], text: str, prompt: int) -> tuple[str, ...]:
        """What the template took away where the row can be used without it.

        Raises:
            RenderError: If it cannot.
        """
        cut = lost_in(messages, text, {})
        said = []
        for i, what in cut.items():
            if i < prompt and what == "thought":
                # So the prompt reads when the model answers it, too.
                said.append("earlier thought")
            elif i >= prompt and self.how.scores:
                said.append(f"not scored: {what}")
            else:
                raise RenderError(*dropped(messages, i, cut))
        said += [*self.marks.found(messages), *reflowed(messages, text)]
        return tuple(dict.fromkeys(said))


SIDES = ("chosen", "rejected")


def begun(example: Example) -> tuple[str, ...]:
    """The finding of a prompt that ends with the beginning of its answer; none for any other."""
    prompt = example.get("prompt")
    if not isinstance(prompt, list) or not prompt or prompt[-1]["role"] != "assistant":
        return ()
    answers = [example[name] for name in ("completion", *SIDES) if example.get(name)]
    return ("begun",) if all(answer[0]["role"] == "assistant" for answer in answers) else ()


def given(example: Example, tokenizer: PreTrainedTokenizerBase) -> Encoded | RenderError:
    """A row that came in tokens, supervised where its labels are."""
    ids, labels = example["input_ids"], example["labels"]
    if not all(0 <= token < len(tokenizer) for token in ids):
        return RenderError("a token that the tokenizer does not have")
    trained = [label != MASKED for label in labels]
    borders = zip([False, *trained], [*trained, False], strict=True)
    return compact(ids, start=0, spans=[i for i, (a, b) in enumerate(borders) if a != b])


def conversation_of(example: Example, messages: Sequence[Message]) -> Conversation:
    """Messages with what their row gives the template beside them."""
    return Conversation(messages, example.get("tools"), example.get("chat_template_kwargs") or {})


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


def common_prefix_length(ids: list[int], others: list[int]) -> int:
    """How many leading tokens two sequences share."""
    if others[: len(ids)] == ids:
        return len(ids)
    pairs = enumerate(zip(ids, others, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ids), len(others)))
