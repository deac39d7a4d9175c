"""The whole interface between a run and whoever loads its model. Small enough to be faked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from modelforge.config import Config
    from modelforge.errors import Problem
    from modelforge.machine.hardware import Hardware
    from modelforge.models.source import ModelSource
    from modelforge.models.vocabulary import Vocabulary
    from modelforge.strategy import Strategy


@dataclass(frozen=True)
class Loaded:
    """A model ready for a TRL trainer.

    Attributes:
        model: The weights, quantised where asked.
        peft_config: The adapter that TRL is to add, or None.
    """

    model: PreTrainedModel
    peft_config: Any


class Provider(Protocol):
    """Loads tokenizers and models by config."""

    name: ClassVar[str]

    def problems(
        self, config: Config, source: ModelSource, hardware: Hardware
    ) -> Iterator[Problem]:
        """Why this provider cannot serve this run, cheapest first. Loads nothing."""
        ...

    def config_problems(self, config: Config) -> Iterable[Problem]:
        """What of a config this provider cannot do; looks at no machine and no model."""
        ...

    def start(self) -> None:
        """Make this process its own; transformers and TRL are imported after it.

        Raises:
            RunError: If it cannot.
        """
        ...

    def build_args(
        self, strategy: Strategy, config: Config, *, output_dir: Path, device: Mapping[str, Any]
    ) -> Any:
        """The TRL config object; the arguments are those of `Strategy.build_args`.

        Raises:
            ConfigError: If TRL refuses a value, or the provider would change it.
        """
        ...

    def load_model_config(self, source: ModelSource) -> PreTrainedConfig:
        """The model's own config: its architecture and context, without weights."""
        ...

    def stop_tokens(self, source: ModelSource) -> list[int]:
        """The token ids that end a reply by the model's generation config, which may be several."""
        ...

    def load_tokenizer(self, source: ModelSource) -> PreTrainedTokenizerBase:
        """The tokenizer, with a pad token."""
        ...

    def load_model(
        self,
        source: ModelSource,
        config: Config,
        hardware: Hardware,
        *,
        head: Literal["causal-lm", "reward"],
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: Vocabulary,
    ) -> Loaded:
        """The model with its adapter, or with the adapter TRL is to add."""
        ...
