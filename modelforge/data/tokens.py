"""Normal form → token ids and labels, batch-wise, as TRL's trainers make them.

For prompt and completion the tokens equal those of ``SFTTrainer._prepare_dataset``, for pairs those
of ``RewardTrainer._prepare_dataset`` (TRL 1.14 to 1.16). What of a conversation is trained on is
what ``assistant_only_loss`` trains on, under TRL's training template where it has one; any other
template's turns are found by `modelforge.data.spans`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from modelforge.common.processes import usual_processes
from modelforge.data.ahead import in_turn
from modelforge.data.convert import DataKind, Example
from modelforge.data.encoded import MASKED, Encoded, compact
from modelforge.data.left_out import refused
from modelforge.data.marks import Marks
from modelforge.data.masks import dropped, is_trained, kept_parts, token_spans
from modelforge.data.message import Message
from modelforge.data.render import Conversation, Renderer, RenderError, Span
from modelforge.data.spans import Found, SpanFinder, lost_in, reflowed, training_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 250  # rows tokenized at once; their tokens take far more memory than is kept

TrainOn = Literal["all", "last", "everything"]


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


Result = Encoded | RenderError
Shown = tuple[str | RenderError, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of which the tokens are wanted.

    Attributes:
        texts: At least one.
        rendered: Whether a chat template made them, which writes all special tokens itself.
    """

    texts: list[str]
    rendered: bool = False


# What makes the rows of a batch: it yields texts, and is sent their tokens.
Batch = Generator[Texts, Any, list[Result]]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A conversation as text, the spans of it to train on, and what was found."""

    text: str
    spans: list[Span]
    findings: tuple[str, ...]


def labelled(row: Chosen, ids: list[int], encoding: Any) -> Encoded:
    """Spans of characters → spans of tokens."""
    spans = token_spans(encoding, row.spans)
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
    threads = usual_processes() if len(examples) > BATCH else 0
    if threads:
        # Its first call takes off what the tokenizer's file says of cutting and padding, which must
        # not be done by two at a time.
        encoder.tokens(Texts([""]))
    each = in_turn(map(encode_batch, batches), encoder.tokens, threads=threads)
    return (found for batch in each for found in batch)


class Encoder:
    """Examples of one data set → tokens, batch by batch.

    Of each batch the texts are made first, and rows once their tokens are there: what makes a batch
    is a generator that yields texts and is sent what `tokens` gives for them.

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

    def tokens(self, texts: Texts) -> Any:
        """What the tokenizer makes of texts: a ``BatchEncoding``."""
        return self.tokenizer(
            texts.texts,
            add_special_tokens=not texts.rendered,
            return_attention_mask=False,
            verbose=False,
        )

    # --- demonstrations ------------------------------------------------------------------------

    def demonstrations(self, examples: Sequence[Example]) -> Batch:
        """Labels on every assistant turn, or on a completion; on all of a plain text."""
        tokenizer = self.tokenizer
        if "input_ids" in examples[0]:
            return [given(example, tokenizer) for example in examples]
        if "text" in examples[0]:
            tokens = yield Texts([with_eos(example["text"], tokenizer) for example in examples])
            return [compact(ids, start=0, spans=(0, len(ids))) for ids in tokens["input_ids"]]
        if "messages" in examples[0] or isinstance(examples[0]["prompt"], list):
            return (yield from self.conversations(examples))
        prompts, whole = yield from self.plain(examples, ("completion",))
        encoded: list[Result] = []
        for prompt_ids, ids in zip(prompts, whole, strict=True):
            start = common_prefix_length(prompt_ids, ids)
            first = 0 if self.how.train_on == "everything" else start
            encoded.append(compact(ids, start=start, spans=(first, len(ids))))
        return encoded

    def plain(
        self, examples: Sequence[Example], replies: Sequence[str]
    ) -> Generator[Texts, Any, list[list[list[int]]]]:
        """Token ids of all prompts; then of all with a reply, as plain text that ends with EOS."""
        texts = [example["prompt"] for example in examples]
        for reply in replies:
            texts += [e["prompt"] + with_eos(e[reply], self.tokenizer) for e in examples]
        ids = (yield Texts(texts))["input_ids"]
        count = len(examples)
        return [ids[begin : begin + count] for begin in range(0, len(ids), count)]

    def conversations(self, examples: Sequence[Example]) -> Batch:
        """Labels on the assistant turns, found in the text."""
        rows = self._found(examples)
        texts = [row.text for row in rows if not isinstance(row, RenderError)]
        if not texts:
            return [row for row in rows if isinstance(row, RenderError)]
        tokens = yield Texts(texts, rendered=True)
        found = zip(tokens["input_ids"], tokens.encodings, strict=True)
        return [
            row if isinstance(row, RenderError) else labelled(row, *next(found)) for row in rows
        ]

    def _found(self, examples: Sequence[Example]) -> list[Chosen | RenderError]:
        """Conversations as text, the spans of it to train on, and what was found."""
        talks = [conversation_of(example, whole(example)) for example in examples]
        left_out = [
            refused(example, talk.messages, self.trained)
            for example, talk in zip(examples, talks, strict=True)
        ]
        shown = [talk for talk, error in zip(talks, left_out, strict=True) if error is None]
        found = iter(self.finder.find(shown))
        rows: list[Chosen | RenderError] = []
        for example, talk, error in zip(examples, talks, left_out, strict=True):
            each = error or next(found)
            rows.append(
                each if isinstance(each, RenderError) else self._chosen(example, talk, each)
            )
        return rows

    def _chosen(
        self, example: Example, conversation: Conversation, found: Found
    ) -> Chosen | RenderError:
        """What of a conversation is trained on."""
        messages, before = conversation.messages, len(example.get("prompt", ()))
        context = [i for i in found.cut if messages[i]["role"] != "assistant"]
        if context:
            return RenderError(*dropped(messages, context[0], found.cut))
        speaks = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        wanted = [i for i in speaks if i >= before and is_trained(messages[i])]
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
            *self.trained.unread(conversation),
        )
        return Chosen(found.text, spans, said)

    # --- pairs and prompts ---------------------------------------------------------------------

    def pairs(self, examples: Sequence[Example]) -> Batch:
        """Prompt with chosen and prompt with rejected, both with the index where they part."""
        return self._answered(examples, SIDES)

    def labelled(self, examples: Sequence[Example]) -> Batch:
        """Prompt with answer, and the index where the answer begins, as KTOTrainer has it."""
        return self._answered(examples, ("completion",))

    def _answered(self, examples: Sequence[Example], names: Sequence[str]) -> Batch:
        """Prompt with each of the answers of these names, and the index where they part."""
        if isinstance(examples[0]["prompt"], str):
            ids = yield from self.plain(examples, names)
            columns: list[list[tuple[Any, tuple[str, ...]]]] = [
                [(each, ()) for each in column] for column in ids
            ]
        else:
            shown = [self.shown(examples, self.paired, generate=True)]
            shown += [self.shown(examples, self.paired, reply=name) for name in names]
            columns = yield from rows_of(shown)
        encoded: list[Result] = []
        for (prompt_ids, _), *answers in zip(*columns, strict=True):
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

    def prompts(self, examples: Sequence[Example]) -> Batch:
        """Prompts as they are generated from."""
        if isinstance(examples[0]["prompt"], str):
            (ids,) = yield from self.plain(examples, ())
            return [compact(each, start=len(each)) for each in ids]
        (rows,) = yield from rows_of([self.shown(examples, self.own, generate=True)])
        return [
            ids if isinstance(ids, RenderError) else compact(ids, start=len(ids), findings=said)
            for ids, said in rows
        ]

    def shown(
        self,
        examples: Sequence[Example],
        renderer: Renderer,
        *,
        reply: str = "",
        generate: bool = False,
    ) -> list[Shown]:
        """The text of each prompt, with its reply if one is named, and what was found."""
        # A prompt reads so when the model answers it, too; and so a reward model is asked.
        learned = bool(reply) and not self.how.scores
        talks = [
            conversation_of(each, [*each["prompt"], *(each[reply] if reply else ())])
            for each in examples
        ]
        left_out = [
            refused(example, talk.messages, renderer, thoughts=learned)
            for example, talk in zip(examples, talks, strict=True)
        ]
        rendered = iter(
            renderer.each(
                [talk for talk, error in zip(talks, left_out, strict=True) if error is None],
                generate=generate,
            )
        )
        rows: list[Shown] = []
        for example, talk, error in zip(examples, talks, left_out, strict=True):
            each = error or next(rendered)
            try:
                if isinstance(each, RenderError):
                    raise each
                words = [renderer.untagged(message) for message in talk.messages]
                told = self._told(words, each[0], len(example["prompt"]))
                rows.append((each[0], (*told, *begun(example), *renderer.unread(talk))))
            except RenderError as refusal:
                rows.append((refusal, ()))
        return rows

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


def rows_of(columns: Sequence[list[Shown]]) -> Generator[Texts, Any, list[list[Any]]]:
    """Columns of texts as columns of token ids, each with what was found."""
    good = [text for column in columns for text, _ in column if isinstance(text, str)]
    ids = iter((yield Texts(good, rendered=True))["input_ids"] if good else ())
    return [
        [(next(ids) if isinstance(text, str) else text, said) for text, said in column]
        for column in columns
    ]


def whole(example: Example) -> list[Message]:
    """All messages of a demonstration."""
    names = ("prompt", "completion", "messages")
    return [message for name in names for message in example.get(name, ())]


def conversation_of(example: Example, messages: Sequence[Message]) -> Conversation:
    """Messages with what their row gives the template beside them."""
    return Conversation(messages, example.get("tools"), example.get("chat_template_kwargs") or {})


def with_eos(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Raw text closed with EOS, unless it is already."""
    return text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token


def common_prefix_length(ids: list[int], others: list[int]) -> int:
    """How many leading tokens two sequences share."""
    if others[: len(ids)] == ids:
        return len(ids)
    pairs = enumerate(zip(ids, others, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ids), len(others)))
