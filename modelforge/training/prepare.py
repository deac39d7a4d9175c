"""All of a run that comes before the weights: machine, defaults, tokenizer, data, arguments."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from modelforge import registry
from modelforge.callbacks.trackers import check_trackers
from modelforge.common.console import headline, say
from modelforge.common.processes import agreed
from modelforge.config import Choice, Config
from modelforge.machine.attention import installed_kernels, throughput_defaults, warnings
from modelforge.machine.hardware import Hardware, choose_profile, detect_hardware, device_arguments
from modelforge.machine.launch import distributed_choices, refuse_backend
from modelforge.machine.vllm import vllm_defaults
from modelforge.models.hub import pinned
from modelforge.models.lora import lora_defaults
from modelforge.models.providers.choice import choose_provider
from modelforge.models.source import find_model
from modelforge.runs.folder import RunDir, open_run, refuse_other_data
from modelforge.training.prepared import Prepared, show_choices

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from modelforge.data import Data
    from modelforge.models.providers.base import Provider
    from modelforge.strategy import Strategy


def prepare(config: Config, strategy: Strategy | None = None) -> Prepared:
    """Everything before the weights: machine, defaults, tokenizer, data, TRL's arguments.

    Raises:
        UserError: If anything of it will not do. Writes nothing.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if sys.platform == "linux":
        # Segments that grow leave no holes between batches of different lengths.
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    strategy = strategy or registry.get_strategy(config.settings.strategy)()
    hardware = detect_hardware()
    refuse_backend(config, hardware)
    run, checkpoint = agreed(
        open_run(config),
        cpu=hardware.device == "cpu",
        deepspeed=config.settings.distributed.backend.startswith("zero"),
    )
    # A run goes on with the weights it was begun with, whatever its hub branch has by now.
    begun = (run.read_json("environment.json") or {}).get("origin", {}) if checkpoint else {}
    source = find_model(
        config.settings.model_name,
        base_dir=config.base_dir,
        revision=config.settings.model_revision or begun.get("revision"),
        where=f"{config.name}: model_name",
        trust_remote_code=config.settings.trust_remote_code,
    )
    # First: Unsloth has to come before TRL, whose fields the defaults are looked up in.
    provider, choice = choose_provider(config, strategy, source, hardware)
    config = fill_defaults(config.with_choices({"provider": choice}), strategy, hardware)
    config = config.with_choices(distributed_choices(config))
    architecture = provider.load_model_config(source)
    source = pinned(source)
    config = fit_to_model(config, architecture)
    config = config.with_choices(strategy.derived_defaults(config))  # of the length that fits
    check_trackers(config)
    tokenizer = provider.load_tokenizer(source)
    stops = provider.stop_tokens(source)
    from modelforge.data import fingerprint

    data = read_data(config, strategy, tokenizer, eos_token_ids=stops)
    columns = data.train.column_names
    config = config.with_defaults(strategy.check_data(config, columns))
    device = device_arguments(hardware, config.said)
    config = config.with_choices({k: v for k, v in device.items() if k != "use_cpu"})
    planned = None
    if not strategy.staged:  # each stage is a run of its own, and plans for itself
        from modelforge.training.fit_to_card import within_budget

        longest = round(data.ledger.tokens["max"])
        config, planned = within_budget(
            config,
            hardware,
            # How long answers get is not in the data.
            longest_row=None if strategy.data_kind == "prompt" else longest,
            run=run,
            resumed=checkpoint is not None,
        )
        config = config.with_choices(strategy.derived_defaults(config))
        if strategy.max_row_tokens(config) < longest:
            data = read_data(config, strategy, tokenizer, eos_token_ids=stops)
    rows = fingerprint(data.train, data.eval)
    if checkpoint is not None:
        refuse_other_data(run, rows, where=config.name)
    args = build_args(config, strategy, provider, hardware, run)
    show_choices(config.choices)
    return Prepared(
        config, strategy, provider, source, tokenizer, data, args, hardware, run, checkpoint,
        planned, rows,
    )  # fmt: skip


def build_args(
    config: Config, strategy: Strategy, provider: Provider, hardware: Hardware, run: RunDir
) -> Any:
    """The TRL config object of a run on this machine.

    Raises:
        ConfigError: If the installed TRL refuses a value or lacks a field.
    """
    device = device_arguments(hardware, config.said)
    return provider.build_args(
        strategy,
        config,
        output_dir=run.checkpoints,
        device={key: choice.value for key, choice in device.items()},
    )


def fill_defaults(config: Config, strategy: Strategy, hardware: Hardware) -> Config:
    """The config with every value the user left open: profile < strategy < what follows."""
    settings = config.settings
    profile, choice = choose_profile(
        hardware, name=settings.hardware_profile, memory_budget_gb=settings.memory_budget_gb
    )
    say(f"machine: {hardware.device_name}, profile {profile.name} ({choice.reason or 'asked for'})")
    why = f"{profile.name}: {profile.summary}"
    known = set(strategy.settings.model_fields) | set(_trl_fields(strategy))
    layers: list[Mapping[str, Choice]] = [
        {k: Choice(v, "profile", why) for k, v in profile.defaults.items() if k in known},
        {k: Choice(v, "strategy", reason) for k, (v, reason) in strategy.defaults.items()},
        {
            "hardware_profile": choice,
            "logging_first_step": Choice(True, "default", "the first figures come at once"),
            "save_steps": Choice(0.1, "default", "ten checkpoints a run, to resume from"),
            "save_total_limit": Choice(2, "default", "the last two are kept"),
        },
    ]
    for layer in layers:
        config = config.with_defaults(layer)
    config = config.with_choices(strategy.derived_defaults(config))
    config = config.with_choices(lora_defaults(config, hardware))
    config = config.with_defaults(vllm_defaults(config))
    fast = throughput_defaults(
        config, hardware, kernels=installed_kernels(), padding_free=strategy.padding_free
    )
    config = config.with_defaults(fast)
    for warning in warnings(config):
        say(f"warning: {warning}")
    return config


def read_data(
    config: Config,
    strategy: Strategy,
    tokenizer: PreTrainedTokenizerBase,
    *,
    eos_token_ids: Collection[int],
) -> Data:
    """The data in normal form, with its ledger shown.

    Args:
        config: With the defaults filled in.
        strategy: Which rows it wants.
        tokenizer: Its chat template is set here.
        eos_token_ids: Ids that end a reply beside the tokenizer's own.

    Raises:
        DataError: If it cannot train.
    """
    from modelforge.data import load_data, load_tokenizer_template

    settings = config.settings
    template = load_tokenizer_template(
        tokenizer,
        chat_template=settings.chat_template,
        task=settings.task,
        base_dir=config.base_dir,
    )
    values = config.resolved()
    data = load_data(
        dataset=values["dataset"],
        eval_dataset=values["eval_dataset"],
        eval_split=settings.eval_split,
        dataset_split=settings.dataset_split,
        columns=settings.columns,
        kind=strategy.data_kind,
        tokenizer=tokenizer,
        chat_template=template,
        # Packing cuts sequences itself, and loses nothing at the cuts.
        max_length=None if config.get("packing") else strategy.max_row_tokens(config),
        seed=settings.seed,
        base_dir=config.base_dir,
        drop_long=strategy.head == "reward",
        eos_token_ids=eos_token_ids,
    )
    headline("Data")
    for line in data.ledger.summary_lines():
        say(line)
    return data


def fit_to_model(config: Config, model: PreTrainedConfig) -> Config:
    """The config within the model's context: beyond it positions were never trained."""
    context = getattr(model.get_text_config(), "max_position_embeddings", None)
    if context is None or config.settings.max_seq_length <= context:
        return config
    why = f"the model's context ends there ({config.settings.max_seq_length} was set)"
    return config.with_choices({"max_seq_length": Choice(context, "model", why)})


def _trl_fields(strategy: Strategy) -> Iterable[str]:
    return strategy.trl_config_class().__dataclass_fields__  # type: ignore[attr-defined]
