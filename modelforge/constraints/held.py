"""An answer held to constraints as it is written: text is shown once it can be no part of a place
that breaks one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelforge.constraints.one import Constraint
from modelforge.constraints.rules import PlaceRule


@dataclass
class _Stage:
    """One constraint between the model and the reader.

    Attributes:
        constraint: It.
        rewrites: Whether places are replaced; else the answer ends at the first.
        text: All that came in.
        at: How much of it has gone out, or was replaced.
        stopped: Whether the answer has ended here.
    """

    constraint: Constraint
    rewrites: bool
    prompt: str
    text: str = ""
    at: int = 0
    stopped: bool = False

    def feed(self, piece: str, *, final: bool) -> str:
        """What goes out."""
        if self.stopped:
            return ""
        self.text += piece
        rule = self.constraint.rule
        if not isinstance(rule, PlaceRule):
            return self._whole() if final else ""
        out = []
        while True:
            place = rule.find(self.text, self.at, final=final)
            end = len(self.text) if place is None else max(place.start, self.at)
            out.append(self.text[self.at : end])
            self.at = end
            if place is None or not place.settled:
                break
            if not self.rewrites:
                self.stopped = True
                break
            out.append(self.constraint.replacement)
            self.at = max(place.end, place.start + 1)
        return "".join(out)

    def _whole(self) -> str:
        if self.constraint.rule.broken(self.text, self.prompt) is None:
            return self.text
        self.stopped = True
        return self.constraint.message


@dataclass
class Held:
    """One answer, piece by piece.

    Attributes:
        prompt: The question, as text.
        stages: One behind the other.
        text: What was shown.
        raw: What the model wrote, as far as it was read.
        blocked: The constraint that ended the answer or took its place; None while there is none.
        cut: Whether rules about the whole say nothing of it.
    """

    prompt: str
    stages: Sequence[_Stage]
    text: str = ""
    raw: str = ""
    blocked: Constraint | None = None
    cut: bool = False

    def feed(self, piece: str, *, final: bool = False) -> str:
        """What may be shown now.

        Args:
            piece: What the model wrote next.
            final: Whether it is the last of it.
        """
        if self.blocked is not None:
            return ""
        self.raw += piece
        for stage in self.stages:
            piece = stage.feed(piece, final=final)
            if stage.stopped:  # the last one cuts what those before it let through
                final, self.blocked = True, stage.constraint
                self.cut |= isinstance(stage.constraint.rule, PlaceRule)
        self.text += piece
        return piece

    def close(self) -> str:
        """What may be shown now that there is no more."""
        return self.feed("", final=True)


def held(constraints: Sequence[Constraint], prompt: str, *, part: bool = False) -> Held:
    """An answer to a prompt that is held to the constraints on answers.

    What is replaced goes through the same rule once more: where the pieces around a place would
    make up another one, the answer ends.

    Args:
        constraints: All.
        prompt: The question, as text.
        part: Whether it is a part of an answer: then rules about the whole do not hold.

    """
    wanted = [each for each in constraints if each.on_output]
    places = [each for each in wanted if isinstance(each.rule, PlaceRule)]
    rewrites = [each for each in places if each.entry.action == "rewrite"]
    blocks = [each for each in places if each.entry.action == "block"]
    whole = [
        each
        for each in wanted
        if each.entry.action == "block" and not part and not isinstance(each.rule, PlaceRule)
    ]
    stages = [_Stage(each, True, prompt) for each in rewrites]
    stages += [_Stage(each, False, prompt) for each in (*whole, *rewrites, *blocks)]
    return Held(prompt, stages, cut=part)
