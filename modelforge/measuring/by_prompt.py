"""Evaluation prompt by prompt, for a trainer that generates: a prompt with its answers is a row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from accelerate import PartialState

from modelforge.measuring.by_row import ByRow
from modelforge.measuring.greedy import GREEDY, likeliest
from modelforge.measuring.rows import HeldOutRow
from modelforge.measuring.sampling import draws_of, sampled_with

#: What of TRL's private parts `ByPrompt` overrides or calls, with the parameters.
HOOKS = {
    "_generate_single_turn": ["prompt_ids", "images", "multimodal_fields"],
    "_calculate_rewards": ["inputs", "prompts", "completions", "completion_ids_list"],
    "_tokenize_prompts": ["prompts"],
}


class _Scored(Exception):
    """Answers have their rewards, and the passes for their loss are not made."""


class ByPrompt(ByRow):
    """`ByRow` for a trainer that generates: a row is a prompt with all of its answers.

    Answers are generated as many at once as the evaluation batch has, which need not be whole
    prompts. What is drawn for an answer depends on the seed, the prompt and its number alone.
    """

    num_generations_eval: Any
    reward_func_names: Any
    reward_weights: Any
    _tokenize_prompts: Any
    use_transformers_continuous_batching = False  # of a trainer that knows it not
    _asked: list[Any] | None = None  # the prompts of the batch that is evaluated
    _answers: Any = None
    _begin = 0
    _scores: dict[str, list[float]]
    _scores_alone = False  # nothing is asked of an answer but its rewards

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As ever: its rows are prompts, which are collated when they are answered."""
        with self._no_row_dropped():
            return super(ByRow, self).get_eval_dataloader(eval_dataset)

    def _order(self, dataset: Any) -> list[int]:
        """As in the data, each prompt once; TRL would shuffle anew at each evaluation."""
        return list(range(len(dataset)))

    def prediction_step(
        self,
        model: Any,
        inputs: Any,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Evaluate each prompt of the batch by itself."""
        found, rows = self._each(model, inputs, prediction_loss_only)
        self._batches.append(rows)
        return found

    def _each(self, model: Any, inputs: Any, prediction_loss_only: bool) -> tuple[Any, Any]:
        size = self.num_generations_eval
        self._asked = [row["prompt"] for row in inputs for _ in range(size)]
        # It would draw by the order in which answers end, and leave the model in training.
        continuous = self.use_transformers_continuous_batching
        self.use_transformers_continuous_batching = False
        rows = []
        try:
            for i, row in enumerate(inputs):
                self._begin, group = i * size, [row] * size
                found, alone = self._measured(model, group, 1.0, prediction_loss_only)
                rows.append(replace(alone, scores=self._scores))
        finally:
            self._asked = self._answers = None
            self.use_transformers_continuous_batching = continuous
        return found, rows

    def _greedy(self, dataset: Any) -> list[float]:
        """Each process answers all of them: they are few. A teacher's student has no rewards."""
        if not hasattr(self, "reward_func_names"):
            return []
        rows = [dataset[i] for i in range(min(len(dataset), GREEDY))]
        size = self.args.per_device_eval_batch_size
        found: list[float] = []
        self._scores_alone = True
        try:
            with likeliest(self):
                for begin in range(0, len(rows), size):
                    _, answered = self._each(self.model, rows[begin : begin + size], True)
                    found += [row.scores["reward"][0] for row in answered]
        finally:
            self._scores_alone = False
        return found

    def _measured(
        self, model: Any, inputs: Any, weight: float, prediction_loss_only: bool
    ) -> tuple[tuple[Any, Any, Any], HeldOutRow]:
        try:
            return super()._measured(model, inputs, weight, prediction_loss_only)
        except _Scored:
            self._eval_metrics().clear()
            return (None, None, None), HeldOutRow(weight, {})

    def _generate_single_turn(self, prompt_ids: Any, *more: Any, **other: Any) -> Any:
        trainer: Any = super()
        if self._asked is None:
            return trainer._generate_single_turn(prompt_ids, *more, **other)
        if getattr(self, "tools", None) or getattr(self, "environments", None):
            # What a tool gave, or an environment said as it began, is one prompt's alone.
            draws = draws_of(
                prompt_ids,
                seed=self.args.seed,
                group=len(prompt_ids),
                length=self.args.max_completion_length,
            )
            with sampled_with(self.accelerator.unwrap_model(self.model), draws):
                return trainer._generate_single_turn(prompt_ids, *more, **other)
        if self._answers is None:
            self._answers = self._answers_to(self._asked, *more[2:], **other)
        part = slice(self._begin, self._begin + len(prompt_ids))
        if isinstance(self._answers, tuple):  # ids, and their log probabilities where vLLM has them
            return tuple(None if values is None else values[part] for values in self._answers)
        return self._answers[part]

    def _answers_to(self, prompts: list[Any], *more: Any, **other: Any) -> Any:
        """Of a batch's prompts, in the form in which TRL generates them."""
        trainer: Any = super()
        ids, images, fields = self._tokenize_prompts(prompts)
        draws = draws_of(
            ids,
            seed=self.args.seed,
            group=self.num_generations_eval,
            length=self.args.max_completion_length,
        )
        # vLLM batches by itself, and takes the prompts with all of their answers.
        whole = self.args.use_vllm or images is not None
        size = len(ids) if whole else self.args.per_device_eval_batch_size
        parts = []
        for begin in range(0, len(ids), size):
            part = slice(begin, begin + size)
            with sampled_with(self.accelerator.unwrap_model(self.model), draws[part]):
                parts.append(
                    trainer._generate_single_turn(ids[part], images, fields, *more, **other)
                )
        if not isinstance(parts[0], tuple):
            return [answer for part in parts for answer in part]
        columns = zip(*parts, strict=True)
        return tuple(None if c[0] is None else [a for each in c for a in each] for c in columns)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        trainer: Any = super()
        scores = trainer._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self._asked is None:
            return scores
        # TRL gathers them from all processes, past the accelerator.
        begin = PartialState().process_index * len(prompts)
        scores = scores[begin : begin + len(prompts)]
        weights = self.reward_weights.to(scores.device)
        reward = (scores * weights).nansum(1)
        reward[(scores.isnan() | (weights == 0)).all(1)] = torch.nan
        named = zip(self.reward_func_names, scores.T.tolist(), strict=True)
        self._scores = {"reward": reward.tolist(), **dict(named)}
        if self._scores_alone:
            raise _Scored
        return scores
