"""Learning from answers that are labelled good or bad, one by one: no pairs are needed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from modelforge.config import Choice, Config
from modelforge.errors import ConfigError, Problem
from modelforge.models.rates import PAIR_RATES
from modelforge.strategy import STAND_IN_ID, LongestBatch, Measure, Parts, Strategy

if TYPE_CHECKING:
    from datasets import Dataset

_MICRO = "per_device_train_batch_size"
_GOOD, _BAD = "desirable_weight", "undesirable_weight"


class KTO(Strategy):
    """KTO (Ethayarajh et al. 2024); the reference is the model with the adapter off.

    The KL term is estimated in each micro-batch, from answers beside prompts of other rows. TRL
    makes these once, so that the order of the rows is fixed: they are shuffled by the seed here.
    """

    name = "kto"
    summary = "learning from answers labelled good or bad, without pairs (LoRA)"
    data_kind = "labelled"
    defaults = {
        "num_train_epochs": (1, "the paper trains one pass"),
        "warmup_ratio": (0.1, "usual for DPO, whose setting KTO shares"),
        "beta": (0.1, "the paper's trade between labels and closeness to the start"),
    }
    measure = Measure(
        "eval_rewards/accuracies",
        "held-out answers moved the right way",
        higher_is_better=True,
        chance=0.5,
    )
    ignored = {
        "label_smoothing_factor": "remove it: there are no labels to smooth",
        "data_seed": "set seed",
        "dataset_num_proc": "remove it: the rows are tokenised when they are read",
    }
    unsloth = (False, "its KTOTrainer is not tried here")

    @classmethod
    def trl_config_class(cls) -> type:
        from trl import KTOConfig

        return KTOConfig

    @classmethod
    def trl_trainer_class(cls) -> type:
        import trl

        class KTOTrainer(trl.KTOTrainer):
            """TRL's, which takes rows that are tokenised already as they are."""

            def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
                if "prompt_ids" in (dataset.column_names or ()):
                    return dataset
                return super()._prepare_dataset(dataset, *args, **kwargs)

        return KTOTrainer

    def learning_rate(self, model_type: str, weights: float) -> tuple[float, str]:
        return PAIR_RATES.rate(weights)

    def check(self, config: Config) -> Iterable[Problem]:
        yield from super().check(config)
        least, sampling = self.least_micro_batch(config), "train_sampling_strategy"
        if config.given(_MICRO) and config.micro_batch < least:
            what = "is 1: the KL term is estimated from the other rows of a micro-batch"
            fix = "set 2 or more, or loss_type apo_zero_unpaired, which has no KL term"
            yield Problem(f"{config.name}: {_MICRO}", what, fix)
        if least > 1 and config.get(sampling) not in (None, "sequential"):
            what = "must be sequential: each row's KL term is made from its neighbours"
            fix = "remove it; the rows are shuffled once, by the seed"
            yield Problem(f"{config.name}: {sampling}", what, fix)

    def uses_reference(self, config: Config) -> bool:
        return True

    def least_micro_batch(self, config: Config) -> int:
        return 1 if config.get("loss_type") == "apo_zero_unpaired" else 2

    def check_data(self, config: Config, rows: Dataset) -> Mapping[str, Choice]:
        """The weights that make both labels count alike."""
        good = sum(rows["label"])
        bad = len(rows) - good
        if not good or not bad:
            what = f"all {len(rows)} training answers are labelled {'good' if good else 'bad'}"
            fix = "add rows with the other label" + ("; or train with sft" if good else "")
            raise ConfigError(Problem(f"{config.name}: dataset", what, fix))
        choices: dict[str, Choice] = {}
        if not config.given(_GOOD) and not config.given(_BAD) and good != bad:
            few, many = sorted((good, bad))
            why = f"{good} good and {bad} bad answers: both labels count alike (the paper's eq. 8)"
            weight = Choice(round(many / few, 4), "data", why)
            choices[_GOOD if good < bad else _BAD] = weight
        return choices

    def arguments(self, config: Config) -> dict[str, Any]:
        return {"max_length": config.settings.max_seq_length}

    def datasets(self, parts: Parts) -> Any:
        """The training rows in their order for good, each with the answer of another one."""
        train, evaluation = parts.data.tokenised(train_length=None, eval_length=None)
        train = train.shuffle(seed=parts.config.settings.seed)
        if self.least_micro_batch(parts.config) == 1:
            return train, evaluation
        train = with_others(train, parts.args.per_device_train_batch_size)
        if evaluation is not None:
            evaluation = with_others(evaluation, len(evaluation))
        return train, evaluation

    def figures(self, config: Config) -> Collection[str]:
        kinds = ("chosen", "rejected")
        sides = [f"{name}/{side}" for name in ("rewards", "logps", "logits") for side in kinds]
        rewards = ("rewards/accuracies", "rewards/margins")
        return ("loss", *rewards, *sides, "kl", "entropy", "aux_loss")

    def longest_batch(self, config: Config, args: Any) -> LongestBatch:
        """Rows of the full length, each scored a second time with the answer of another one."""
        count, length = args.per_device_train_batch_size, config.settings.max_seq_length
        answer = [STAND_IN_ID] * (length - 1)
        row: dict[str, Any] = {"prompt_ids": [STAND_IN_ID], "completion_ids": answer}
        kl = self.least_micro_batch(config) > 1
        if kl:
            row["KL_completion_ids"] = answer
        if args.precompute_ref_log_probs:
            row |= {"ref_logps": 0.0} | ({"ref_KL_logps": 0.0} if kl else {})
        return LongestBatch(
            [{**row, "label": i % 2 == 0} for i in range(count)],
            tokens=(1 + kl) * count * length,
            reference=config.settings.lora_r == 0 and not args.precompute_ref_log_probs,
        )


def with_others(rows: Dataset, batch: int) -> Dataset:
    """Each row with the answer of the row before it in its batch, as TRL pairs them.

    A last batch of one row takes the answer before it: with its own, the KL term would be the
    row's implied reward, and its loss a constant.
    """
    answers = rows.with_format("arrow")["completion_ids"].combine_chunks()
    count = len(rows)
    before = [i - 1 if i % batch else min(i + batch, count) - 1 for i in range(count)]
    if count > 1 and count % batch == 1:
        before[-1] = count - 2
    column: Any = answers.take(before)
    return rows.add_column("KL_completion_ids", column)
