"""A model under attack: attacks on requests, answers, verdicts, figures; all of it kept.

The steps of `redteam`, top to bottom: read the requests and attacks, see that the judge can be
trusted, let the models answer, judge, write. A job that was killed goes on behind its last answer.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modelforge.common.console import say
from modelforge.common.files import write_whole, writing
from modelforge.errors import ConfigError, Problem
from modelforge.evaluation.opened import Bench, Named
from modelforge.inference.answers import Sampling
from modelforge.inference.trained import find_trained
from modelforge.safety import judging
from modelforge.safety.attacks import get_attacks
from modelforge.safety.figures import Judged, changes, figures, turned, worst
from modelforge.safety.goals import BUILTIN, Goal, read_goals
from modelforge.safety.pairs import AGAINST, OWN, SOURCES, STATED, pairs
from modelforge.safety.recorded import read_recorded
from modelforge.safety.rules import REFUSAL, Verdict
from modelforge.safety.talks import DIRECT, Talk, carry_out, messages_tokenizer, planned

RESULTS = "results.json"
START = "start"
_FIX = "name another folder with --out"


@dataclass(frozen=True)
class Options:
    """What is asked.

    Attributes:
        prompts: ``builtin``, or a file of requests.
        attacks: Their names; none for all.
        harmless: Whether requests without a label are harmless ones.
        limit: The most harmful and the most harmless requests.
        samples: Answers to each attack.
        sampling: How answers are drawn.
        system: The system message; by default that of the run.
        constraints: Those that answers are held to: a file, or ``none``; by default the run's.
        batch_size: Answers at once.
        judge, judge_model, classifier, label: Who judges; the rules, if nobody is named.
        labelled: Answers labelled by hand, on which the judge is tried: ``builtin`` or a file.
        chosen: Where the better answers of pairs are from: own, against or stated; None for none.
        refusal: The stated refusal.
    """

    prompts: str = BUILTIN
    attacks: tuple[str, ...] = ()
    harmless: bool = False
    limit: int | None = None
    samples: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    system: str | None = None
    constraints: str | None = None
    batch_size: int = 8
    judge: str | None = None
    judge_model: str | None = None
    classifier: str | None = None
    label: str | None = None
    labelled: str = judging.BUILTIN
    chosen: str | None = None
    refusal: str | None = None


def redteam(
    model: str, options: Options, folder: Path, *, against: str | None = None
) -> dict[str, Any]:
    """Attack a model, and another one in the same way.

    Args:
        model: A run, a model's or an adapter's folder, or a hub id.
        options: What is asked.
        folder: Where answers, verdicts and figures are kept.
        against: ``start`` for the model that a run began from, or another one.

    Returns:
        What ``results.json`` holds.

    Raises:
        UserError: If something cannot be used. No model is loaded then.
    """
    _checked(options, against, folder)
    goals = read_goals(options.prompts, harmless=options.harmless, limit=options.limit)
    attacks = get_attacks(options.attacks)
    if options.attacks and not any(goal.harmful for goal in goals):
        what = "has no effect: all requests are harmless, and are asked as they stand"
        raise ConfigError(Problem("--attacks", what, "leave it out"))
    labelled = judging.read_labelled(options.labelled)
    models = [find_trained(model)]
    against = _start(models[0]) if against == START else against
    models += [] if against is None else [find_trained(against)]
    for found in models:
        messages_tokenizer(found)  # before the first of them answers
    talks = planned(goals, attacks, options.samples)
    judge = _judge(options, labelled)
    sides, bench = [], Bench()
    for place, found in zip(_places(folder, models), models, strict=True):
        mine = [Talk(t.goal, t.attack, t.turns, t.sample) for t in talks]
        carry_out(found, mine, place, sampling=options.sampling, batch_size=options.batch_size,
                  system=options.system, constraints=options.constraints, bench=bench)  # fmt: skip
        sides.append(mine)
    del bench
    judged = [_judged(judge, [t for t in side if not t.left_out]) for side in sides]
    told: dict[str, Any] = {"model": models[0].said, "against": against, "prompts": options.prompts,
            "attacks": list(attacks), "asked": _plain(options)}  # fmt: skip
    told |= _told(judge, options, labelled, goals, judged[0])
    told["left_out"] = _left_out(sides[0])
    if against is not None:
        told["before"] = figures(judged[1])
        told["changes"] = changes(judged[1], judged[0])
        told["turned"] = turned(judged[1], judged[0])
        told["model_responses_before"] = [each.row() for each in judged[1]]
    if options.chosen is not None:
        rows, missing = pairs(judged[0], judged[1] if against else [], source=options.chosen,
                              refusal=options.refusal)  # fmt: skip
        told["pairs"] = _pairs_kept(folder, rows, missing, options)
    _keep(folder, told, judged[0])
    return told


def imported(record: Path, options: Options, folder: Path) -> dict[str, Any]:
    """Judge what garak or PyRIT recorded, and keep it in the same form.

    Returns:
        What ``results.json`` holds; under ``theirs`` what the tool itself found.

    Raises:
        UserError: If the record cannot be read, or the judge cannot be trusted.
    """
    _checked(options, None, folder)
    found = read_recorded(record)
    if options.chosen == OWN and not any(talk.attack == DIRECT for talk in found.talks):
        what = f"needs answers to requests as they stand, and {found.tool} recorded none"
        raise ConfigError(Problem("--chosen own", what, "say --chosen stated with --refusal TEXT"))
    labelled = judging.read_labelled(options.labelled)
    judge = _judge(options, labelled)
    judged = _judged(judge, found.talks)
    for place, verdict in found.fixed.items():
        judged[place] = Judged(judged[place].talk, verdict)
    goals = [talk.goal for talk in found.talks]
    told: dict[str, Any] = {
        "model": found.model, "against": None, "prompts": str(record), "tool": found.tool,
        "attacks": sorted({talk.attack for talk in found.talks}), "asked": _plain(options),
    }  # fmt: skip
    told |= _told(judge, options, labelled, goals, judged)
    told["left_out"] = found.left_out
    known = [i for i, theirs in enumerate(found.theirs) if theirs is not None]
    same = sum(found.theirs[i] == judged[i].verdict.successful for i in known)
    told["theirs"] = {
        "hits": judging.share_of(sum(bool(found.theirs[i]) for i in known), len(known)),
        "same_as_ours": judging.share_of(same, len(known)),
    }
    if options.chosen is not None:
        rows, missing = pairs(judged, [], source=options.chosen, refusal=options.refusal)
        told["pairs"] = _pairs_kept(folder, rows, missing, options)
    _keep(folder, told, judged)
    return told


def _checked(options: Options, against: str | None, folder: Path) -> None:
    """See that each option has an effect, and that there is a place to keep what comes of it.

    Raises:
        ConfigError: With all that have none.
    """
    problems = []
    if folder.exists() and not folder.is_dir():
        problems.append(Problem(f"--out {folder}", "is a file", "name a folder"))
    if options.judge and options.classifier:
        problems.append(Problem("--judge", "is given beside --classifier", "leave one of them out"))
    for option, value, needs in (
        ("--judge-model", options.judge_model, options.judge and "--judge"),
        ("--label", options.label, options.classifier and "--classifier"),
    ):
        if value is not None and not needs:
            name = "--judge" if "judge" in option else "--classifier"
            problems.append(Problem(option, f"has no effect without {name}", "leave it out"))
    if options.samples > 1 and options.sampling.temperature == 0:
        what = "has no effect at temperature 0: all answers would be the same"
        problems.append(Problem("--samples", what, "set a temperature, such as 0.7"))
    if options.chosen is not None and options.chosen not in SOURCES:
        fix = f"say one of {', '.join(SOURCES)}"
        problems.append(Problem(f"--chosen {options.chosen}", "is no source", fix))
    if (options.chosen == STATED) != (options.refusal is not None):
        fix = "say --chosen stated and --refusal TEXT, or neither"
        problems.append(Problem("--chosen stated", "goes with a text of --refusal", fix))
    if options.chosen == OWN and options.attacks and DIRECT not in options.attacks:
        what = "takes its answers from the attack 'direct', which is not among --attacks"
        problems.append(Problem("--chosen own", what, "add direct to --attacks"))
    if options.chosen == AGAINST and against is None:
        fix = "name the model whose answers are taken"
        problems.append(Problem("--chosen against", "needs --against", fix))
    if problems:
        raise ConfigError(*problems)


def _start(found: Named) -> str:
    """The model that a run began from.

    Raises:
        ConfigError: If nobody knows.
    """
    if found.start is None:
        what = f"is not known of {found.said}, which is no run and no adapter"
        raise ConfigError(Problem("--against start", what, "name the model"))
    return found.start


def _judge(options: Options, labelled: Sequence[tuple[Goal, str, str]]) -> judging.Judge:
    if options.classifier is not None:
        return judging.by_classifier(options.classifier, options.label)
    if options.judge is not None:
        return judging.by_judge(options.judge, model=options.judge_model, labelled=labelled)
    return judging.Judge(judging.RULES, judging.by_rules)


def _judged(judge: judging.Judge, talks: Sequence[Talk]) -> list[Judged]:
    left = [talk for talk in talks if not talk.blocked]
    verdicts = iter(judge.judging([(talk.goal, talk.answer) for talk in left]) if left else ())
    held = Verdict(REFUSAL, "a constraint let nothing through")
    return [Judged(talk, held if talk.blocked else next(verdicts)) for talk in talks]


def _places(folder: Path, models: Sequence[Named]) -> list[Path]:
    """A folder for the answers of each model."""
    names = [re.sub(r"[^\w.-]+", "-", found.name) for found in models]
    if len(set(names)) < len(names):
        names[1] += "-against"
    return [folder / "answers" / name for name in names]


def _told(
    judge: judging.Judge, options: Options, labelled: Sequence[tuple[Goal, str, str]],
    goals: Sequence[Goal], judged: Sequence[Judged],
) -> dict[str, Any]:  # fmt: skip
    """The figures, the judge's own error beside them, and the three lists."""
    tried = not (judge.by_harm and options.labelled == judging.BUILTIN)
    told: dict[str, Any] = {
        "judge": {
            "name": judge.name,
            "audit": judge.audit,
            "error": judging.error_on(judge, labelled) if tried else None,
            "error_on_requests": judging.error_on_requests(judge, goals),
        },
        "figures": figures(judged),
        "worst": worst(judged),
    }
    through = [each for each in judged if each.talk.goal.harmful and each.verdict.successful]
    declined = [each for each in judged if not each.talk.goal.harmful and each.verdict.refused]
    told["harmful_outputs"] = [each.row() for each in through]
    told["safety_violations"] = [
        {"kind": kind, "id": each.talk.goal.id, "category": each.talk.goal.category,
         "attack": each.talk.attack, "sample": each.talk.sample, "class": each.verdict.kind,
         "why": each.verdict.why, "judge": judge.name}
        for kind, part in (("harmful request carried out", through),
                           ("harmless request declined", declined))
        for each in part
    ]  # fmt: skip
    told["model_responses"] = [each.row() for each in judged]
    return told


def _left_out(talks: Sequence[Talk]) -> dict[str, int]:
    found: dict[str, int] = {}
    for talk in talks:
        if talk.left_out:
            found[talk.left_out] = found.get(talk.left_out, 0) + 1
    return found


def _pairs_kept(
    folder: Path, rows: Sequence[Mapping[str, Any]], missing: Mapping[str, int], options: Options
) -> dict[str, Any]:
    """Write the pairs; where there are none no file stays, which could not be trained on."""
    if rows:
        _write(folder / "pairs.jsonl", _lines(rows))
    else:
        (folder / "pairs.jsonl").unlink(missing_ok=True)
    return {"rows": len(rows), "left_out": missing, "chosen_from": options.chosen}


def _plain(options: Options) -> dict[str, Any]:
    return asdict(options)


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write(path: Path, text: str) -> None:
    with writing(path, _FIX):
        write_whole(path, text)


def _keep(folder: Path, told: dict[str, Any], judged: Sequence[Judged]) -> None:
    """The rows, the page, and last the results, which say that all is there."""
    from modelforge.safety.page import page

    told["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    _write(folder / "rows.jsonl", _lines([each.row() for each in judged]))
    _write(folder / "report.md", page(told))
    _write(folder / RESULTS, json.dumps(told, indent=2, ensure_ascii=False, default=str) + "\n")
    say(f"kept: {folder}")
