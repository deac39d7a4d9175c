"""Dynamic sampling: groups whose answers all score alike are drawn anew from other prompts.

Such a group has no advantage and teaches nothing. DAPO (Yu et al. 2025, arXiv:2503.14476, section
3.2) samples on until a batch is full of groups that teach. Here a rollout has some rounds for it,
and each draws as many groups as are still without a signal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: What of TRL's private parts `refilling` overrides, with the parameters it is called with.
HOOKS = {
    "_generate": ["prompts"],
    "_calculate_rewards": ["inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["inputs"],
}
#: Shares of a rollout's groups: those that were drawn anew and then had a signal.
METRIC = "dynamic_sampling/refilled"
EQUAL = 1e-8  # what rewards of a group differ by at most that are the same, as TRL counts them
#: Of what ``_generate`` returns: the completions, and their token ids, in every TRL of our bounds.
_COMPLETIONS, _IDS = 3, 1


def refilling(trainer_class: type[Any]) -> type[Any]:
    """A trainer class that learns from groups, made to draw silent ones anew in its ``rounds``."""
    return type(trainer_class.__name__, (Refilling, trainer_class), {})


class Refilling:
    """Mixed into a trainer of TRL, in front of it.

    Attributes:
        rounds: How often the silent groups of a rollout are drawn anew; 0: never.
    """

    rounds = 0
    args: Any
    accelerator: Any
    model: Any
    num_generations: int
    reward_weights: Any
    train_dataset: Any
    _metrics: Any
    _step: int

    _drawn: Any = None  # answers of a rollout and their rewards, which TRL is to take as they are

    def _generate(self, prompts: Any) -> Any:
        trainer: Any = super()
        return trainer._generate(prompts) if self._drawn is None else self._drawn[0]

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        trainer: Any = super()
        if self._drawn is not None:
            return self._drawn[1]
        return trainer._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        trainer: Any = super()
        if not self.rounds or not self.model.training:
            return trainer._generate_and_score_completions(inputs)
        rows, answers, scores, refilled = self._filled(list(inputs))
        self._drawn = answers, scores
        try:
            found = trainer._generate_and_score_completions(rows)
        finally:
            self._drawn = None
        self._metrics["train"][METRIC].append(refilled)
        return found

    def _filled(self, rows: list[Any]) -> tuple[list[Any], Sequence[Any], Tensor, float]:
        """Rows of a rollout, their answers and the rewards (N, F) of all processes' rows."""
        answers, scores = self._answered(rows)
        silent = self._silent(scores)
        first = float(silent.float().mean())
        with self._counted_once():
            for turn in range(self.rounds):
                # Each process fills its own groups, and all draw as many as the neediest does.
                wanted = int(silent.sum(1).max())
                if not wanted:
                    break
                others = self._others(wanted, turn)
                theirs, their_scores = self._answered(others)
                places, scores = self._exchanged(silent, scores, their_scores)
                rows = _picked(rows, others, places)
                answers = [_picked(a, b, places) for a, b in zip(answers, theirs, strict=True)]
                silent = self._silent(scores)
        return rows, answers, scores, first - float(silent.float().mean())

    def _answered(self, rows: list[Any]) -> tuple[Sequence[Any], Tensor]:
        prompts = [row["prompt"] for row in rows]
        answers = self._generate(prompts)
        scores = self._calculate_rewards(rows, prompts, answers[_COMPLETIONS], answers[_IDS])
        return answers, scores

    def _silent(self, scores: Tensor) -> Tensor:
        """Which groups have no signal, (processes, groups of each)."""
        rewards = (scores * self.reward_weights.to(scores.device)).nansum(1)
        rewards[scores.isnan().all(1)] = torch.nan
        groups = rewards.view(self.accelerator.num_processes, -1, self.num_generations)
        unscored = groups.isnan()  # a group with one score or none compares nothing
        low = groups.masked_fill(unscored, torch.inf).amin(2)
        high = groups.masked_fill(unscored, -torch.inf).amax(2)
        return ~(high - low > EQUAL)

    def _others(self, groups: int, turn: int) -> list[Any]:
        """Rows of other prompts, by seed, step and process alone: a resumed run draws the same."""
        begun = [self.args.seed, self._step, turn, self.accelerator.process_index]
        places = np.random.default_rng(begun).choice(
            len(self.train_dataset), groups, replace=groups > len(self.train_dataset)
        )
        return [self.train_dataset[int(i)] for i in places for _ in range(self.num_generations)]

    def _exchanged(
        self, silent: Tensor, scores: Tensor, theirs: Tensor
    ) -> tuple[dict[int, int], Tensor]:
        """Which rows of this process are replaced by which, and the scores of all rows then."""
        size, scores = self.num_generations, scores.clone()
        ours, drawn = (len(s) // self.accelerator.num_processes for s in (scores, theirs))
        places: dict[int, int] = {}
        for process, (old, new) in enumerate(zip(silent, ~self._silent(theirs), strict=True)):
            pairs = zip(old.nonzero()[:, 0].tolist(), new.nonzero()[:, 0].tolist(), strict=False)
            for into, of in pairs:
                for i in range(size):
                    at, by = into * size + i, of * size + i
                    scores[process * ours + at] = theirs[process * drawn + by]
                    if process == self.accelerator.process_index:
                        places[at] = by
        return places, scores

    @contextmanager
    def _counted_once(self) -> Iterator[None]:
        """Within it, what TRL logs of answers is not kept: they may be drawn for nothing."""
        log = self._metrics["train"]
        kept = {key: list(values) for key, values in log.items() if key != "num_tokens"}
        yield
        for key in log.keys() - {"num_tokens"}:
            log[key] = kept.get(key, [])


def _picked(first: Any, second: Any, places: Mapping[int, int]) -> Any:
    """The first's values, at some places those of the second: lists, or dicts of lists, or None."""
    if isinstance(first, dict):
        return {key: _picked(first[key], second[key], places) for key in first}
    if not isinstance(first, list) or not isinstance(second, list):
        return first
    return [second[places[i]] if i in places else value for i, value in enumerate(first)]
