"""The sections of a config: what stands together under one key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from modelforge.common.paths import IsPath, LocalText


class Section(BaseModel):
    """A typed part of the config: unknown keys refused, immutable, every field documented."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


# Those transformers reports to. "all" is left out: it takes whatever happens to be installed.
Tracker = Literal[
    "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "mlflow",
    "neptune", "swanlab", "tensorboard", "trackio", "wandb",
]  # fmt: skip


class Generation(Section):
    """How completions are sampled while training (grpo, rlhf)."""

    max_new_tokens: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(description="Longest completion, in tokens; by default by model and task."),
    ] = None
    temperature: Annotated[float, Field(description="Sampling temperature.", gt=0)] = 1.0
    top_k: Annotated[
        int, Field(description="Keep the k most likely tokens; 0 keeps all.", ge=0)
    ] = 0
    top_p: Annotated[
        float, Field(description="The probability mass of nucleus sampling.", gt=0, le=1)
    ] = 1.0


class RewardEntry(Section):
    """A reward: a name, ``file.py:function``, ``module:function``, or a reward model."""

    name: Annotated[
        str,
        IsPath(True, "reward model"),
        Field(
            description="The reward: a built-in name, one of TRL's, file.py:function, "
            "module:function, a folder or a hub id."
        ),
    ]
    weight: Annotated[float, Field(description="The weight of this reward in the sum.")] = 1.0
    arguments: Annotated[
        dict[str, Any], Field(description="The keyword arguments of the reward.")
    ] = Field(default_factory=dict)


Rewards = Annotated[
    list[Annotated[str, IsPath(True, "reward model"), Field(min_length=1)] | RewardEntry],
    Field(min_length=1),
]


class Distributed(Section):
    """Several processes that train together, one a card."""

    backend: Annotated[
        Literal["ddp", "fsdp", "zero2", "zero3"],
        Field(
            description="What is sharded. ddp: nothing; zero2: optimiser and gradients "
            "(DeepSpeed); zero3 and fsdp: the weights too."
        ),
    ] = "ddp"
    config: Annotated[
        LocalText | None,
        Field(
            description="A JSON file of DeepSpeed or FSDP settings, in place of the shipped one.",
            min_length=1,
        ),
    ] = None
    num_processes: Annotated[
        int, Field(description="The number of processes in all; --num-processes sets it too.", ge=1)
    ] = 1
    num_machines: Annotated[int, Field(description="The number of machines.", ge=1)] = 1
    machine_rank: Annotated[int, Field(description="The index of this machine, from 0.", ge=0)] = 0
    main_address: Annotated[
        str | None,
        Field(description="The address of machine 0, where there are several.", min_length=1),
    ] = None
    main_port: Annotated[
        Annotated[int, Field(ge=1, le=65535)] | None,
        Field(description="The port on machine 0; by default a free one."),
    ] = None

    @property
    def shards_weights(self) -> bool:
        """Whether no card holds all weights."""
        return self.backend in ("fsdp", "zero3")


class EarlyStopping(Section):
    """When a run ends before its last step: its held-out figure no longer gets better."""

    metric: Annotated[
        str | None,
        Field(
            description="The held-out figure to watch; by default the one that the strategy is "
            "judged by.",
            min_length=1,
        ),
    ] = None
    patience: Annotated[
        int,
        Field(description="The evaluations in a row without a gain that end the run.", ge=1),
    ] = 3
    min_delta: Annotated[
        float,
        Field(description="The gain over the best so far that does not count as one yet.", ge=0),
    ] = 0.0
