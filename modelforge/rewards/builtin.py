"""The built-in rewards: each a factory whose keyword-only arguments are the config's.

A factory checks its arguments (``ValueError`` says what is wrong with them) and returns the
function that scores one completion: ``score(text, n_tokens, row) -> float | None``, where ``row``
holds the other columns of the data; None where the row cannot be scored. An argument named
``column`` names the column of the data it reads.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Literal

from modelforge.machine.versions import install
from modelforge.rewards.answers import extract_number, right_answers

Score = Callable[[str, int, Mapping[str, Any]], float | None]

# A word of a language, and not a command of LaTeX or a product of variables.
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def accuracy(*, column: str = "answer") -> Score:
    """1 where the completion's answer equals the row's as mathematics (math-verify).

    So 1/2 is 0.5, and ``1+x^2`` is ``x^2+1``. Of a list of answers any is right. An answer that
    math-verify cannot read as mathematics leaves its row unscored.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError(f"needs the package math-verify: {install('math')}")
    import math_verify

    def read(text: str) -> list[Any]:
        found: list[Any] = math_verify.parse(text)
        if not found and not _WORD.search(text):
            # A formula without a mark around it is none to math-verify.
            found = math_verify.parse(f"${text}$")
        return found

    def score(text: str, n_tokens: int, row: Mapping[str, Any]) -> float | None:
        answers = [found for answer in right_answers(row[column]) if (found := read(answer))]
        if not answers:
            return None
        given = math_verify.parse(text)
        return float(any(math_verify.verify(answer, given) for answer in answers))

    return score


def exact_match(
    *, column: str = "answer", extract: str | None = None, ignore_case: bool = False
) -> Score:
    """1 where the completion equals the row's answer, outer white space aside.

    Of a list of answers any is right. With ``extract``, the last match of that pattern (its first
    group, if it has one) is compared in place of the whole completion.
    """
    pattern = None if extract is None else _compile(extract)

    def score(text: str, n_tokens: int, row: Mapping[str, Any]) -> float | None:
        answers = [answer.strip() for answer in right_answers(row[column])]
        if not answers:
            return None
        if pattern is not None:
            found = list(pattern.finditer(text))
            if not found:
                return 0.0
            text = (found[-1][1] if pattern.groups else found[-1][0]) or ""
        given = text.strip()
        if ignore_case:
            given, answers = given.casefold(), [answer.casefold() for answer in answers]
        return float(given in answers)

    return score


def numeric_answer(*, column: str = "answer", tolerance: float = 1e-6) -> Score:
    r"""1 where the completion's number (``\boxed{}``, ``####``, else the last) is the answer's.

    The answer may be a number or a worked solution ending in ``#### 42``; of a list any is right,
    and those without a number are left out. ``tolerance`` is relative to the answer, absolute
    below 1.
    """
    if not 0 <= tolerance < 1:
        raise ValueError("tolerance must be at least 0 and below 1")

    def score(text: str, n_tokens: int, row: Mapping[str, Any]) -> float | None:
        found = (extract_number(answer) for answer in right_answers(row[column]))
        wanted = [number for number in found if number is not None]
        if not wanted:
            return None
        given = extract_number(text)
        # exact: an answer may be beyond the range of a float
        return float(
            given is not None
            and any(
                abs(given - n) <= Fraction(tolerance) * max(Fraction(1), abs(n)) for n in wanted
            )
        )

    return score


def regex(*, pattern: str, mode: Literal["search", "fullmatch"] = "search") -> Score:
    """1 where the pattern is found in the completion (or matches the whole of it: fullmatch)."""
    compiled = _compile(pattern)
    find = compiled.search if mode == "search" else compiled.fullmatch
    return lambda text, n_tokens, row: float(find(text) is not None)


TAGS = ["think", "answer"]  # of `format`, where none are named


def tag_format(*, tags: list[str] | None = None) -> Score:
    """1 where the completion is nothing but these tags, each once, in this order and closed.

    The default is ``<think>...</think><answer>...</answer>``; white space between is allowed. A tag
    that the prompt has opened already counts as the completion's.
    """
    names = TAGS if tags is None else tags
    if not names or not all(re.fullmatch(r"[\w-]+", name) for name in names):
        raise ValueError("tags must be names of letters, digits, '_' and '-', at least one")
    body = r"\s*".join(f"<{name}>.*?</{name}>" for name in names)
    pattern = re.compile(rf"\s*{body}\s*", re.DOTALL)

    def score(text: str, n_tokens: int, row: Mapping[str, Any]) -> float:
        once = all(text.count(f"<{name}>") == text.count(f"</{name}>") == 1 for name in names)
        return float(once and pattern.fullmatch(text) is not None)

    return score


def length(
    *,
    target: int | None = None,
    min: int | None = None,
    max: int | None = None,
    unit: Literal["tokens", "characters"] = "tokens",
    softness: float | None = None,
) -> Score:
    """1 at the target, or between min and max; outside, it falls linearly to 0.

    It reaches 0 at a distance of ``softness`` (by default as far as the bound itself: a target
    of 100 gives 0 at 0 and at 200). ``unit`` is tokens of the policy, or characters.
    """
    bounds = [b for b in (target, min, max) if b is not None]
    if not bounds or (target is not None and len(bounds) > 1):
        raise ValueError("give target alone, or min, max or both")
    if any(b < 0 for b in bounds) or (min is not None and max is not None and min > max):
        raise ValueError("lengths must be at least 0, and min at most max")
    if softness is not None and softness <= 0:
        raise ValueError("softness must be above 0")
    low = target if target is not None else min
    high = target if target is not None else max

    def score(text: str, n_tokens: int, row: Mapping[str, Any]) -> float:
        n = n_tokens if unit == "tokens" else len(text)
        bound = low if low is not None and n < low else high
        if bound is None or ((low is None or n >= low) and (high is None or n <= high)):
            return 1.0
        reach = softness if softness is not None else bound or 1
        return float(1 - abs(n - bound) / reach) if abs(n - bound) < reach else 0.0

    return score


def json_validity(*, schema: dict | None = None) -> Score:
    """1 where the completion is JSON (a ``` fence around it allowed) and fits the JSON Schema."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema or {})
    except SchemaError as error:
        raise ValueError(f"schema is no JSON Schema: {error.message}") from None
    validator = Draft202012Validator(schema or {})
    fence = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL)

    def score(text: str, n_tokens: int, row: Mapping[str, Any]) -> float:
        fenced = fence.fullmatch(text)
        try:
            value = json.loads(fenced[1] if fenced else text)
        except (ValueError, RecursionError):
            return 0.0
        return float(validator.is_valid(value))

    return score


def keyword(
    *,
    keywords: list[str],
    mode: Literal["any", "all", "none"] = "any",
    ignore_case: bool = True,
) -> Score:
    """1 where any (or all, or none) of the keywords stand in the completion as whole words."""
    if not keywords or not all(word.strip() for word in keywords):
        raise ValueError("keywords must be words, at least one")
    flags = re.IGNORECASE if ignore_case else 0
    patterns = [re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", flags) for word in keywords]

    def score(text: str, n_tokens: int, row: Mapping[str, Any]) -> float:
        found = (pattern.search(text) is not None for pattern in patterns)
        return float(all(found) if mode == "all" else any(found) == (mode == "any"))

    return score


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"'{pattern}' is not a regular expression: {error}") from None


BUILTIN: dict[str, Callable[..., Score]] = {
    "accuracy": accuracy,
    "exact_match": exact_match,
    "format": tag_format,
    "json_validity": json_validity,
    "keyword": keyword,
    "length": length,
    "numeric_answer": numeric_answer,
    "regex": regex,
}


def describe() -> dict[str, str]:
    """Each built-in's name and what it gives, in one line."""
    return {name: (inspect.getdoc(f) or "").splitlines()[0] for name, f in BUILTIN.items()}
