"""What rows two sets share: held-out rows that are also trained on, or two files side by side.

Texts are compared without case, and with all white space as one blank. A row is the same as
another, or has the same prompt and another answer, or is nearly the same: at least `NEAR` of the
pieces of five characters that stand in one of the two stand in both, and as many of the numbers.
Candidates for that are found by MinHash (Broder 1997), all hashes of a text from one permutation
(Li, Owen and Zhang 2012), with the empty places filled from their neighbours (Shrivastava and Li
2014); what is found is then counted in full. The library datasketch does the same, and takes over a
minute for 100,000 rows. A row that is none of these may still share a run of words with another
(`modelforge.data.grams`).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from modelforge.data.convert import Example
from modelforge.data.dialogue import split_last_reply
from modelforge.data.grams import WORDS, Grams

if TYPE_CHECKING:
    import numpy

SAME, PROMPT, NEARLY = "the same row", "the same prompt, another answer", "nearly the same row"
RUN = f"{WORDS} words in a row in common"
NEAR = 0.8  # the least share of common pieces
PIECE = 5  # characters
PLACES, BAND = 64, 4  # hashes of a text; so many equal ones in a row make a candidate
MARGIN = 0.2  # four standard errors of the share of equal hashes, which estimates that share
BATCH = 1000  # rows hashed at once
MANY = 10  # rows that show what is said in each
MOST = 20  # candidates of one row that are counted in full
UNREAD = frozenset(("role", "content", "train", "weight"))
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
SIDES = ("completion", "chosen", "rejected", "answer")

Named = tuple[str, Example]
Shared = dict[str, list[tuple[str, str]]]


class Row(Protocol):
    """A row with the fingerprints of `keys_of`, by which most rows are passed over unread."""

    @property
    def asked(self) -> int:
        """Of what it asks."""

    @property
    def said(self) -> int:
        """Of all that it says."""

    @property
    def where(self) -> str:
        """Its place, ``file:line``."""

    @property
    def example(self) -> Example:
        """In normal form."""


@dataclass(frozen=True, slots=True)
class Keyed:
    """A row as `Row` has it.

    Attributes:
        where: Its place.
        example: In normal form.
        asked, said: Its fingerprints.
    """

    where: str
    example: Example
    asked: int
    said: int


@dataclass(frozen=True, slots=True)
class Content:
    """What a row says.

    Attributes:
        where: Its place, ``file:line``.
        words: Its text without system messages, as it is compared.
    """

    where: str
    words: str


def shared(rows: Iterable[Named], others: Iterable[Named]) -> Shared:
    """Which of ``rows`` stand in ``others`` too: the kind → the places of both, row by row.

    Args:
        rows: The places and the examples to look for; held in memory.
        others: Where to look; gone through once.
    """
    return shared_rows(keyed(rows), keyed(others))


def keyed(rows: Iterable[Named]) -> Iterator[Row]:
    """Rows with their fingerprints."""
    return (Keyed(where, example, *keys_of(example)) for where, example in rows)


def shared_rows(rows: Iterable[Row], others: Iterable[Row], *, every: int = 1) -> Shared:
    """The same of rows whose fingerprints are known.

    Args:
        rows: To look for; held in memory.
        others: Where to look; gone through once.
        every: Nearly the same rows, and runs of words, are looked for among every so-many-th of the
            others.
    """
    wanted = list(rows)
    said, asked = first_places(wanted)
    same: dict[int, str] = {}
    prompt: dict[int, str] = {}
    contents = [content(item) for item in wanted]
    near, runs = Near(contents), Grams([item.words for item in contents])
    left = iter(others)
    while wanted and (batch := list(islice(left, BATCH))):
        for item in batch:
            if (at := said.get(item.said)) is not None:
                same.setdefault(item.said, item.where)
                near.settled.add(at)  # it needs no closer look
            if (at := asked.get(item.asked)) is not None:
                prompt.setdefault(item.asked, item.where)
                near.settled.add(at)
        some = [content(item) for item in batch[::every]]
        near.look(some)
        runs.look([item.words for item in some], [item.where for item in some])
    told: Shared = {}
    alike = runs.found()
    for i, item in enumerate(wanted):
        for kind, place in (
            (SAME, same.get(item.said)),
            (PROMPT, prompt.get(item.asked)),
            (NEARLY, near.found.get(i)),
            (RUN, alike.get(i)),
        ):
            if place is not None:
                told.setdefault(kind, []).append((item.where, place))
                break
    return {kind: told[kind] for kind in (SAME, PROMPT, NEARLY, RUN) if kind in told}


def first_places(rows: Sequence[Row]) -> tuple[dict[int, int], dict[int, int]]:
    """The number of the first row that says something, and of the first that asks it."""
    numbered = list(enumerate(rows))[::-1]
    return {item.said: i for i, item in numbered}, {item.asked: i for i, item in numbered}


def content(row: Row) -> Content:
    """What a row says, as it is compared."""
    _, question, answers = asked(row.example)
    return Content(row.where, f"{question} {answer_of(answers)}".strip())


def prompt_key(example: Example) -> int:
    """A fingerprint of what a row asks, the same whatever kind of row it is read as.

    A text that asks nothing is taken as a whole.
    """
    return keys_of(example)[0]


def keys_of(example: Example) -> tuple[int, int]:
    """Fingerprints of what a row asks (see `prompt_key`), and of all that it says."""
    prompt, question, answers = asked(example)
    told = answer_of(answers)
    said = digest(prompt, told)
    if not question:
        prompt = digest(prompt, *("".join(parts_of(answer)) for answer in answers))
    return int.from_bytes(prompt[:8]), int.from_bytes(said[:8])


def answer_of(answers: Iterable[Any]) -> str:
    """The answers of a row as they are compared."""
    return plain("\n".join("".join(parts_of(answer)) for answer in answers))


def asked(example: Example) -> tuple[bytes, str, list[Any]]:
    """A fingerprint of what an example asks, the question as it is compared, and its answers."""
    asked: Any
    answers: list[Any] = []
    if "messages" in example:
        asked, answer = split_last_reply(example["messages"])
        answers = [answer]
    elif "input_ids" in example:
        asked = " ".join(map(str, example["input_ids"]))
    else:
        asked = example.get("prompt", example.get("text"))
        answers = [example[side] for side in SIDES if example.get(side) is not None]
    system, question = parts_of(asked)
    question = plain(question)
    return digest(plain(system), question, str(example.get("tools") or "")), question, answers


def parts_of(value: Any) -> tuple[str, str]:
    """The system messages of a text or of messages, and all else of it."""
    if isinstance(value, str) or value is None:
        return "", value or ""
    if not all(isinstance(item, dict) and "role" in item for item in value):
        return "", json.dumps(value, ensure_ascii=False, default=str)
    system: list[str] = []
    words: list[str] = []
    for message in value:
        text = str(message.get("content") or "")
        beside = {key: message[key] for key in message.keys() - UNREAD} if len(message) > 2 else {}
        if beside:
            text += json.dumps(beside, sort_keys=True, default=str)
        (system if message["role"] == "system" else words).append(text)
    return "\n".join(system), "\n".join(words)


def plain(text: str) -> str:
    """A text without case, its white space as single blanks."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def digest(*parts: str | bytes) -> bytes:
    """A fingerprint of some texts."""
    whole = b""
    for part in parts:
        raw = part.encode("utf-8", "replace") if isinstance(part, str) else part
        whole += len(raw).to_bytes(8, "little") + raw
    return hashlib.blake2b(whole, digest_size=16).digest()


class Near:
    """Rows that are nearly the same as one of those wanted.

    Args:
        wanted: Held in memory.

    Attributes:
        found: The number of a wanted row → the place of the first that is nearly the same.
        settled: Numbers of wanted rows that need no look.
    """

    def __init__(self, wanted: Sequence[Content]) -> None:
        self.wanted, self.found, self.settled = wanted, dict[int, str](), set[int]()
        self._tried = [0] * len(wanted)
        self._before: str | None = None

    def look(self, batch: Sequence[Content]) -> None:
        """Compare rows with all that are wanted."""
        import numpy

        if self._before is None:
            texts = [item.words for item in [*self.wanted, *batch]]
            # What all of many rows begin with says nothing of any of them.
            self._before = common_beginning(texts) if len(texts) >= MANY else ""
            self._hashes = self._hashed(self.wanted)
            keys = bands(self._hashes)
            self._order = numpy.argsort(keys, axis=0, kind="stable")
            self._sorted = numpy.take_along_axis(keys, self._order, axis=0)
        hashed = self._hashed(batch)
        keys = bands(hashed)
        for band in range(keys.shape[1]):
            known = self._sorted[:, band]
            at = numpy.searchsorted(known, keys[:, band])
            hits = known[numpy.minimum(at, len(known) - 1)] == keys[:, band]
            for row in numpy.flatnonzero(hits).tolist():
                self._try(batch[row], hashed[row], int(at[row]), band)

    def _try(self, item: Content, hashed: numpy.ndarray, at: int, band: int) -> None:
        """Count what a row has in common with those whose band is the same."""
        import numpy

        key = self._sorted[at, band]
        for place in range(at, min(at + MOST, len(self.wanted))):
            if self._sorted[place, band] != key:
                return
            number = int(self._order[place, band])
            if number in self.found or number in self.settled or self._tried[number] >= MOST:
                continue
            if numpy.count_nonzero(self._hashes[number] == hashed) < PLACES * (NEAR - MARGIN):
                continue
            self._tried[number] += 1
            if likeness(self._told(self.wanted[number]), self._told(item)) >= NEAR:
                self.found[number] = item.where

    def _hashed(self, rows: Sequence[Content]) -> numpy.ndarray:
        import numpy

        texts = [self._told(item) for item in rows]
        batches = (texts[begin : begin + BATCH] for begin in range(0, len(texts), BATCH))
        return numpy.concatenate([hashes(batch) for batch in batches])

    def _told(self, item: Content) -> str:
        before = self._before or ""
        return item.words[len(before) :] if item.words.startswith(before) else item.words


def common_beginning(texts: Sequence[str]) -> str:
    """What all texts begin with."""
    first, last = min(texts), max(texts)
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))]


def pieces(text: str) -> set[str]:
    """All pieces of a text, which may be shorter than one."""
    return {text[i : i + PIECE] for i in range(max(1, len(text) - PIECE + 1))}


def likeness(one: str, other: str) -> float:
    """The share of the pieces of two texts that both have (Jaccard), or of their numbers if less.

    A problem in words with other numbers in it is another problem.
    """
    numbers = [set(NUMBER.findall(text)) for text in (one, other)]
    return min(jaccard(pieces(one), pieces(other)), jaccard(*numbers))


def jaccard(one: set[str], other: set[str]) -> float:
    """How much two sets have in common, from 0 to 1."""
    both = one | other
    return len(one & other) / len(both) if both else 1.0


def hashes(texts: Sequence[str]) -> numpy.ndarray:
    """`PLACES` hashes of each text: the least of those of its pieces that fall in each place."""
    import numpy as np

    end = "\0" * PIECE  # a short text is one piece, too
    joined = "".join(text + end for text in texts)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    count = len(codes) - PIECE + 1
    mixed = np.zeros(count, np.uint64)
    for i in range(PIECE):
        mixed = mixed * np.uint64(1_000_003) + codes[i : i + count]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    sizes = np.array([max(1, len(text) - PIECE + 1) for text in texts])
    starts = np.cumsum([0, *(len(text) + len(end) for text in texts)])[:-1]
    rows = np.repeat(np.arange(len(texts)), sizes)
    at = np.arange(len(rows)) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
    mixed = mixed[at]
    bits = PLACES.bit_length() - 1
    place = rows * PLACES + (mixed >> np.uint64(64 - bits)).astype(np.int64)
    empty = np.iinfo(np.uint32).max
    least = np.full(len(texts) * PLACES, empty, np.uint32)
    np.minimum.at(least, place, (mixed >> np.uint64(8)).astype(np.uint32))
    return filled(least.reshape(-1, PLACES), empty)


def filled(least: numpy.ndarray, empty: int) -> numpy.ndarray:
    """Each empty place with what stands in the next one that is not, and how far that is."""
    import numpy as np

    whole, open_ = least.copy(), least == empty
    for distance in range(1, PLACES):
        rows = np.flatnonzero(open_.any(axis=1))
        if not len(rows):
            break
        beside = np.roll(least[rows], -distance, axis=1)
        take = open_[rows] & (beside != empty)
        moved = beside + np.uint32(distance * 0x9E3779B1 & empty)
        whole[rows] = np.where(take, moved, whole[rows])
        open_[rows] &= ~take
    return whole


def bands(found: numpy.ndarray) -> numpy.ndarray:
    """The hashes of each text in bands of `BAND`, each as one number."""
    import numpy as np

    keys = np.zeros((len(found), PLACES // BAND), np.uint64)
    for i in range(BAND):
        keys = keys * np.uint64(0x100000001B3) + found[:, i::BAND].astype(np.uint64)
    return keys
