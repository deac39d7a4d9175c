"""The config as a run sees it: typed keys, and the source and reason of every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A typed part of the config: unknown keys refused, immutable, every field documented."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


# Those transformers reports to. "all" is left out: it takes whatever happens to be installed.
Tracker = Literal[
    "azure_ml",
    "clearml",
    "codecarbon",
    "comet_ml",
    "dagshub",
    "dvclive",
    "flyte",
    "mlflow",
    "neptune",
    "swanlab",
    "tensorboard",
    "trackio",
    "wandb",
]


class DatasetSource(Section):
    """One of several data sets mixed into one."""

    path: Annotated[str, Field(description="File, folder or hub id.", min_length=1)]
    split: Annotated[str | None, Field(description="Split of a hub data set.")] = None
    name: Annotated[str | None, Field(description="Configuration of a hub data set.")] = None
    weight: Annotated[
        Annotated[float, Field(gt=0)] | None, Field(description="Share of the mix; all or none.")
    ] = None


Dataset = Annotated[str, Field(min_length=1)] | Annotated[list[DatasetSource], Field(min_length=1)]


class Generation(Section):
    """How completions are sampled while training (grpo, rlhf)."""

    max_new_tokens: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(description="Longest completion, in tokens; by default half of max_seq_length."),
    ] = None
    temperature: Annotated[float, Field(description="Sampling temperature.", gt=0)] = 1.0
    top_k: Annotated[int, Field(description="Keep the k likeliest tokens; 0 keeps all.", ge=0)] = 0
    top_p: Annotated[float, Field(description="Nucleus sampling mass.", gt=0, le=1)] = 1.0


class RewardEntry(Section):
    """A reward: a built-in name, ``file.py:function``, or a reward model's folder or hub id."""

    name: Annotated[str, Field(description="Name, file.py:function, folder or hub id.")]
    weight: Annotated[float, Field(description="Weight in the sum of rewards.")] = 1.0
    arguments: Annotated[dict[str, Any], Field(description="Its keyword arguments.")] = Field(
        default_factory=dict
    )


Rewards = Annotated[list[Annotated[str, Field(min_length=1)] | RewardEntry], Field(min_length=1)]


class Distributed(Section):
    """Several processes that train together, one a card."""

    backend: Annotated[
        Literal["ddp", "fsdp", "zero2", "zero3"],
        Field(
            description="ddp: each card holds all; zero2: DeepSpeed shards optimiser and "
            "gradients; zero3 and fsdp: the weights too."
        ),
    ] = "ddp"
    config: Annotated[
        str | None,
        Field(description="DeepSpeed's or FSDP's own JSON file, in place of ours.", min_length=1),
    ] = None
    num_processes: Annotated[
        int, Field(description="Processes in all; --num-processes says it too.", ge=1)
    ] = 1
    num_machines: Annotated[int, Field(description="Machines they are on.", ge=1)] = 1
    machine_rank: Annotated[int, Field(description="Which of them this one is.", ge=0)] = 0
    main_address: Annotated[
        str | None, Field(description="Address of machine 0, with several.", min_length=1)
    ] = None
    main_port: Annotated[
        Annotated[int, Field(ge=1, le=65535)] | None,
        Field(description="Port on machine 0; by default a free one."),
    ] = None

    @property
    def shards_weights(self) -> bool:
        """Whether no card holds all weights."""
        return self.backend in ("fsdp", "zero3")


class Settings(Section):
    """ModelForge's own keys. They keep their names whatever TRL calls them."""

    strategy: Annotated[str, Field(description="What to train: see `modelforge strategies`.")]
    model_name: Annotated[
        str, Field(description="Model folder, run folder, adapter folder or hub id.", min_length=1)
    ]
    dataset: Annotated[Dataset, Field(description="File, folder, hub id, or a list to mix.")]
    task: Annotated[
        Literal["text-generation", "summarization", "question-answering"],
        Field(description="Prompt layout used when the model has no chat template."),
    ] = "text-generation"
    model_revision: Annotated[str | None, Field(description="Hub revision to load.")] = None
    trust_remote_code: Annotated[
        bool,
        Field(
            description="Run the Python code in the model's folder or repository; only together "
            "with --trust-remote-code on the command line."
        ),
    ] = False
    provider: Annotated[
        Literal["auto", "huggingface", "unsloth"], Field(description="Who loads the model.")
    ] = "auto"
    dataset_split: Annotated[str | None, Field(description="Split of a hub data set.")] = None
    eval_dataset: Annotated[Dataset | None, Field(description="Held-out data.")] = None
    eval_split: Annotated[
        Annotated[float, Field(ge=0, lt=1)] | Annotated[int, Field(ge=1)] | None,
        Field(description="Share (below 1) or number of rows held out for evaluation."),
    ] = None
    columns: Annotated[
        dict[str, str], Field(description="Our column name → the file's, where not recognised.")
    ] = Field(default_factory=dict)
    hardware_profile: Annotated[
        Literal["auto", "cpu", "low", "mid", "high", "max"],
        Field(description="Defaults for a size of card: see `modelforge profiles`."),
    ] = "auto"
    memory_budget_gb: Annotated[
        float | None, Field(description="GPU memory to stay within, in GB.", gt=0)
    ] = None
    use_4bit: Annotated[bool, Field(description="Load the base in 4-bit (bitsandbytes).")] = False
    use_8bit: Annotated[bool, Field(description="Load the base in 8-bit (bitsandbytes).")] = False
    bnb_4bit_quant_type: Annotated[Literal["nf4", "fp4"], Field(description="4-bit type.")] = "nf4"
    use_double_quant: Annotated[
        bool, Field(description="Quantise the quantisation constants too.")
    ] = True
    attn_implementation: Annotated[
        Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3"],
        Field(description="Attention kernel; auto: the fastest that is installed."),
    ] = "auto"
    lora_r: Annotated[int, Field(description="LoRA rank; 0 trains all weights.", ge=0)] = 16
    lora_alpha: Annotated[int, Field(description="LoRA scale (alpha / r).", ge=1)] = 32
    lora_dropout: Annotated[float, Field(description="LoRA dropout.", ge=0, lt=1)] = 0.0
    lora_target_modules: Annotated[
        str | list[str], Field(description="Modules to adapt; all-linear for all but the head.")
    ] = "all-linear"
    max_seq_length: Annotated[
        int, Field(description="Longest sequence (prompt and completion), in tokens.", ge=8)
    ] = 1024
    warmup_ratio: Annotated[
        float, Field(description="Share of the steps that warm up.", ge=0, lt=1)
    ] = 0.0
    chat_template: Annotated[
        str, Field(description="auto, none, a built-in name, or a .jinja file.", min_length=1)
    ] = "auto"
    output_dir: Annotated[str, Field(description="Folder that holds the runs.", min_length=1)] = (
        "runs"
    )
    run_name: Annotated[
        str | None,
        Field(
            description="Folder of this run inside output_dir.",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        ),
    ] = None
    report_to: Annotated[
        Tracker | Literal["none"] | list[Tracker],
        Field(description="Trackers of the curves; metrics.jsonl is written in any case."),
    ] = "tensorboard"
    distributed: Annotated[
        Distributed, Field(description="Several processes: how many, where, sharded how.")
    ] = Distributed()
    seed: Annotated[int, Field(description="Seed of everything random.", ge=0, lt=2**32)] = 42
    resume: Annotated[
        str, Field(description="auto, never, or a checkpoint folder.", min_length=1)
    ] = "auto"


#: Under which names a config's reward models and its judge stand in the metrics.
REWARD_MODEL, JUDGE = "reward_model", "judge"

# Keys whose values may be local paths.
_PATHS = {"model_name", "dataset", "eval_dataset", "chat_template", "rewards", "reward_model"}


@dataclass(frozen=True)
class Choice:
    """A value, where it came from, and why.

    Attributes:
        value: The value.
        source: ``config``, ``--set``, ``strategy``, ``profile``, ``machine``, ``model``, ``data``,
            ``plan`` or ``default``.
        reason: Why this value, in half a sentence; empty where the user said it.
    """

    value: Any
    source: str
    reason: str = ""


@dataclass(frozen=True)
class Config:
    """A validated config. Immutable: each step of a run makes the next one.

    Attributes:
        settings: ModelForge's keys, typed (a strategy's own subclass of :class:`Settings`).
        trl: Fields of the strategy's TRL config class, passed on verbatim.
        said: What the user said, in the file and with ``--set``.
        choices: Every key that was set, with its source and reason.
        base_dir: Folder that relative paths are relative to.
        path: The file it came from, if any.
    """

    settings: Settings
    trl: Mapping[str, Any]
    said: Mapping[str, Any]
    choices: Mapping[str, Choice]
    base_dir: Path = field(default_factory=Path.cwd)
    path: Path | None = None

    @property
    def name(self) -> str:
        """How messages call this config."""
        return self.path.name if self.path else "config"

    def given(self, key: str) -> bool:
        """Whether the user said it, in the file or with ``--set``."""
        return key in self.said

    def get(self, key: str, default: Any = None) -> Any:
        """A key's value, whether ModelForge's or TRL's."""
        if key in type(self.settings).model_fields:
            return getattr(self.settings, key)
        return self.trl.get(key, default)

    def with_choices(self, choices: Mapping[str, Choice]) -> Config:
        """The same config with these values set."""
        own = type(self.settings).model_fields
        ours = {k: c.value for k, c in choices.items() if k in own}
        trl = {k: c.value for k, c in choices.items() if k not in own}
        data = {k: getattr(self.settings, k) for k in self.settings.model_fields_set} | ours
        return replace(
            self,
            settings=type(self.settings).model_validate(data),
            trl={**self.trl, **trl},
            choices={**self.choices, **choices},
        )

    def with_defaults(self, choices: Mapping[str, Choice]) -> Config:
        """The same config with these values set where the user left them open."""
        return self.with_choices({k: c for k, c in choices.items() if not self.given(k)})

    def portable(self) -> dict[str, Any]:
        """All values, with local paths made absolute: the same run from any folder."""
        return {
            key: self._absolute(value) if key in _PATHS else value
            for key, value in self.resolved().items()
        }

    def request(self) -> dict[str, Any]:
        """What the user said, with local paths made absolute."""
        return {k: self._absolute(v) if k in _PATHS else v for k, v in self.said.items()}

    def _absolute(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._absolute(inner) for inner in value]
        if isinstance(value, dict):
            return {k: self._absolute(v) if k in ("path", "name") else v for k, v in value.items()}
        if not isinstance(value, str):
            return value
        # A reward may be a function of a file: file.py:function.
        file, colon, function = value, "", ""
        if ".py:" in value:
            file, colon, function = value.rpartition(":")
        for path in (self.base_dir / file, Path(file)):
            if path.exists():
                return f"{path.resolve()}{colon}{function}"
        return value

    def resolved(self) -> dict[str, Any]:
        """All values as plain JSON: ModelForge's keys first, then TRL's."""
        return {**self.settings.model_dump(mode="json"), **dict(self.trl)}
