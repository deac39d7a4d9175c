"""On-policy distillation: a student answers, and learns what a teacher would say at each token."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from modelforge.common.paths import IsPath
from modelforge.config import Choice, Config
from modelforge.errors import ConfigError, Problem
from modelforge.strategies.sampled import Sampled, SampledSettings
from modelforge.strategy import STAND_IN_WORD, LongestBatch, Measure, Parts

if TYPE_CHECKING:
    from datasets import Dataset


class DistillSettings(SampledSettings):
    """What distillation adds to ModelForge's keys."""

    teacher_model: Annotated[
        str,
        IsPath(True, "teacher"),
        Field(description="The teacher: a model folder, run folder or hub id.", min_length=1),
    ]
    teacher_use_4bit: Annotated[
        bool | None,
        Field(description="Whether the teacher is loaded in 4-bit; null follows use_4bit."),
    ] = None


class Distill(Sampled):
    """On-policy distillation (Agarwal et al. 2024): the divergence from a teacher at each token.

    Prompts alone are needed. The teacher stands beside the student, frozen.
    """

    name = "distill"
    summary = "on-policy distillation: a student learns from a larger teacher (LoRA)"
    settings = DistillSettings
    defaults = {
        "learning_rate": (1e-4, "a judgement: each token is supervised, as in sft, but softly"),
        "num_train_epochs": (1, "each pass brings new answers to the same prompts"),
        "warmup_ratio": (0.03, "a short warm-up steadies the first steps"),
        "beta": (1.0, "reverse KL, as in TRL: the student commits to what the teacher likes"),
    }
    measure = Measure("eval_loss", "held-out divergence from the teacher", higher_is_better=False)
    unsloth = (False, "its trainers do not include it")
    ignored = {
        "data_seed": "set seed",
        "label_smoothing_factor": "remove it: there are no labels to smooth",
        "length_column_name": "remove it: prompts come in a random order",
        "train_sampling_strategy": "remove it, or set shuffle_dataset",
    }

    @classmethod
    def trl_config_class(cls) -> type:
        return _of_trl("DistillationConfig")

    @classmethod
    def trl_trainer_class(cls) -> type:
        from modelforge.rewards.prompts import carrying

        trainer = carrying(_of_trl("DistillationTrainer"))
        # An evaluation answers each prompt once, and nothing rewards an answer.
        own = {"num_generations_eval": 1, "_scores": {}}
        return type("DistillationTrainer", (trainer,), own)

    def check_data(self, config: Config, rows: Dataset) -> Mapping[str, Choice]:
        """See that the teacher is there and speaks of the same tokens."""
        from modelforge.models.teacher import refuse_other_vocabulary

        for key in ("add_tokens", "add_special_tokens"):
            if config.get(key):
                what = "gives the student words that its teacher does not know"
                raise ConfigError(Problem(f"{config.name}: {key}", what, "remove it"))
        refuse_other_vocabulary(config, self._teacher(config))
        return {}

    def figures(self, config: Config) -> Collection[str]:
        lengths = [
            f"{which}_{of}length" for which in ("mean", "min", "max") for of in ("", "terminated_")
        ]
        names = (f"completions/{name}" for name in (*lengths, "clipped_ratio"))
        return ("loss", "entropy", *names)

    def trainer_arguments(self, parts: Parts) -> dict[str, Any]:
        from modelforge.models.teacher import load_teacher

        teacher = load_teacher(
            self._teacher(parts.config),
            parts.config,
            rows=_rows(parts),
            device=parts.args.device,
            use_4bit=in_4bit(parts.config),
        )
        return {"teacher_model": teacher}

    def stand_ins(self, parts: Parts) -> dict[str, Any]:
        from modelforge.models.teacher import teacher_without_weights

        return {"teacher_model": teacher_without_weights(self._teacher(parts.config), _rows(parts))}

    def longest_batch(self, config: Config, args: Any) -> LongestBatch:
        """The answers of one step, scored by the teacher beside."""
        assert isinstance(config.settings, DistillSettings)
        new = args.max_completion_length
        prompt = max(1, config.settings.max_seq_length - new)
        sequences = args.per_device_train_batch_size * args.gradient_accumulation_steps
        return LongestBatch(
            [{"prompt": " ".join([STAND_IN_WORD] * prompt)}] * sequences,
            tokens=args.per_device_train_batch_size * (prompt + new),
            supervised=new / (prompt + new - 1),
            rollout=(sequences, prompt, new),
            teacher=(config.settings.teacher_model, in_4bit(config)),
        )

    def _teacher(self, config: Config) -> Any:
        from modelforge.models.teacher import find_teacher

        assert isinstance(config.settings, DistillSettings)
        return find_teacher(config.settings.teacher_model, config.base_dir)


def in_4bit(config: Config) -> bool:
    """Whether the teacher is loaded in 4-bit: as said, or as the student."""
    said = config.get("teacher_use_4bit")
    return config.settings.use_4bit if said is None else said


def _rows(parts: Parts) -> int:
    return parts.model.config.get_text_config().vocab_size


def _of_trl(name: str) -> Any:
    """A class of TRL's stable ones.

    Raises:
        ConfigError: If the installed TRL lacks it.
    """
    import trl

    found = getattr(trl, name, None)
    if found is None:
        what = f"needs {name}, which TRL {trl.__version__} does not have"
        raise ConfigError(Problem("strategy: distill", what, 'pip install "trl>=1.16,<1.17"'))
    return found
