"""Pairs that a machine makes: the best and the worst of several answers, or an answer and its
revision under a principle. Every step is kept in files, and a stopped job goes on."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelforge.common.console import say
from modelforge.common.files import digest, file_digest, write_whole, writing
from modelforge.common.progress import track
from modelforge.constraints import Constraints
from modelforge.constraints.of_a_run import NONE
from modelforge.constraints.principles import Principle
from modelforge.errors import ModelError, Problem
from modelforge.evaluation import judge as judges
from modelforge.inference.answers import Sampling
from modelforge.inference.generate import generate
from modelforge.inference.prompts import read_prompts
from modelforge.inference.trained import find_trained, load_tokenizer

#: A prompt and its answers → a number for each, the higher the better.
Scorer = Callable[[Any, Sequence[str]], list[float]]


@dataclass(frozen=True)
class Made:
    """What came of the prompts.

    Attributes:
        rows: Pairs.
        left_out: Why a prompt has no pair → how many.
        folder: Where every step lies.
    """

    rows: list[dict[str, Any]]
    left_out: dict[str, int]
    folder: Path


def best_and_worst(
    model: str, prompts: str, folder: Path, scorer: Callable[[], Scorer], *, named: str, num: int,
    sampling: Sampling, batch_size: int = 8,
) -> Made:  # fmt: skip
    """Of several answers to each prompt the best against the worst.

    Args:
        model: That answers.
        prompts: A data file.
        folder: Where answers and scores are kept.
        scorer: Opens what gives the scores, once the model that answers is gone from memory.
        named: What the scorer is called, or lies at: another one, or a changed one, scores anew.
        num: Answers to a prompt.
        sampling: How they are drawn.
        batch_size: Prompts answered at once.

    Raises:
        UserError: If the model or the file cannot be used, or the folder holds another job.
    """
    answers = folder / "answers.jsonl"
    generate(
        model, prompts, answers, sampling=sampling, group=num, batch_size=batch_size,
        constraints=NONE,  # what is to be learned is not held back
    )  # fmt: skip
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in _lines(answers):
        groups.setdefault(row["row"], []).append(row)
    path = folder / f"scores-{digest([named, _made_of(named), vars(sampling), num])[:8]}.jsonl"
    known = {row["row"]: row["scores"] for row in _lines(path)}
    left = [number for number in groups if number not in known]
    score = scorer() if left else None
    with writing(path, "free some space; what is written stays"):
        _keep_whole(path, [{"row": n, "scores": s} for n, s in known.items()])
        with path.open("a", encoding="utf-8") as file:
            for number in track(left, "scoring", len(left), unit="prompts"):
                texts = [row["completion"] for row in groups[number]]
                assert score is not None
                known[number] = score(groups[number][0]["prompt"], texts)
                file.write(json.dumps({"row": number, "scores": known[number]}) + "\n")
                file.flush()
                os.fsync(file.fileno())
    rows, left_out = [], {"all answers are worth the same": 0}
    for number, group in groups.items():
        scores = known[number]
        best, worst = scores.index(max(scores)), scores.index(min(scores))
        if scores[best] <= scores[worst]:
            left_out["all answers are worth the same"] += 1
            continue
        pair = _pair(group[0]["prompt"], group[best]["completion"], group[worst]["completion"])
        rows.append(pair | {"chosen_score": scores[best], "rejected_score": scores[worst]})
    return Made(rows, {why: n for why, n in left_out.items() if n}, folder)


def _made_of(scorer: str) -> list[str]:
    """The digests of its weights, or of the file of its function; none of what lies elsewhere."""
    place = Path(scorer)
    file = Path(scorer.rpartition(":")[0])
    if file.suffix == ".py" and file.is_file():
        return [file_digest(file)]
    model = place / "model" if (place / "model").is_dir() else place
    return [file_digest(weights) for weights in sorted(model.glob("*.safetensors"))]


def by_reward_model(name: str) -> Scorer:
    """A reward model's scores.

    Raises:
        ModelError: If it is none.
    """
    from modelforge.rewards.model import RewardModel

    reward = RewardModel.load(name)

    def score(prompt: Any, texts: Sequence[str]) -> list[float]:
        replies = [_answer(prompt, text) for text in texts]
        return reward(prompts=[prompt] * len(texts), completions=replies)

    return score


def by_constraints(constraints: Constraints) -> Scorer:
    """0 less one for each constraint that an answer breaks."""

    def score(prompt: Any, texts: Sequence[str]) -> list[float]:
        return [float(-len(constraints.of_answer(prompt, text))) for text in texts]

    return score


def by_judge(name: str, *, model: str | None, audit: str) -> Scorer:
    """The share of the other answers that a judge finds worse, over both orders.

    Args:
        name: Of the judge.
        model: Its name at an endpoint.
        audit: Pairs that people have judged: a judge that cannot be trusted is refused.

    Raises:
        UserError: If there is no such judge, or it fails its audit.
    """
    judge = judges.open_judge(name, model=model)
    found = judges.audit(judge, judges.read_pairs(audit), name=name)
    if not found.passed:
        fix = "use a reward model with --by, or another judge"
        raise ModelError(*(Problem(f"--judge {name}", what, fix) for what in found.problems))
    say(f"judge: agrees with people in {found.agreement:.0%} of {found.rows} pairs")

    def score(prompt: Any, texts: Sequence[str]) -> list[float]:
        won = dict.fromkeys(range(len(texts)), 0.0)
        pairs = [(i, j) for i, j in itertools.combinations(won, 2) if texts[i] != texts[j]]
        cases = [(judges.text_of(prompt), texts[i], texts[j]) for i, j in pairs]
        turned = [(asked, second, first) for asked, first, second in cases]
        straight, back = (judge(each) if each else [] for each in (cases, turned))
        for (i, j), first, second in zip(pairs, straight, back, strict=True):
            share = (first + 1 - second) / 2
            won[i] += share
            won[j] += 1 - share
        for i, j in itertools.combinations(won, 2):
            if texts[i] == texts[j]:
                won[i], won[j] = won[i] + 0.5, won[j] + 0.5
        return [value / max(len(texts) - 1, 1) for value in won.values()]

    return score


def revised(
    model: str, prompts: str, folder: Path, principles: Sequence[Principle], *, rounds: int = 1,
    sampling: Sampling, batch_size: int = 8,
) -> Made:  # fmt: skip
    """The model criticises its answer by a principle, and writes it anew; both become a pair.

    Bai et al. 2022, "Constitutional AI: Harmlessness from AI feedback", section 3: each round draws
    one principle.

    Args:
        model: That answers, criticises and revises.
        prompts: A data file.
        folder: Where every step is kept: ``answers``, and ``critique`` and ``revision`` of each
            round, with the prompts of each.
        principles: One is drawn for each prompt and round, by the sampling's seed.
        rounds: How often the answer is revised.
        sampling: How all of it is drawn.
        batch_size: Prompts answered at once.

    Raises:
        UserError: If the model or the file cannot be used, or the folder holds another job.
    """
    if not load_tokenizer(find_trained(model)).chat_template:
        what = "its tokenizer has no chat template: it cannot be asked about its answer"
        raise ModelError(Problem(model, what, "name a chat model"))

    def step(name: str, chats: Sequence[Any]) -> list[str]:
        asked = folder / f"{name}.prompts.jsonl"
        with writing(asked, "name another place with --output"):
            _keep_whole(asked, [{"prompt": chat} for chat in chats])
        output = folder / f"{name}.jsonl"
        generate(
            model, str(asked), output, sampling=sampling, batch_size=batch_size, constraints=NONE
        )
        return [row["completion"] for row in _lines(output)]

    chats = [list(each.prompt) for each in read_prompts(prompts)]
    first = answers = step("answers", chats)
    drawn = []
    for number in range(1, rounds + 1):
        rng = random.Random(f"{sampling.seed}:{number}")
        taken = [rng.choice(principles) for _ in chats]
        asks = [[*chat, *_answer(chat, text), _user(each.critique)]
                for chat, text, each in zip(chats, answers, taken, strict=True)]  # fmt: skip
        critiques = step(f"critique-{number}", asks)
        asks = [[*ask, *_answer(ask, text), _user(each.revision)]
                for ask, text, each in zip(asks, critiques, taken, strict=True)]  # fmt: skip
        answers = step(f"revision-{number}", asks)
        drawn.append(taken)
    return _sorted(chats, first, answers, drawn, folder)


def _sorted(
    chats: Sequence[Any],
    first: Sequence[str],
    revisions: Sequence[str],
    drawn: Sequence[Sequence[Principle]],
    folder: Path,
) -> Made:
    """Each answer and its last revision as a pair, or why they are none."""
    why = ("the revision says the same", "the revision is empty", "the revision breaks its rule")
    rows, left_out = [], dict.fromkeys(why, 0)
    for i, (chat, before, after) in enumerate(zip(chats, first, revisions, strict=True)):
        if not after.strip():
            left_out["the revision is empty"] += 1
        elif after.strip() == before.strip():
            left_out["the revision says the same"] += 1
        elif any(taken[i].broken(judges.text_of(chat), after) for taken in drawn):
            left_out["the revision breaks its rule"] += 1
        else:
            row = _pair(chat, after, before)
            rows.append(row | {"principles": [taken[i].name for taken in drawn]})
    return Made(rows, {why: n for why, n in left_out.items() if n}, folder)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; a kill can cut the last one short."""
    found = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.split("\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _keep_whole(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _pair(prompt: Any, chosen: str, rejected: str) -> dict[str, Any]:
    good, bad = (_answer(prompt, text) for text in (chosen, rejected))
    return {"prompt": prompt, "chosen": good, "rejected": bad}


def _answer(prompt: Any, text: str) -> Any:
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
