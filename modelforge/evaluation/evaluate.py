"""`modelforge evaluate`: each row of a file scored once by a model, and kept.

The steps of `evaluate`, top to bottom: find the model, look whether it has been done, read the
rows, choose the measures, score batch after batch, write the figures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from modelforge.common.console import say
from modelforge.common.files import file_digest
from modelforge.common.libraries import take_over
from modelforge.common.progress import Task
from modelforge.common.sources import DatasetSource
from modelforge.config import RewardEntry
from modelforge.constraints import Constraints
from modelforge.constraints.of_a_run import of_recorded
from modelforge.errors import ConfigError, DataError, Problem, UserError, did_you_mean
from modelforge.evaluation import kept, metrics
from modelforge.evaluation.classifier import toxicity_by
from modelforge.evaluation.free import longer_and_first
from modelforge.evaluation.kept import Evaluation
from modelforge.evaluation.metrics import DERIVED, METRICS, Metric
from modelforge.evaluation.opened import (
    Bench,
    Named,
    constraints_key,
    fingerprint,
    load_tokenizer,
    named,
)
from modelforge.evaluation.options import Options, checked, told
from modelforge.rewards.constrained import less_broken
from modelforge.rewards.spec import reward_columns

#: Figures of the logits that are held at once, in numbers.
_LOGITS = 2**25
_BATCH = 64


def evaluate(
    model: str | Named, options: Options, *, name: str | None = None, bench: Bench | None = None
) -> Evaluation:
    """Score each row of a data set, or read the rows that were scored before.

    Args:
        model: A run's folder, a model's or an adapter's folder, or a hub id.
        options: What is asked.
        name: How the model is called; by default as its folder.
        bench: Holds the bases that were loaded already.

    Raises:
        UserError: If model, data or options cannot be used. Nothing is written then.
    """
    asked = named(model, name=name) if isinstance(model, str) else model
    rewards = checked(options, scores=asked.scores, said=asked.said)
    start = _start(asked, options)
    task = _task(options.data)
    key = _key(asked, start, options)
    folder = kept.place(options.output_dir, asked.name, task, key)
    done = kept.read(folder)
    if done is not None:
        return done
    work = _Work(asked, start, options, rewards, bench or Bench())
    rows = kept.Rows(folder, task)
    lines = work.score(rows)
    table = _seen(work.table, lines)
    found = _together(asked.name, task, folder, lines, table, work.baselines(lines))
    found = replace(found, seen=work.seen())
    results = kept.results_of(
        found, asked=told(options), model_args=f"pretrained={asked.said}", date=time.time()
    )
    rows.close(lines, results)
    return found


def _start(asked: Named, options: Options) -> Named | None:
    """The model that this one began from, where something is measured against it.

    Raises:
        UserError: If it is not known, or cannot be found.
    """
    if not options.from_start:
        return None
    said = options.start or asked.start
    if said is None:
        what = f"the model that {asked.said} began from is not known"
        raise ConfigError(Problem("--metrics kl", what, "name it with --start"))
    return named(said, where="--start")


def _task(data: str) -> str:
    name = Path(data.rstrip("/")).name
    stem = name.split(".")[0] or "data"
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem)


def _key(asked: Named, start: Named | None, options: Options) -> list[Any]:
    """What an evaluation is made from; two of the same give the same rows."""
    said = told(options)
    for name in ("output_dir", "batch_size", "data", "by", "contamination", "constraints"):
        said.pop(name)
    said["data"] = kept.of_data(options.data)
    code = [file_digest(Path(r.split(":")[0])) for r in options.rewards
            if Path(r.split(":")[0]).is_file()]  # fmt: skip
    models = [m for m in (asked, start) if m is not None]
    beside = [m for m in (options.reward_model, options.classifier) if m and Path(m).is_dir()]
    held = _constraints(asked, options)
    said |= {} if held is None else {"constraints": constraints_key(held)}
    return [said, code, [fingerprint(m) for m in (*models, *map(named, beside))]]


def _constraints(asked: Named, options: Options) -> Constraints | None:
    """Those whose violations are counted, if any is on answers.

    Raises:
        UserError: If there is no such file, or something is wrong with it.
    """
    if asked.scores:
        return None
    found = of_recorded(asked.recorded, options.constraints, said=asked.said)
    if found is None or any(each.on_output for each in found.each):
        return found
    if options.constraints is None:
        return None
    what, fix = "are all on prompts, and answers are counted", "set on to output or both"
    raise ConfigError(Problem(f"--constraints {options.constraints}", what, fix))


class _Work:
    """The rows of one evaluation, and what scores them."""

    def __init__(
        self,
        asked: Named,
        start: Named | None,
        options: Options,
        rewards: Sequence[RewardEntry],
        bench: Bench,
    ) -> None:
        from modelforge.data.tokens import How
        from modelforge.evaluation.items import read_items

        self.asked, self.start, self.options, self.bench = asked, start, options, bench
        self.tokenizer = load_tokenizer(asked)
        self.context = _context(asked)
        recorded = asked.recorded
        self.columns = options.columns or recorded.get("columns") or {}
        self.items = read_items(
            self.tokenizer,
            max_length=self.context,
            limit=options.limit,
            dataset=DatasetSource(path=options.data).path,
            columns=self.columns,
            system_prompt=recorded.get("system_prompt"),
            how=How(template_kwargs=asked.template_kwargs),
        )
        new = options.max_new_tokens
        self.new = new if self.context is None else min(new, self.context // 2)
        self._refuse_missing_columns(rewards)
        self._refuse_what_is_not_comparable()
        self.functions = {} if asked.scores else self._functions(rewards)
        self.entries = rewards
        known = self._available()
        self.names = metrics.chosen(
            options.metrics,
            available=list(known),
            rewarded=bool(reward_columns(rewards)),
            scores=asked.scores,
        )
        self.table = {name: known[name] for name in self.names}

    def _refuse_missing_columns(self, rewards: Sequence[RewardEntry]) -> None:
        """See that the data has the columns that rewards and slices read.

        Raises:
            DataError: If it lacks one.
        """
        there = {name for item in self.items for name in item.columns}
        problems = []
        for name in sorted(reward_columns(rewards)) + (
            [self.options.by] if self.options.by else []
        ):
            if name not in there:
                fix = did_you_mean(name, there) or f"it has {', '.join(sorted(there)) or 'none'}"
                problems.append(Problem(self.options.data, f"has no column '{name}'", fix))
        if problems:
            raise DataError(*problems)

    def _refuse_what_is_not_comparable(self) -> None:
        """See that a reward model has pairs, and that the start has the same vocabulary.

        Raises:
            UserError: If not.
        """
        if self.asked.scores and not any(len(item.sides) == 2 for item in self.items):
            what = f"holds no pairs, and {self.asked.said} is a reward model"
            fix = "give rows with a chosen and a rejected answer"
            raise DataError(Problem(self.options.data, what, fix))
        if self.start is not None:
            theirs = load_tokenizer(self.start).get_vocab()
            if theirs != self.tokenizer.get_vocab():
                what = f"has another vocabulary than {self.asked.said}"
                fix = "kl and entropy are of models of one vocabulary: name another --start"
                raise ConfigError(Problem(self.start.said, what, fix))

    def _functions(self, rewards: Sequence[RewardEntry]) -> dict[str, Callable[..., Any]]:
        from modelforge.rewards import build_rewards

        built, _ = build_rewards(rewards, tokenizer=self.tokenizer)
        found = {metrics.reward_name(f.__name__): f for f in built}
        if self.options.reward_model:
            found["reward"] = found.pop(metrics.reward_name(built[-1].__name__))
        if self.options.classifier:
            found["toxicity"] = toxicity_by(self.options.classifier)
        held = _constraints(self.asked, self.options)
        if held is not None:
            found["safety_violations"] = less_broken(held, 1)
        return found

    def _available(self) -> dict[str, Metric]:
        """The measures that these rows and options give."""
        sides = max((len(item.sides) for item in self.items), default=0)
        found = [n for n, m in METRICS.items() if m.needs == "reference"] if sides else []
        found += ["accuracy", "margin"] if sides == 2 else []
        if self.asked.scores:
            return {"accuracy": METRICS["accuracy"], "margin": metrics.SCORE_MARGIN}
        table = {name: METRICS[name] for name in found}
        if any(item.prompt is not None for item in self.items):
            table |= {n: m for n, m in METRICS.items() if m.needs == "answers"}
            table |= {n: METRICS.get(n) or metrics.of_reward(n) for n in self.functions}
            if self.start is not None:
                table |= {n: m for n, m in METRICS.items() if m.needs == "start"}
            own = [n for n in self.functions if n not in METRICS]
            if self.options.samples > 1 and len(own) == 1:
                for k in (1, self.options.samples):
                    table[f"pass@{k}"] = metrics.of_pass(own[0], k)
        return table

    def score(self, rows: kept.Rows) -> list[dict[str, Any]]:
        """Every row's line; those that were kept are not scored again."""
        done = rows.read()
        batches = list(self._batches())
        title = f"scoring {self.asked.name}"
        left = [b for b in batches if any(item.doc_id not in done for item in b)]
        task = Task(title, len(self.items), done=sum(i.doc_id in done for i in self.items))
        try:
            if left:
                if done:
                    say(f"going on from {len(done)} of {len(self.items)} rows")
                scorer = self._scorer()
                for batch in left:
                    # A batch is scored whole, as it would have been: so its rows are the same.
                    new = [line for line in scorer(batch) if line["doc_id"] not in done]
                    rows.append(new)
                    done |= {line["doc_id"]: line for line in new}
                    task.advance(len(new))
        finally:
            task.close()
        return [done[item.doc_id] for item in self.items]

    def _batches(self) -> Iterator[list[Any]]:
        """Rows of like length together, the longest first: what does not fit shows at once."""
        order = sorted(self.items, key=lambda item: -item.tokens)
        vocabulary = len(self.tokenizer)
        while order:
            longest = max(1, order[0].tokens) + self.new
            fits = max(1, _LOGITS // (vocabulary * longest * self.options.samples))
            size = self.options.batch_size or min(fits, _BATCH)
            yield order[:size]
            order = order[size:]

    def _scorer(self) -> Callable[[list[Any]], list[dict[str, Any]]]:
        from modelforge.evaluation import scored

        take_over()  # transformers is imported by now, and would draw bars
        if self.asked.scores:
            return partial(scored.by_reward_model, self.reward_model(), names=self.names)
        base = self.base()
        how = scored.Sampling(self.options.samples, self.options.drawn, self.new, self.options.seed)
        return scored.Scorer(
            tokenizer=self.tokenizer,
            model=partial(self.bench.model, self.asked),
            start=None if self.start is None else partial(self.bench.model, self.start),
            base=None if base is None else partial(self.bench.model, base),
            how=how,
            template_kwargs=self.asked.template_kwargs,
            context=self.context,
            functions={n: f for n, f in self.functions.items() if n in self.names
                       or any(name.startswith("pass@") for name in self.names)},
            table=self.table,
        )  # fmt: skip

    def reward_model(self) -> Any:
        """The model itself, as a reward."""
        from modelforge.rewards.model import RewardModel

        return RewardModel.load(self.asked.said, max_length=self.context)

    def seen(self) -> list[dict[str, Any]]:
        """The rows that the model was trained on, by the runs that made it."""
        from modelforge.data.sources import Asked
        from modelforge.evaluation.seen import trained_on

        if not self.options.contamination:
            return []
        path = DatasetSource(path=self.options.data).path
        return trained_on(self.asked, self.items, Asked(path, columns=self.columns))

    def base(self) -> Named | None:
        """What the model began from, where that costs no loading: its adapter is switched."""
        asked = self.asked
        if asked.source.adapter is None or asked.start is None or "accuracy" not in self.names:
            return None
        try:
            found = named(asked.start)
        except UserError as error:  # it was moved since the run
            say(f"no accuracy of the base: {error.problems[0]}")
            return None
        return found if found.source.base == asked.source.base else None

    def baselines(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Free baselines of the accuracy: the base's, and taking an answer without reading it."""
        if "accuracy" not in self.table:
            return {}
        found = longer_and_first([item for item in self.items if len(item.sides) == 2])
        begun = [line["base_accuracy"] for line in lines if "base_accuracy" in line]
        return ({"the base": sum(begun) / len(begun)} if begun else {}) | found


def _context(asked: Named) -> int | None:
    """How many tokens the model reads; None where it does not tell."""
    from modelforge.models.providers.huggingface import HuggingFace

    shape = HuggingFace().load_model_config(asked.source).get_text_config()
    found: int | None = getattr(shape, "max_position_embeddings", None)
    return found


def _together(
    model: str,
    task: str,
    folder: Path,
    lines: Sequence[Mapping[str, Any]],
    table: Mapping[str, Metric],
    baselines: Mapping[str, float],
) -> Evaluation:
    """The figures over all rows."""
    from modelforge.evaluation.statistics import mean_interval

    found, intervals = {}, {}
    for name, metric in table.items():
        values, weights = values_of(lines, metric)
        mean, low, high = mean_interval(values, weights)
        found[name], intervals[name] = mean, (low, high)
    for name, (origin, _) in DERIVED.items():
        if origin in found:
            found[name] = _exp(found[origin])
            low, high = intervals[origin]
            intervals[name] = (_exp(low), _exp(high))
    return Evaluation(model, task, folder, found, intervals, lines, table, baselines)


def _seen(table: Mapping[str, Metric], lines: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
    """The measures, now that the scores are known.

    A reward that is 1 for a right answer and 0 for a wrong one is a share of them; without such a
    reward there is no pass@k.
    """
    scores: dict[str, set[float]] = {}
    for line in lines:
        for name, each in line.get("scores", {}).items():
            scores.setdefault(name, set()).update(each)
    right = {name for name, each in scores.items() if each <= {0.0, 1.0}} - {"safety_violations"}
    found = {n: replace(m, unit="share") if n in right else m for n, m in table.items()}
    if right - METRICS.keys():
        return found
    if any(name.startswith("pass@") for name in found):
        say("no pass@k: the reward gives other scores than 1 (right) and 0 (wrong)")
    return {name: metric for name, metric in found.items() if not name.startswith("pass@")}


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def values_of(
    lines: Sequence[Mapping[str, Any]], metric: Metric
) -> tuple[list[float], list[float] | None]:
    """A measure of each row that has it, and what these rows count; None where all count alike."""
    rows = [line for line in lines if line.get(metric.name) is not None]
    values = [float(line[metric.name]) for line in rows]
    return values, None if metric.weight is None else [float(r[metric.weight]) for r in rows]
