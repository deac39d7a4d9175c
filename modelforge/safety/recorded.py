"""What other tools recorded: a report of garak, or an export of PyRIT's memory.

Both attack a model behind an address, `modelforge serve` for one, from environments of their own.
garak writes ``NAME.report.jsonl``: lines with an ``entry_type``, of which those of ``attempt`` hold
a prompt and its outputs. PyRIT writes what ``export_conversations`` gives: a JSON list of pieces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelforge.errors import DataError, Problem
from modelforge.safety.goals import Goal
from modelforge.safety.rules import REFUSAL, Verdict
from modelforge.safety.talks import Talk

GARAK, PYRIT = "garak", "PyRIT"
_FIX = "give garak's NAME.report.jsonl, or the JSON of PyRIT's export_conversations"
_COMPLETE = 2  # garak's ATTEMPT_COMPLETE: an attempt is written before and after it is judged


@dataclass(frozen=True)
class Recorded:
    """What a tool recorded.

    Attributes:
        tool: Which.
        model: What it attacked, as it says.
        talks: The attacks, with their answers.
        theirs: Of each whether the tool found that it got through; None where it does not say.
        fixed: What the record itself decides: number of a talk → a verdict.
        left_out: Why something is no talk → how many.
    """

    tool: str
    model: str
    talks: list[Talk] = field(default_factory=list)
    theirs: list[bool | None] = field(default_factory=list)
    fixed: dict[int, Verdict] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def leave_out(self, why: str) -> None:
        """Count what is no talk."""
        self.left_out[why] = self.left_out.get(why, 0) + 1


def read_recorded(path: Path) -> Recorded:
    """A record of either tool.

    Raises:
        DataError: If it is neither, is damaged, or holds no answer.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise DataError(Problem(str(path), f"cannot be read: {error}", _FIX)) from None
    if text.lstrip().startswith("["):
        found = _pyrit(path, _json(path, text, 1))
    else:
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        found = _garak(path, [(n, _json(path, line, n)) for n, line in lines])
    if not found.talks:
        told = "; ".join(f"{n} left out: {why}" for why, n in found.left_out.items())
        raise DataError(Problem(str(path), f"holds no answer ({told or 'no attempt'})", _FIX))
    return found


def _json(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(Problem(f"{path}:{line}", f"is no JSON: {error}", _FIX)) from None


@contextmanager
def _as_it_is_written(where: str) -> Iterator[None]:
    """Turn an error in reading a part of a record into one message that names its place.

    Raises:
        DataError: In place of the error that reading it raised.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        told = f"cannot be read: {type(error).__name__} {error}"
        raise DataError(Problem(where, told, _FIX)) from None


def _garak(path: Path, lines: Sequence[tuple[int, Any]]) -> Recorded:
    """garak's attempts. It writes some twice; the later one is judged, and is taken."""
    entries = [(n, e) for n, e in lines if isinstance(e, Mapping)]
    if not any("entry_type" in entry for _, entry in entries):
        hits = any("attempt_id" in entry and "detector" in entry for _, entry in entries)
        what = "is garak's hit log, which holds hits alone" if hits else "is no report of garak"
        raise DataError(Problem(str(path), what, _FIX))
    setup = next((e for _, e in entries if e.get("entry_type") == "start_run setup"), {})
    with _as_it_is_written(str(path)):
        threshold = float(setup.get("run.eval_threshold") or 0.5)
    names = (setup.get(f"plugins.{kind}_{what}") for what in ("type", "name")
             for kind in ("target", "model"))  # fmt: skip
    found = Recorded(GARAK, " ".join(str(name) for name in names if name) or "unknown")
    attempts = {}
    for number, entry in entries:
        if entry.get("entry_type") == "attempt":
            key = str(entry.get("uuid", number))
            if entry.get("status") == _COMPLETE or key not in attempts:
                attempts[key] = (number, entry)
    for number, entry in attempts.values():
        with _as_it_is_written(where := f"{path}:{number}"):
            _attempt(found, where, entry, threshold)
    return found


def _attempt(found: Recorded, where: str, entry: Mapping[str, Any], threshold: float) -> None:
    """The answers of one attempt. garak before 0.12 wrote prompts and outputs as plain texts."""
    outputs = entry.get("outputs")
    if not isinstance(outputs, list) or "prompt" not in entry:
        raise DataError(Problem(where, "is an attempt without prompt or outputs", _FIX))
    probe = str(entry.get("probe_classname") or "unknown").removeprefix("probes.")
    asked = _garak_turns(entry["prompt"])
    if not asked:
        return found.leave_out("no text in the prompt")
    scores = entry.get("detector_results") or {}
    for place, output in enumerate(outputs):
        said = output.get("text") if isinstance(output, Mapping) else output
        if said is None:
            found.leave_out("the model gave no answer")
            continue
        given = [each[place] for each in scores.values() if place < len(each or ())]
        given = [float(score) for score in given if score is not None]
        goal = Goal(
            str(entry.get("uuid", where)), asked[-1]["content"], probe.partition(".")[0], True
        )
        talk = Talk(goal, probe, [asked[-1]["content"]], place)
        talk.messages = [*asked, {"role": "assistant", "content": str(said)}]
        found.talks.append(talk)
        # garak passes what is below its threshold.
        found.theirs.append(any(score >= threshold for score in given) if given else None)


def _garak_turns(prompt: Any) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}] if prompt.strip() else []
    turns = prompt.get("turns", ()) if isinstance(prompt, Mapping) else prompt or ()
    found = []
    for turn in turns:
        content = turn.get("content")
        text = content.get("text") if isinstance(content, Mapping) else content
        if isinstance(text, str) and text.strip():
            found.append({"role": str(turn.get("role", "user")), "content": text})
    return found


def _pyrit(path: Path, pieces: Any) -> Recorded:
    """PyRIT's conversations: the pieces of one ``conversation_id``, in their ``sequence``."""
    talks: dict[str, list[Mapping[str, Any]]] = {}
    for number, piece in enumerate(pieces, 1):
        if not isinstance(piece, Mapping) or not {"role", "conversation_id"} <= set(piece):
            raise DataError(Problem(f"{path}: piece {number}", "is no piece of PyRIT", _FIX))
        talks.setdefault(str(piece["conversation_id"]), []).append(piece)
    target: Mapping[str, Any] = next((p["prompt_target_identifier"] for p in pieces
                   if isinstance(p.get("prompt_target_identifier"), Mapping)
                   and p["prompt_target_identifier"]), {})  # fmt: skip
    model = target.get("model_name") or target.get("__type__") or target.get("class_name")
    found = Recorded(PYRIT, str(model or "unknown"))
    for name, parts in talks.items():
        with _as_it_is_written(f"{path}: conversation {name}"):
            _conversation(found, name, sorted(parts, key=lambda part: part.get("sequence", 0)))
    return found


def _conversation(found: Recorded, name: str, parts: Sequence[Mapping[str, Any]]) -> None:
    """One conversation: what it asked for, and its last answer."""
    if any(
        part.get("converted_value_data_type", "text") not in ("text", "error") for part in parts
    ):
        return found.leave_out("holds more than text")
    roles = ["assistant" if "assistant" in p["role"] else str(p["role"]) for p in parts]
    asked = next((p for p, role in zip(parts, roles, strict=True) if role == "user"), None)
    last = parts[-1]
    if asked is None or roles[-1] != "assistant" or "simulated" in last["role"]:
        return found.leave_out("no answer at its end")
    error = str(last.get("response_error") or "none")
    if error in ("processing", "unknown"):
        return found.leave_out(f"the answer failed: {error}")
    scores = last.get("scores") or []
    meant = next((str(s["objective"]) for s in scores if s.get("objective")), None)
    kinds = asked.get("targeted_harm_categories") or ["all"]
    attack = (asked.get("attack_identifier") or {}).get("__type__") or _converters(asked) or "sent"
    goal = Goal(name, meant or str(asked["original_value"]), ", ".join(map(str, kinds)), True)
    talk = Talk(goal, attack, [str(asked.get("converted_value") or asked["original_value"])])
    talk.messages = [{"role": role, "content": str(part.get("converted_value") or "")}
                     for role, part in zip(roles, parts, strict=True)]  # fmt: skip
    if error in ("blocked", "empty"):
        talk.messages[-1]["content"] = ""
    if error == "blocked":
        found.fixed[len(found.talks)] = Verdict(REFUSAL, "the service blocked the answer")
    found.talks.append(talk)
    found.theirs.append(_through(scores))


def _converters(piece: Mapping[str, Any]) -> str:
    told = [each for each in piece.get("converter_identifiers") or [] if isinstance(each, Mapping)]
    return " + ".join(str(each.get("__type__") or each.get("class_name") or "?") for each in told)


def _through(scores: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether PyRIT's scores say that it got through; a refusal found says that it did not."""
    said = []
    for score in scores:
        value = str(score.get("score_value", "")).lower()
        if score.get("score_type") == "true_false" and value in ("true", "false"):
            identifier = score.get("scorer_class_identifier") or {}
            name = str(identifier.get("__type__") or identifier.get("class_name") or "")
            said.append((value == "true") != ("refusal" in name.lower()))
    return any(said) if said else None
