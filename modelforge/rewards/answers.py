"""Read the right answers of a row, and the number that an answer states."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

# A sign counts only where no digit, letter or closing bracket stands before it: "10-20" ends in
# 20, "7 - 3" in 3, "x = -3" in -3. A letter glued to the front ("Q4") makes it a name.
# Exponents have at most three digits and numbers at most 300, so that a model cannot write a
# number that takes the machine's memory to expand.
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?![\d])|\d{1,300})(?:\.\d{1,300})?|\.\d{1,300}"
_NUMBER = re.compile(
    rf"(?:(?<![\w)\]}}.])(?P<sign>[-+−]))?(?<![\w.])[$€£]?"
    rf"(?P<number>{_DIGITS})(?P<exponent>[eE][-+]?\d{{1,3}}(?!\w))?"
    rf"(?:\s?/\s?(?P<denominator>\d{{1,300}}(?:\.\d{{1,300}})?))?"
)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|mathbf)\s*\{([^{}]*)\}")
_LATEX_SPACE = re.compile(r"\\[,;:! ]|\{,\}|\\\$")


# Where a data set keeps several answers in an object: SQuAD's text, TriviaQA's value and aliases.
_KEYS = ("text", "value", "aliases")


def right_answers(cell: Any) -> list[str]:
    """The texts of which any is right, as a row gives them; empty where there is none.

    >>> right_answers(["4", "four"]), right_answers(4.0), right_answers(None)
    (['4', 'four'], ['4'], [])
    """
    if isinstance(cell, bool):
        return [str(cell), str(cell).lower()]
    if isinstance(cell, float) and cell.is_integer():
        return [str(int(cell))]
    if isinstance(cell, str | int | float):
        return [str(cell)] if cell == cell and str(cell).strip() else []
    if isinstance(cell, Mapping):
        cell = [cell.get(key) for key in _KEYS]
    if isinstance(cell, list | tuple):
        return [text for item in cell for text in right_answers(item)]
    return []


def extract_number(text: str) -> Fraction | None:
    """The number that ``text`` gives as its answer, exactly; None where it gives none.

    The last ``\\boxed{...}`` wins; without one, the first number after the last ``####`` (the
    mark of GSM8K's solutions); without either, the last number of the text. A mark without a
    number behind it is an answer that is no number: None, not a number from elsewhere.

    >>> extract_number("6 boxes of 205 make 1,230 apples.")
    Fraction(1230, 1)
    """
    boxed = _last_boxed(text)
    if boxed is not None:
        return _last(boxed)
    if "####" in text:
        return _first(text.rpartition("####")[2])
    return _last(text)


def _last_boxed(text: str) -> str | None:
    """The content of the last complete ``\\boxed{...}``, with the braces inside it balanced."""
    start = len(text)
    while (start := text.rfind("\\boxed{", 0, start)) >= 0:
        depth, begin = 1, start + len("\\boxed{")
        for i in range(begin, len(text)):
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            if depth == 0:
                return text[begin:i]
    return None


def _plain(text: str) -> str:
    """LaTeX's fractions, text and thin spaces, as the number pattern reads them."""
    text = _LATEX_TEXT.sub(r" \1 ", _LATEX_SPACE.sub("", text))
    return _LATEX_FRACTION.sub(r"\1/\2", text)


def _last(text: str) -> Fraction | None:
    last = None
    for match in _NUMBER.finditer(_plain(text)):
        value = _value(match)
        last = last if value is None else value
    return last


def _first(text: str) -> Fraction | None:
    values = (_value(match) for match in _NUMBER.finditer(_plain(text)))
    return next((value for value in values if value is not None), None)


def _value(match: re.Match[str]) -> Fraction | None:
    digits = match["number"].replace(",", "")
    value = Fraction(digits + (match["exponent"] or ""))
    if match["denominator"] is not None:
        denominator = Fraction(match["denominator"])
        if denominator == 0:
            return None
        value /= denominator
    return -value if match["sign"] in ("-", "−") else value
