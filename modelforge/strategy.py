"""The base class of a strategy: the hooks that one file in ``strategies/`` fills.

A strategy maps a validated config onto one TRL trainer. It imports TRL only inside its methods, so
that listing strategies and checking a config stay fast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from modelforge.common.console import warn
from modelforge.config import Choice, Config, Settings
from modelforge.errors import ConfigError, Problem
from modelforge.machine.launch import of_all_processes
from modelforge.machine.precision import train_in_float32

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from modelforge.data import Data, DataKind, LongRows


@dataclass
class Parts:
    """What a trainer is built from.

    Attributes:
        config: With every value filled in.
        model: As the provider loaded it.
        tokenizer: With its chat template and pad token set.
        peft_config: The adapter TRL is to add; None where all weights are trained or the
            provider has attached the adapter already.
        data: Train and evaluation rows in normal form.
        args: The TRL config object.
        run_dir: The run's folder.
    """

    config: Config
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    peft_config: Any
    data: Data
    args: Any
    run_dir: Path


@dataclass(frozen=True)
class Measure:
    """The held-out figure a strategy is judged by.

    Attributes:
        key: Name in the metrics of ``Trainer.evaluate``.
        label: Name for a reader.
        higher_is_better: Which way is up.
        chance: What guessing gets, where the figure is a share of rows that are right; else None.
    """

    key: str
    label: str
    higher_is_better: bool
    chance: float | None = None


#: The one word, and its id, that the plan's tokenizer knows: what rows of a `LongestBatch` hold.
STAND_IN_WORD, STAND_IN_ID = "a", 2
# With these a row comes out of a batch otherwise than alone, by more than the noise of 32 bits.
_ROUNDS = ("bf16", "fp16", "tf32", "use_8bit", "torch_compile")


@dataclass(frozen=True)
class LongestBatch:
    """One micro-batch at the full length, for the plan: it needs the most memory of all.

    Rows are plain lists of `STAND_IN_ID`, or texts of `STAND_IN_WORD`.

    Attributes:
        rows: The micro-batch as the trainer's collator takes it; for a trainer that generates, the
            prompts of one rollout.
        tokens: Tokens of the micro-batch.
        dataset: What the trainer is built from, where that is not ``rows`` themselves.
        supervised: Share of the positions whose next token the loss is computed on.
        padded: Whether rows of a batch may differ in length, or hold several documents: then
            attention takes a mask.
        rollout: Sequences, prompt tokens and new tokens of one generation; None without one. The
            trainer then takes ``reward_funcs``.
        scored_by: Reward models that score a rollout: folders or hub ids; empty for one that is
            yet to be trained on the policy's base.
        teacher: The model that the trainer takes as ``teacher_model``, a folder or hub id, and
            whether it is in 4-bit; None without one. Then nothing scores a rollout.
        reference: Whether the trainer takes a frozen second model as ``ref_model``.
    """

    rows: list[dict[str, Any]]
    tokens: int
    dataset: list[dict[str, Any]] | None = None
    supervised: float = 1.0
    padded: bool = True
    rollout: tuple[int, int, int] | None = None
    scored_by: tuple[str, ...] = ()
    teacher: tuple[str, bool] | None = None
    reference: bool = False


class Strategy(ABC):
    """One way to train. Subclass it, set the class variables, fill the hooks.

    Class variables:
        name: What the config calls it.
        summary: One line for lists and the schema.
        data_kind: Which rows it trains on.
        head: ``causal-lm``, or ``reward`` for one score a sequence.
        settings: Its ModelForge keys.
        defaults: Key → (value, reason), for ModelForge's and TRL's keys alike.
        measure: Its held-out figure.
        batch_rows: Rows that an optimiser step learns from, over all cards.
        ranks: The LoRA rank for few trained tokens, and the highest one, for many.
        generates: Whether its trainer samples answers. Then a training step takes the rows of a
            whole rollout as they are, and not a micro-batch from the collator.
        padding_free: Whether TRL's config has ``padding_free``, with the same loss.
        unsloth: Whether its trainer can run on Unsloth, and how or why not.
        may_drop_out: Whether dropout may stay on in training where its TRL config turns it off.
        ignored: Keys of its TRL config that change nothing here → what to do instead; refused.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    data_kind: ClassVar[DataKind]
    head: ClassVar[Literal["causal-lm", "reward"]] = "causal-lm"
    settings: ClassVar[type[Settings]] = Settings
    defaults: ClassVar[Mapping[str, tuple[Any, str]]] = {}
    measure: ClassVar[Measure]
    batch_rows: ClassVar[tuple[int, str]] = (16, "the batch that our learning rates are for")
    ranks: ClassVar[tuple[int, int]] = (16, 16)
    generates: ClassVar[bool] = False
    padding_free: ClassVar[bool] = False
    unsloth: ClassVar[tuple[bool, str]] = (False, "its class does not say that it can")
    may_drop_out: ClassVar[bool] = True
    ignored: ClassVar[Mapping[str, str]] = {}

    def stages(self, config: Config) -> Sequence[str]:
        """The strategies that run one after the other in place of this one; usually none."""
        return ()

    @classmethod
    @abstractmethod
    def trl_config_class(cls) -> type:
        """The TRL config class whose fields this strategy passes on."""

    @classmethod
    @abstractmethod
    def trl_trainer_class(cls) -> type[Any]:
        """The TRL trainer class."""

    def check(self, config: Config) -> Iterable[Problem]:
        """Problems of the config that only this strategy knows; imports no ML library."""
        if config.get("truncation_mode") == "keep_end":
            # Deprecated in TRL 1.14 and gone in 2.0. It cuts BOS, system message and question off.
            what = "is keep_end, and rows are judged and shown as they are cut at their end"
            fix = "leave it out; raise max_seq_length for long rows"
            yield Problem(f"{config.name}: truncation_mode", what, fix)

    def learning_rate(self, model_type: str, weights: float) -> tuple[float, str] | None:
        """LoRA's rate for a model, and why; None leaves it to TRL.

        A ``learning_rate`` among `defaults` holds for every model, and comes before this.

        Args:
            model_type: The model's family, as in its config.json.
            weights: How many it has; 0 where that is unknown.
        """
        return None

    def answer_tokens(self, config: Config, *, thinks: bool) -> tuple[int, str]:
        """The longest answer that its trainer samples by default, in tokens, and why; 0 for none.

        Args:
            config: With the defaults filled in so far.
            thinks: Whether the model thinks before it answers, by its chat template.
        """
        return 0, "nothing is sampled"

    def group(self, config: Config) -> int:
        """Answers to one prompt, which no rollout may divide; 1 where rows stand alone."""
        return 1

    def rows_per_step(self, config: Config) -> tuple[int, str]:
        """Rows (or answers) that an optimiser step learns from, over all cards, and why."""
        return self.batch_rows

    def rollout(self, config: Config, prompts: int | None) -> Mapping[str, Choice]:
        """What a rollout is made of, where the user left that open; usually nothing.

        Args:
            config: With the rows of a step.
            prompts: How many there are to train on; None where the data are not read.
        """
        return {}

    def derived_defaults(self, config: Config) -> Mapping[str, Choice]:
        """Values that follow from others, where the user left them open."""
        key = "per_device_eval_batch_size"
        rounded = next((k for k in _ROUNDS if config.get(k)), None)
        if rounded is None:
            if config.given(key):
                return {}
            why = "as the training batch; held-out figures are each row's, whatever their batch"
            return {key: Choice(config.micro_batch, "default", why)}
        why = f"one by one: with {rounded}, a figure would depend on the batch"
        if config.given(key) and config.get(key) != 1:
            warn(f"{key} {config.get(key)} is not used: held-out rows are measured {why}")
        return {key: Choice(1, "default", why)}

    def uses_reference(self, config: Config) -> bool:
        """Whether it compares with the model as it began, which is the base, its adapter off."""
        return False

    def least_micro_batch(self, config: Config) -> int:
        """The fewest rows of a forward pass that its loss is right for."""
        return 1

    def check_data(self, config: Config, rows: Dataset) -> Mapping[str, Choice]:
        """Defaults that depend on the training rows, which are in normal form.

        Raises:
            ConfigError: If this strategy cannot train on data with these columns.
        """
        return {}

    def try_out(self, config: Config, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
        """Try on the first training rows what needs no model, when all values are filled in.

        Raises:
            ConfigError: If it fails on them.
        """
        return

    def arguments(self, config: Config) -> dict[str, Any]:
        """ModelForge's keys in the words of the TRL config class, over what `build_args` sets."""
        return {}

    def max_row_tokens(self, config: Config) -> int:
        """The longest row that can be trained on, in tokens."""
        return config.settings.max_seq_length

    def long_rows(self, config: Config, *, held_out: bool = False) -> LongRows:
        """What becomes of rows longer than `max_row_tokens`: ``cut``, ``drop`` or ``split``.

        Args:
            config: With every value filled in.
            held_out: Whether this is about the held-out rows.
        """
        return "drop" if self.head == "reward" else "cut"

    def figures(self, config: Config) -> Collection[str]:
        """What its evaluation measures, with or without ``eval_``; empty where only that can tell.

        A strategy whose trainer measures more than the loss and its `measure` names it here.

        Args:
            config: With the rewards filled in.
        """
        return ("loss", self.measure.key)

    def planned(self, config: Config, *, adapted: bool) -> tuple[Strategy, Config]:
        """The strategy whose trainer and arguments are planned, and its config.

        A staged strategy names the stage that needs the most memory.

        Args:
            config: With every value filled in.
            adapted: Whether the model to train is an adapter that is trained further.
        """
        return self, config

    def longest_batch(self, config: Config, args: Any) -> LongestBatch | None:
        """The micro-batch that needs the most memory; None leaves the run without a plan.

        Args:
            config: With every value filled in.
            args: The TRL config object, of the plan alone: the hook may set in it what keeps the
                trainer from taking the rows as they are.
        """
        return None

    def datasets(self, parts: Parts) -> tuple[Dataset, Dataset | None]:
        """The train and evaluation sets in the form the TRL trainer takes."""
        return parts.data.train, parts.data.eval

    def tokenised(self, parts: Parts) -> Any:
        """The sets in the tokens that were checked and shown; nothing encodes them again."""
        longest = parts.config.settings.max_seq_length
        train, evaluation = (
            None if self.long_rows(parts.config, held_out=held_out) == "split" else longest
            for held_out in (False, True)
        )
        return parts.data.tokenised(train_length=train, eval_length=evaluation)

    def trainer_arguments(self, parts: Parts) -> dict[str, Any]:
        """Keyword arguments for the trainer beyond those that all of TRL's share."""
        return {}

    def stand_ins(self, parts: Parts) -> dict[str, Any]:
        """As `trainer_arguments`: what stands in for what `build_trainer` loads and adds."""
        return {}

    def build_args(self, config: Config, *, output_dir: Path, device: Mapping[str, Any]) -> Any:
        """The TRL config object; needs no model.

        Args:
            config: With every value filled in.
            output_dir: Where checkpoints go.
            device: Fields that the machine decides (``use_cpu``, ``bf16``, …).

        Raises:
            ConfigError: If the installed TRL refuses a value or lacks a field.
        """
        settings = config.settings
        values: dict[str, Any] = {
            **config.trl,
            "output_dir": str(output_dir),
            "seed": settings.seed,
            "report_to": settings.report_to,
            "disable_tqdm": True,
            **device,
            **self.arguments(config),
        }
        if settings.warmup_ratio:
            # transformers 5 reads a number of warm-up steps below 1 as a share of the run.
            values["warmup_steps"] = settings.warmup_ratio
        config_class = of_all_processes(self.trl_config_class(), config)
        known = set(config_class.__dataclass_fields__)
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                *(
                    Problem(f"{config.name}: {key}", "is unknown to the installed TRL", "remove it")
                    for key in unknown
                )
            )
        try:
            return config_class(**values)
        except (ValueError, TypeError, ImportError, OSError) as error:
            message = " ".join(str(error).split())
            fix = _not_the_users(message, config)
            raise ConfigError(Problem(config.name, f"TRL refuses it: {message}", fix)) from None

    def build_trainer(self, parts: Parts, *, callbacks: list[Any], **arguments: Any) -> Trainer:
        """TRL's trainer, ready to train.

        Args:
            arguments: For the trainer, besides those of `trainer_arguments`.
        """
        from modelforge.checkpointing.resumable import resumable
        from modelforge.measuring.trainers import by_row

        trainer_class = by_row(resumable(self.trl_trainer_class()))
        trainer = trainer_class(callbacks=callbacks, **self.all_arguments(parts), **arguments)
        if getattr(parts.args, "disable_dropout", False):
            for module in trainer.model.modules():  # TRL turns off what is a module of its own
                if isinstance(getattr(module, "attention_dropout", None), float):
                    module.attention_dropout = 0.0
        train_in_float32(trainer.model)
        return trainer

    def all_arguments(self, parts: Parts) -> dict[str, Any]:
        """What TRL's trainer is made with: the parts, and `trainer_arguments`."""
        train, evaluation = self.datasets(parts)
        return {
            "model": parts.model,
            "args": parts.args,
            "train_dataset": train,
            "eval_dataset": evaluation,
            "processing_class": parts.tokenizer,
            "peft_config": parts.peft_config,
            **self.trainer_arguments(parts),
        }


def _not_the_users(message: str, config: Config) -> str:
    """Where the values come from that a message of TRL's names and the user never wrote."""
    named = {word.strip("`'\"().,:-") for word in message.replace("=", " ").split()}
    return "; ".join(
        f"{key} {choice.value} is not yours but chosen ({choice.reason}): set it too"
        for key, choice in config.choices.items()
        if key in named and not config.given(key)
    )
