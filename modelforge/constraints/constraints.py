"""Constraints on prompts and answers: what breaks them, and what is done then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelforge.common.constraint import ConstraintEntry
from modelforge.common.paths import find_path
from modelforge.constraints.entries import problems_of, read_entries, rule_of, typed
from modelforge.constraints.held import Held, held
from modelforge.constraints.one import Constraint, Violation
from modelforge.constraints.rules import PlaceRule, Rule
from modelforge.errors import ConfigError


@dataclass(frozen=True)
class Asked:
    """A prompt that was held to constraints.

    Attributes:
        prompt: As the model may see it.
        violations: What it breaks.
        blocked: The constraint for which it is not answered; None where it is.
    """

    prompt: Any
    violations: list[Violation] = field(default_factory=list)
    blocked: Constraint | None = None


class Constraints:
    """What prompts and answers are held to.

    >>> found = Constraints([{"name": "no cake", "banned": ["cake"]}])
    >>> [str(each) for each in found.check("What is it?", "A cupcake!")]
    ["no cake: the output holds 'cake'"]
    """

    def __init__(
        self,
        given: Sequence[Mapping[str, Any] | ConstraintEntry] | str | Path,
        *,
        base_dir: Path | None = None,
        where: str = "constraints",
    ) -> None:
        """Nothing is loaded yet.

        Args:
            given: Entries, or the JSON file that holds them.
            base_dir: Where relative paths begin; by default the file's folder, or the working
                folder.
            where: What messages call them.

        Raises:
            UserError: With everything that is wrong with them.
        """
        in_file = isinstance(given, str | Path)
        if isinstance(given, str | Path):
            path = Path(given)
            entries, base_dir, where = read_entries(path), base_dir or path.parent, str(path)
        else:
            entries = typed(given, where=where)
        base_dir = base_dir or Path()
        problems = problems_of(entries, where=where, base_dir=base_dir, in_file=in_file)
        if problems:
            raise ConfigError(*problems)
        self.each = [Constraint(entry, base_dir) for entry in entries if rule_of(entry)]

    def __bool__(self) -> bool:
        return bool(self.each)

    @property
    def changes_answers(self) -> bool:
        """Whether a constraint may change what the model writes before it is shown."""
        return any(c.on_output and c.entry.action in ("block", "rewrite") for c in self.each)

    @property
    def reads_prompts(self) -> bool:
        """Whether any constraint is on prompts."""
        return any(each.on_input for each in self.each)

    @property
    def steered(self) -> list[Constraint]:
        """Those that a model can be steered around: texts that are blocked in answers.

        Of whole words only what stands behind them tells that they are whole, and then they are
        written. Steered around, no word could hold one.
        """
        blocking = [c for c in self.each if c.on_output and c.entry.action == "block"]
        return [c for c in blocking if c.entry.banned is not None and not c.entry.whole_words]

    def told(self) -> list[dict[str, Any]]:
        """The entries as plain values."""
        return [each.entry.model_dump(mode="json") for each in self.each]

    def folders(self) -> list[Path]:
        """The models on this machine that decide some of them."""
        named = [(c.entry.classifier or c.entry.judge, c.base_dir) for c in self.each]
        found = [find_path(name, base_dir) for name, base_dir in named if name]
        return [path for path in found if path is not None]

    def load(self) -> None:
        """Load the models that decide, so that the first answer does not wait.

        Raises:
            ModelError: If one cannot be loaded.
        """
        for each in self.each:
            _ = each.rule

    def check(self, prompt: Any, response: Any) -> list[Violation]:
        """What a prompt and its answer break; each constraint counts once on each side.

        Args:
            prompt: Text, or messages; None for none.
            response: Text, or messages; None for none.
        """
        found = [] if prompt is None else self.of_prompt(prompt)
        return found if response is None else found + self.of_answer(prompt, text_of(response))

    def of_prompt(self, prompt: Any) -> list[Violation]:
        """What a prompt breaks."""
        found = []
        for each in self.each:
            if each.on_input and (what := _broken(each.rule, _texts(prompt))):
                found.append(each.violation("input", what))
        return found

    def of_answer(self, prompt: Any, text: str, *, cut: bool = False) -> list[Violation]:
        """What an answer breaks.

        Args:
            prompt: That it answers.
            text: It.
            cut: Whether it was ended before the model was done: then rules about the whole of it
                say nothing.
        """
        asked = "" if prompt is None else text_of(prompt)
        found = []
        for each in self.each:
            if not each.on_output or (cut and not isinstance(each.rule, PlaceRule)):
                continue
            if what := each.rule.broken(text, asked):
                found.append(each.violation("output", what))
        return found

    def ask(self, prompt: Any) -> Asked:
        """A prompt as the model may see it, or the reason why it is not answered."""
        violations = self.of_prompt(prompt)
        broken = {each.constraint for each in violations}
        for each in self.each:
            if each.on_input and each.entry.name in broken and each.entry.action == "rewrite":
                prompt = _rewritten(each, prompt)
        for each in self.each:
            if not (each.on_input and each.entry.action in ("block", "rewrite")):
                continue
            # Of what is rewritten only a place that the pieces around it make up anew is left.
            if _broken(each.rule, _texts(prompt)):
                return Asked(prompt, violations, each)
        return Asked(prompt, violations)

    def hold(self, prompt: Any = None, *, part: bool = False) -> Held:
        """An answer that will be written: give it piece by piece, and show what comes back.

        Args:
            prompt: That it answers.
            part: Whether it is a part of an answer, such as thoughts: then rules about the whole
                do not hold.
        """
        return held(self.each, "" if prompt is None else text_of(prompt), part=part)

    def held(self, prompt: Any, text: str) -> Held:
        """A whole answer as it may be shown."""
        answer = self.hold(prompt)
        answer.feed(text, final=True)
        return answer

    def violations(self, answer: Held) -> list[Violation]:
        """What a held answer breaks in the form in which the model wrote it."""
        return self.of_answer(answer.prompt, answer.raw, cut=answer.cut)


def text_of(said: Any) -> str:
    """A prompt or an answer as text: of messages all but those of the assistant before."""
    if isinstance(said, str):
        return said
    if said and all(message.get("role") == "assistant" for message in said):
        return "\n\n".join(_content(message.get("content")) for message in said)
    return "\n\n".join(_texts(said))


def _texts(prompt: Any) -> list[str]:
    if isinstance(prompt, str):
        return [prompt]
    return [_content(m.get("content")) for m in prompt if m.get("role") != "assistant"]


def _content(content: Any) -> str:
    if isinstance(content, list):  # typed parts
        parts = (part.get("text") for part in content if isinstance(part, Mapping))
        return "".join(text for text in parts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _broken(rule: Rule, texts: Sequence[str]) -> str | None:
    """What in a prompt breaks a rule, which reads each message alone, or all of them as one."""
    asked = "\n\n".join(texts)
    if not isinstance(rule, PlaceRule):
        return rule.broken(asked, asked)
    return next((what for text in texts if (what := rule.broken(text, asked))), None)


def _rewritten(constraint: Constraint, prompt: Any) -> Any:
    def new(text: str) -> str:
        rule, out, at = constraint.rule, [], 0
        assert isinstance(rule, PlaceRule), "is seen to when it is read"
        while (place := rule.find(text, at, final=True)) is not None:
            out += [text[at : place.start], constraint.replacement]
            at = max(place.end, place.start + 1)
        return "".join([*out, text[at:]])

    if isinstance(prompt, str):
        return new(prompt)
    return [
        message
        if message.get("role") == "assistant"
        else {**message, "content": _changed(message.get("content"), new)}
        for message in prompt
    ]


def _changed(content: Any, new: Any) -> Any:
    """A message with its text changed; several parts of text become one."""
    if isinstance(content, str):
        return new(content)
    if not isinstance(content, list):
        return content
    others = [p for p in content if not (isinstance(p, Mapping) and p.get("type") == "text")]
    return [{"type": "text", "text": new(_content(content))}, *others]
