"""The config as a run sees it: typed keys, and the source and reason of every value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from modelforge.common.constraint import Constrained
from modelforge.common.paths import HereText, LocalText, absolute
from modelforge.common.sections import Distributed, EarlyStopping, Tracker
from modelforge.common.sections import Generation as Generation
from modelforge.common.sections import RewardEntry as RewardEntry
from modelforge.common.sections import Rewards as Rewards
from modelforge.common.sections import Section as Section
from modelforge.common.sources import Dataset, Splits

Token = Annotated[str, Field(min_length=1)]


class Settings(Section):
    """ModelForge's own keys. They keep their names whatever TRL calls them."""

    strategy: Annotated[
        str, Field(description="The strategy to train with; `modelforge strategies` lists all.")
    ]
    model_name: Annotated[
        LocalText,
        Field(
            description="The model to train: a model folder, run folder, adapter folder or hub id.",
            min_length=1,
        ),
    ]
    dataset: Annotated[
        Dataset | Splits,
        Field(description="The training data: file, folder, hub id, a list, or named splits."),
    ]
    task: Annotated[
        Literal["text-generation", "summarization", "question-answering"],
        Field(description="The prompt layout for a model that has no chat template."),
    ] = "text-generation"
    model_revision: Annotated[
        str | None, Field(description="The hub revision to load: a branch, tag or commit.")
    ] = None
    trust_remote_code: Annotated[
        bool,
        Field(
            description="Whether to run Python code from the model's folder or repository; the "
            "command line must also say --trust-remote-code."
        ),
    ] = False
    provider: Annotated[
        Literal["auto", "huggingface", "unsloth"],
        Field(
            description="The library that loads the model; auto prefers Unsloth where it can serve."
        ),
    ] = "auto"
    dataset_split: Annotated[
        str | None, Field(description="The split of a hub data set or a folder to train on.")
    ] = None
    max_samples: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(description="The most rows to read of each data set, drawn at random by the seed."),
    ] = None
    streaming: Annotated[
        bool,
        Field(
            description="Whether to read only as many rows as `max_steps` trains on, "
            "and download nothing else of a hub data set."
        ),
    ] = False
    eval_dataset: Annotated[
        Dataset | None, Field(description="The held-out data that the model is evaluated on.")
    ] = None
    eval_split: Annotated[
        Annotated[float, Field(ge=0, lt=1)] | Annotated[int, Field(ge=1)] | None,
        Field(description="The share (below 1) or the number of rows to hold out for evaluation."),
    ] = None
    held_out_as: Annotated[
        LocalText | None,
        Field(
            description="A run's folder: what it held out is held out here too, in place of "
            "eval_split.",
            min_length=1,
        ),
    ] = None
    columns: Annotated[
        dict[str, str],
        Field(description="Maps our column names to the file's, where they are not recognised."),
    ] = Field(default_factory=dict)
    hardware_profile: Annotated[
        Literal["auto", "cpu", "low", "mid", "high", "max"],
        Field(description="How a size of card computes; `modelforge profiles` lists all."),
    ] = "auto"
    preset: Annotated[
        Literal["mid", "high"] | None,
        Field(description="Fixed settings for an 8B model: mid (rank 16) or high (rank 64)."),
    ] = None
    memory_budget_gb: Annotated[
        float | None,
        Field(description="The GPU memory, in GiB, that the run must stay within.", gt=0),
    ] = None
    use_4bit: Annotated[
        bool, Field(description="Whether to load the base model in 4-bit (bitsandbytes).")
    ] = False
    use_8bit: Annotated[
        bool, Field(description="Whether to load the base model in 8-bit (bitsandbytes).")
    ] = False
    bnb_4bit_quant_type: Annotated[
        Literal["nf4", "fp4"], Field(description="The 4-bit data type.")
    ] = "nf4"
    use_double_quant: Annotated[
        bool, Field(description="Whether to quantise the quantisation constants too.")
    ] = True
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(
            description="The type of the weights that are not quantised; auto: 16 bits on a card, "
            "and 32 bits on a CPU or where all weights are trained."
        ),
    ] = "auto"
    attn_implementation: Annotated[
        Literal["auto", "eager", "sdpa", "sdpa_by_row", "flash_attention_2", "flash_attention_3"],
        Field(description="The attention kernel; auto takes the fastest that is installed."),
    ] = "auto"
    lora_r: Annotated[int, Field(description="The LoRA rank; 0 trains all weights.", ge=0)] = 16
    lora_alpha: Annotated[
        int,
        Field(description="The LoRA alpha: what LoRA adds is scaled by lora_alpha / lora_r.", ge=1),
    ] = 32
    lora_dropout: Annotated[
        float, Field(description="The dropout in the LoRA layers.", ge=0, lt=1)
    ] = 0.0
    lora_target_modules: Annotated[
        str | list[str],
        Field(description="The modules that get LoRA; all-linear: all linear layers but the head."),
    ] = "all-linear"
    lora: Annotated[
        dict[str, Any],
        Field(
            description="Fields of PEFT's config: LoRA's, or of the method that peft_type names."
        ),
    ] = Field(default_factory=dict)
    lora_modules_to_save: Annotated[
        list[str], Field(description="Modules trained whole beside LoRA, such as embed_tokens.")
    ] = Field(default_factory=list)
    add_tokens: Annotated[list[Token], Field(description="Words to add to the vocabulary.")] = (
        Field(default_factory=list)
    )
    add_special_tokens: Annotated[
        list[Token], Field(description="Marks to add, which decoding may leave out.")
    ] = Field(default_factory=list)
    train_tokens: Annotated[
        list[Token],
        Field(description="Tokens whose rows are trained beside LoRA; by default the added ones."),
    ] = Field(default_factory=list)
    resize_vocab: Annotated[
        bool, Field(description="Whether the embedding grows to the tokenizer's size.")
    ] = False
    eos_token: Annotated[
        Token | None, Field(description="The token that ends an answer, if not the tokenizer's.")
    ] = None
    pad_token: Annotated[
        Token | None, Field(description="The token that fills rows up, if not the tokenizer's.")
    ] = None
    max_seq_length: Annotated[
        int, Field(description="The longest sequence (prompt and completion), in tokens.", ge=8)
    ] = 2048
    warmup_ratio: Annotated[
        float,
        Field(
            description="The share of the steps in which the learning rate warms up.", ge=0, lt=1
        ),
    ] = 0.0
    chat_template: Annotated[
        LocalText,
        Field(
            description="The chat template: auto, none, a built-in name, one of TRL's, or a .jinja "
            "file.",
            min_length=1,
        ),
    ] = "auto"
    prompt_layout: Annotated[
        Literal["alpaca", "chatml", "llama3", "plain", "vicuna", "zephyr"] | None,
        Field(description="A fixed prompt layout for a base model, in place of chat_template."),
    ] = None
    system_prompt: Annotated[
        str | None,
        Field(description="The system message of rows that have none of their own.", min_length=1),
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, Any],
        Field(
            description="What the chat template is given with every row, such as enable_thinking; "
            "a row's own come over it."
        ),
    ] = Field(default_factory=dict)
    constraints: Annotated[
        Constrained | Annotated[LocalText, Field(min_length=1)] | None,
        Field(
            description="Rules for prompts and answers: a list, or a JSON file with one. They "
            "apply wherever the model answers, and the reward `constraints` counts what breaks "
            "them."
        ),
    ] = None
    output_dir: Annotated[
        HereText, Field(description="The folder that holds the runs.", min_length=1)
    ] = "runs"
    run_name: Annotated[
        str | None,
        Field(
            description="The name of this run's folder in output_dir; null derives one.",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        ),
    ] = None
    report_to: Annotated[
        Tracker | Literal["none"] | list[Tracker],
        Field(description="The experiment trackers; metrics.jsonl is written in any case."),
    ] = "tensorboard"
    distributed: Annotated[
        Distributed,
        Field(description="How several processes train together: how many, where, sharded how."),
    ] = Distributed()
    early_stopping: Annotated[
        EarlyStopping | None,
        Field(description="When to stop early: a held-out figure that no longer gets better."),
    ] = None
    seed: Annotated[int, Field(description="The seed of everything random.", ge=0, lt=2**32)] = 42
    resume: Annotated[
        HereText,
        Field(
            description="The checkpoint to resume from: auto (the newest), never, or a folder.",
            min_length=1,
        ),
    ] = "auto"


#: The keys of an adapter's shape; an adapter that is trained further has its own.
LORA_KEYS = (
    *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
    *("lora_modules_to_save", "train_tokens"),
)

#: Values of ``lora.init_lora_weights`` that take the adapter's part out of the base: off, it is not
#: the base any more.
OUT_OF_BASE = ("pissa", "olora")
# Methods of PEFT (0.21) whose weights have the shape of the base's, and fail where that is packed.
_SHAPED = ("LOHA", "LOKR", "HRA")


def of_whole_weights(lora: Mapping[str, Any]) -> tuple[str, str]:
    """The field of the section ``lora`` that needs weights that are not quantised, and why.

    Both are empty where the base may be quantised.
    """
    if (begins := lora.get("init_lora_weights")) in OUT_OF_BASE:
        return "init_lora_weights", f"{begins} decomposes the base's weights"
    if begins == "orthogonal":
        return "init_lora_weights", "orthogonal takes its type from the base's weights"
    if (kind := lora.get("peft_type")) in _SHAPED:
        return "peft_type", f"{kind} has the shape of the base's weights"
    return "", ""


#: Under which names a config's reward models and its judge stand in the metrics.
REWARD_MODEL, JUDGE = "reward_model", "judge"


@dataclass(frozen=True)
class Choice:
    """A value, where it came from, and why.

    Attributes:
        value: The value.
        source: ``config``, ``--set``, ``strategy``, ``preset``, ``profile``, ``machine``,
            ``model``, ``adapter``, ``data``, ``plan``, ``memory`` or ``default``.
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

    @property
    def micro_batch(self) -> int:
        """Rows of a forward pass; 8 where nothing says so, as transformers has it."""
        return self.get("per_device_train_batch_size") or 8

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

    def without(self, keys: Collection[str]) -> Config:
        """The same config with these values left open."""
        if not keys:
            return self
        own = {k: getattr(self.settings, k) for k in self.settings.model_fields_set - set(keys)}
        return replace(
            self,
            settings=type(self.settings).model_validate(own),
            trl={k: v for k, v in self.trl.items() if k not in keys},
            said={k: v for k, v in self.said.items() if k not in keys},
            choices={k: c for k, c in self.choices.items() if k not in keys},
        )

    def portable(self) -> dict[str, Any]:
        """All values, with local paths made absolute: the same run from any folder."""
        return absolute(type(self.settings), self.resolved(), self.base_dir)

    def request(self) -> dict[str, Any]:
        """What the user said, with local paths made absolute."""
        return absolute(type(self.settings), self.said, self.base_dir)

    def resolved(self) -> dict[str, Any]:
        """All values as plain JSON: ModelForge's keys first, then TRL's."""
        return {**self.settings.model_dump(mode="json"), **dict(self.trl)}
