"""What an answer or a prompt may not be: rules that point at a place, and rules about the whole.

A rule that points at a place can be followed while an answer is written: `PlaceRule.find` says
which text can be no part of a place any more, whatever comes next.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast

#: Seconds that one search for a pattern may take; a text that takes longer breaks the constraint.
SECONDS = 1.0
_SHOWN = 40  # characters of what is found that a message shows
_NEVER = 1 << 40
# What `re` reads as plain text and `regex` does not: {e<=1} is a fuzzy match there.
_FUZZY = re.compile(r"\{(?!\d*,?\d*\})")
_WIDEST = 1000  # characters of a match, beyond which an answer is held to its end
_LOOKS_AHEAD = ("ASSERT", "AT_END")


class Place(NamedTuple):
    """Where a text breaks a rule.

    Attributes:
        start, end: Character offsets.
        settled: Whether it stays so whatever text comes next. If not, what stands before
            ``start`` is no part of any place.
    """

    start: int
    end: int
    settled: bool


class PlaceRule(ABC):
    """A rule that a place in a text breaks."""

    @abstractmethod
    def find(self, text: str, at: int, *, final: bool) -> Place | None:
        """The first place from ``at`` on; None where all of the text can be no part of one.

        Args:
            text: All that there is so far.
            at: Where the part begins that is not decided yet.
            final: Whether no more comes.
        """

    def broken(self, text: str, prompt: str) -> str | None:
        """What of the whole text breaks it, for a reader; None for nothing."""
        place = self.find(text, 0, final=True)
        return None if place is None else self.said(text, place)

    def said(self, text: str, place: Place) -> str:
        """A place, for a reader."""
        return f"holds {_short(text[place.start : place.end])!r}"


class WholeRule(ABC):
    """A rule that only a whole text can be held to."""

    @abstractmethod
    def broken(self, text: str, prompt: str) -> str | None:
        """What breaks it, for a reader; None for nothing."""


Rule = PlaceRule | WholeRule


def fold(text: str, *, ignore_case: bool = True) -> str:
    """The text without case, each character still in its place.

    >>> fold("Straße ΣΑΣ")
    'straße σασ'
    """
    if not ignore_case:
        return text
    return text.lower() if text.isascii() else "".join(map(_folded, text))


@lru_cache(4096)
def _folded(character: str) -> str:
    found = (character.casefold(), character.lower())  # "ß" is two characters, "ẞ" is one lower
    return next((each for each in found if len(each) == 1), character)


def _forms(text: str) -> set[str]:
    """A text as it may be written: as it is, and its accents with their letters or behind them."""
    return {text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)}


class Banned(PlaceRule):
    """Texts of which none may stand there."""

    def __init__(self, texts: Sequence[str], *, ignore_case: bool, whole_words: bool) -> None:
        self.ignore_case, self.whole_words = ignore_case, whole_words
        forms = {fold(f, ignore_case=ignore_case) for text in texts for f in _forms(text)}
        self.texts = sorted(forms, key=len, reverse=True)
        any_of = "|".join(map(re.escape, self.texts))
        whole = rf"(?<![\w\p{{M}}])(?:{any_of})(?![\w\p{{M}}])"  # an accent is part of its word
        self._find: Any = compiled(whole, ignore_case=False) if whole_words else re.compile(any_of)
        self._begun = {text[:n] for text in self.texts for n in range(1, len(text))}

    def find(self, text: str, at: int, *, final: bool) -> Place | None:
        begin = max(0, at - 1)  # the character before says whether a word begins
        folded = fold(text[begin:], ignore_case=self.ignore_case)
        match = self._find.search(folded, at - begin)
        held = len(folded) if final else self._held(folded, at - begin)
        start = len(folded) if match is None else match.start()
        if held <= start and held < len(folded):  # a longer or an earlier one may be coming
            return Place(begin + held, len(text), False)
        return None if match is None else Place(begin + start, begin + match.end(), True)

    def _held(self, folded: str, at: int) -> int:
        """Where the text begins that may become one of the texts, or is one that may go on."""
        for i in range(max(at, len(folded) - len(self.texts[0])), len(folded)):
            rest = folded[i:]
            if rest in self._begun or (self.whole_words and rest in self.texts):
                return i
        return len(folded)


class Pattern(PlaceRule):
    """A regular expression that may match nowhere."""

    def __init__(self, pattern: str, *, ignore_case: bool) -> None:
        self._pattern = compiled(pattern, ignore_case=ignore_case)
        self.width = width(pattern)
        try:
            empty = self._pattern.search("", timeout=SECONDS) or not _least(pattern)
        except TimeoutError:
            empty = False
        if empty:
            raise ValueError(f"'{pattern}' can match without a character, and so everywhere")

    def find(self, text: str, at: int, *, final: bool) -> Place | None:
        if not final and self.width is None:
            return Place(at, len(text), False) if at < len(text) else None
        # A match that begins before this has all that it can reach, and one character behind it.
        known = len(text) if final else max(at, len(text) - (self.width or 0))
        try:
            match = self._pattern.search(text, at, timeout=SECONDS)
        except TimeoutError:
            return Place(at, len(text), True)
        if match is not None and (final or match.start() < known):
            return Place(match.start(), match.end(), True)
        return Place(known, len(text), False) if known < len(text) else None


class Longest(PlaceRule):
    """The most characters or words; what is beyond them is the place."""

    def __init__(self, most: int, *, words: bool) -> None:
        self.most, self.words = most, words

    def find(self, text: str, at: int, *, final: bool) -> Place | None:
        if at >= _NEVER:  # it is cut
            return None
        if not self.words:
            return Place(self.most, _NEVER, True) if len(text) > self.most else None
        begins = [match.start() for match in re.finditer(r"\S+", text)]
        return Place(begins[self.most], _NEVER, True) if len(begins) > self.most else None

    def said(self, text: str, place: Place) -> str:
        count = len(text.split()) if self.words else len(text)
        return f"has {count} {'words' if self.words else 'characters'}, above {self.most}"


@dataclass
class Shortest(WholeRule):
    """The fewest characters or words."""

    least: int
    words: bool

    def broken(self, text: str, prompt: str) -> str | None:
        count = len(text.split()) if self.words else len(text)
        unit = "words" if self.words else "characters"
        return f"has {count} {unit}, below {self.least}" if count < self.least else None


class Required(WholeRule):
    """Texts of which each must stand there."""

    def __init__(self, texts: Sequence[str], *, ignore_case: bool, whole_words: bool) -> None:
        self._each = [
            (text, Banned([text], ignore_case=ignore_case, whole_words=whole_words))
            for text in texts
        ]

    def broken(self, text: str, prompt: str) -> str | None:
        missing = [wanted for wanted, rule in self._each if rule.broken(text, prompt) is None]
        return f"lacks {', '.join(map(repr, missing))}" if missing else None


class RequiredPattern(WholeRule):
    """A regular expression that must match somewhere."""

    def __init__(self, pattern: str, *, ignore_case: bool) -> None:
        self._pattern = compiled(pattern, ignore_case=ignore_case)

    def broken(self, text: str, prompt: str) -> str | None:
        try:
            found = self._pattern.search(text, timeout=SECONDS)
        except TimeoutError:
            return f"takes longer than {SECONDS:g} s to look at"
        return None if found else "does not match the required pattern"


class Scored(WholeRule):
    """A model's probability that the text breaks the rule.

    Args:
        score: A prompt and a text → a probability.
        threshold: From which on it is broken.
        label: What the probability is of.
    """

    def __init__(self, score: Callable[[str, str], float], threshold: float, label: str) -> None:
        # A stream that is held is asked about twice: as it ends, and where it is counted.
        self._score, self.threshold, self.label = lru_cache(64)(score), threshold, label

    def broken(self, text: str, prompt: str) -> str | None:
        found = self._score(prompt, text)
        return f"{self.label}: {found:.3g}" if found >= self.threshold else None


def compiled(pattern: str, *, ignore_case: bool) -> Any:
    """A pattern of the library `regex`, whose searches can be stopped.

    Raises:
        ValueError: If it is none.
    """
    import regex

    try:
        return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except regex.error as error:
        raise ValueError(f"'{pattern}' is not a regular expression: {error}") from None


def _tree(pattern: str) -> Any:
    """The pattern as `re` reads it; None where only `regex` can."""
    if _FUZZY.search(pattern):
        return None
    parser = cast(Any, re)._parser  # without a public name since `sre_parse` is deprecated
    try:
        with warnings.catch_warnings(action="ignore"):
            return parser.parse(pattern)
    except (re.error, RecursionError, OverflowError):
        return None


def _least(pattern: str) -> int:
    """The fewest characters of a match, where that is known; else 1."""
    tree = _tree(pattern)
    return 1 if tree is None else int(tree.getwidth()[0])


def width(pattern: str) -> int | None:
    """The most characters that a match can have; None where nothing bounds it, or it looks ahead.

    >>> width(r"\\d{3}-\\d{4}"), width(r"a+"), width(r"a(?!b)")
    (8, None, None)
    """
    tree = _tree(pattern)
    if tree is None or any(name in repr(list(tree)) for name in _LOOKS_AHEAD):
        return None
    most = int(tree.getwidth()[1])
    return most if most <= _WIDEST else None


def other_scripts(scripts: Sequence[str]) -> str:
    r"""The pattern of letters that are of none of these scripts.

    Raises:
        ValueError: If there is no such script.
    """
    import regex

    for script in scripts:
        if not re.fullmatch(r"\w+", script):
            raise ValueError(f"'{script}' is no script")
        try:
            regex.compile(rf"\p{{Script={script}}}")
        except regex.error:
            raise ValueError(
                f"'{script}' is no script; Unicode knows Latin, Greek, Cyrillic, Arabic, Hebrew, "
                "Devanagari, Han, Hiragana, Katakana, Hangul, Thai and more"
            ) from None
    kept = "".join(rf"\p{{Script={script}}}" for script in (*scripts, "Common", "Inherited"))
    return rf"(?V1)[\p{{L}}--[{kept}]]"


class Scripts(Pattern):
    """Letters of other scripts."""

    def __init__(self, scripts: Sequence[str]) -> None:
        super().__init__(other_scripts(scripts), ignore_case=False)
        self.width = 1


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
