"""One run, top to bottom: config → machine → data → model → trainer → the run's folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge import registry
from modelforge.config import Choice, Config
from modelforge.configfile import load_config
from modelforge.console import headline, say, show_choices
from modelforge.errors import Problem, RunError
from modelforge.hardware import Hardware, choose_profile, detect_hardware, device_arguments
from modelforge.job import Prepared, Result
from modelforge.lora import lora_defaults
from modelforge.rundir import RunDir, choices_json, open_run
from modelforge.source import find_model
from modelforge.trackers import check_trackers, tensorboard_in

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from modelforge.data import Data
    from modelforge.providers.base import Provider
    from modelforge.strategy import Parts, Strategy


def train(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    overrides: Iterable[str] = (),
    strategy: Strategy | None = None,
) -> Result:
    """Train by a config: a file, a mapping, or one already loaded.

    Args:
        config: What to train.
        overrides: ``key=value`` strings that win over the config.
        strategy: The strategy itself, in place of the one found by the config's name.

    Raises:
        UserError: If the config, the data, the model or the machine will not do; raised before a
            model is loaded, with every problem found. Nothing is written then.
    """
    if not isinstance(config, Config):
        config = load_config(config, overrides=overrides)
    strategy = strategy or registry.get_strategy(config.settings.strategy)()
    if strategy.staged:
        return strategy.run_stages(config)
    run, _ = open_run(config)
    if run.finished and config.settings.resume == "auto":
        say(f'{run.path} holds this run, finished. Say "resume": "never" to train it again.')
        return _result(run, None)

    job = prepare(config, strategy)
    job.run.create()
    _write_start(job)
    trainer = build_trainer(job, load(job))
    _say_trainable(trainer.model)

    look = _looker(job, trainer)
    before = job.run.read_json("before.json") if job.checkpoint else None
    if before is None:
        before = {"figures": _evaluate(job, trainer), "samples": look()}
        job.run.write_json("before.json", before)
    if job.checkpoint:
        say(f"going on from {job.checkpoint}")
        job.run.forget_metrics_after(int(job.checkpoint.name.rpartition("-")[2]))
    headline("Training")
    trainer.train(resume_from_checkpoint=str(job.checkpoint) if job.checkpoint else None)

    trainer.save_model(str(job.run.model))
    # transformers adds its own arguments as a pickle, which nobody needs to load the model.
    (job.run.model / "training_args.bin").unlink(missing_ok=True)
    after = {"figures": _evaluate(job, trainer), "samples": look()}
    _write_end(job, trainer, before, after)
    return _result(job.run, job.checkpoint)


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
    run, checkpoint = open_run(config)
    source = find_model(
        config.settings.model_name,
        base_dir=config.base_dir,
        revision=config.settings.model_revision,
        where=f"{config.name}: model_name",
    )
    hardware = detect_hardware()
    config = fill_defaults(config, strategy, hardware)
    provider, choice = choose_provider(config, hardware)
    config = config.with_choices({"provider": choice})
    config = fit_to_model(config, provider.load_model_config(source))
    config = config.with_choices(strategy.derived_defaults(config))  # of the length that fits
    check_trackers(config)
    tokenizer = provider.load_tokenizer(source)
    stops = provider.stop_tokens(source)
    data = read_data(config, strategy, tokenizer, eos_token_ids=stops)
    columns = data.train.column_names
    config = config.with_defaults(strategy.check_data(config, columns))
    device = device_arguments(hardware, config.said)
    config = config.with_choices({k: v for k, v in device.items() if k != "use_cpu"})
    args = strategy.build_args(
        config,
        output_dir=run.checkpoints,
        device={key: choice.value for key, choice in device.items()},
    )
    show_choices(config.choices)
    return Prepared(
        config, strategy, provider, source, tokenizer, data, args, hardware, run, checkpoint
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
    return config.with_choices(lora_defaults(config, hardware))


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


def load(job: Prepared) -> Parts:
    """The weights, and all that a trainer is built from."""
    from transformers import set_seed

    from modelforge.strategy import Parts

    headline("Model")
    say(f"loading {job.source.base}" + (f" with {job.source.adapter}" * bool(job.source.adapter)))
    # A head or adapter that starts random starts from the seed, as in a script by hand.
    set_seed(job.config.settings.seed)
    loaded = job.provider.load_model(
        job.source, job.config, job.hardware, head=job.strategy.head, tokenizer=job.tokenizer
    )
    return Parts(
        config=job.config,
        model=loaded.model,
        tokenizer=job.tokenizer,
        peft_config=loaded.peft_config,
        data=job.data,
        args=job.args,
        run_dir=job.run.path,
    )


def fit_to_model(config: Config, model: PreTrainedConfig) -> Config:
    """The config within the model's context: beyond it positions were never trained."""
    context = getattr(model.get_text_config(), "max_position_embeddings", None)
    if context is None or config.settings.max_seq_length <= context:
        return config
    why = f"the model's context ends there ({config.settings.max_seq_length} was set)"
    return config.with_choices({"max_seq_length": Choice(context, "model", why)})


def _trl_fields(strategy: Strategy) -> Iterable[str]:
    return strategy.trl_config_class().__dataclass_fields__  # type: ignore[attr-defined]


def choose_provider(config: Config, hardware: Hardware) -> tuple[Provider, Choice]:
    """Who loads the model, and why.

    Raises:
        RunError: If the provider asked for cannot serve this run.
    """
    name = config.settings.provider
    if name == "auto":
        choice = Choice("huggingface", "default", "the one provider built so far")
    else:
        choice = Choice(name, "config")
    provider = registry.get_provider(choice.value)()
    refusal = provider.refusal(config, hardware)
    if refusal:
        raise RunError(Problem(f"{config.name}: provider", refusal, "set provider to huggingface"))
    return provider, choice


def build_trainer(job: Prepared, parts: Parts) -> Any:
    """The strategy's trainer with the run's callbacks."""
    from transformers import PrinterCallback

    from modelforge.callbacks import Counters, MetricsFile, Progress

    with tensorboard_in(job.run):
        trainer = job.strategy.build_trainer(parts, callbacks=[MetricsFile(job.run), Progress()])
    trainer.remove_callback(PrinterCallback)
    counters = Counters(trainer)
    trainer.add_callback(counters)
    if job.checkpoint:
        counters.restore(job.checkpoint)
    _save_policy_only(trainer.model)
    return trainer


def _save_policy_only(model: Any) -> None:
    """Save the trained adapter alone, at the root of a checkpoint.

    TRL adds a frozen copy of a starting adapter as the reference. Saved beside the policy, it
    made transformers restore the copy and not the policy on resume, without an error; and it can
    be made again from where the run started.
    """
    from functools import partial

    from peft import PeftModel

    if isinstance(model, PeftModel):
        vars(model)["save_pretrained"] = partial(
            model.save_pretrained, selected_adapters=["default"]
        )


def _say_trainable(model: Any) -> None:
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(f"training {trained:,} of {total:,} stored parameters ({trained / total:.2%})")


def _looker(job: Prepared, trainer: Any) -> Callable[[], list[dict[str, Any]]]:
    """A function that lets the model answer (or score) a few held-out rows."""
    from modelforge import samples

    rows = job.data.eval if job.data.eval is not None else job.data.train
    sample = samples.score if job.strategy.head == "reward" else samples.answer

    def look() -> list[dict[str, Any]]:
        model = trainer.accelerator.unwrap_model(trainer.model)
        with samples.undisturbed(model):
            limit = job.config.settings.max_seq_length
            return sample(model, job.tokenizer, rows, limit=limit)

    return look


def _evaluate(job: Prepared, trainer: Any) -> dict[str, float]:
    """The held-out figures, without disturbing what training draws at random."""
    from modelforge.callbacks import SESSION
    from modelforge.samples import undisturbed

    if job.data.eval is None:
        return {}
    with undisturbed(trainer.model):
        figures = trainer.evaluate()
    kept = {k: v for k, v in figures.items() if isinstance(v, int | float)}
    return {k: v for k, v in kept.items() if not k.endswith((*SESSION, "epoch"))}


def _write_start(job: Prepared) -> None:
    from modelforge.doctor import versions

    job.run.write_json("config.json", job.config.portable())
    job.run.write_json("choices.json", choices_json(job.config))
    environment = {"versions": versions(), "hardware": job.hardware.to_dict()}
    job.run.write_json("environment.json", environment)
    job.run.write_json("data.json", job.data.ledger.to_dict())


def _write_end(
    job: Prepared, trainer: Any, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    from modelforge.report import html_report, model_card

    changes = ("completion", "score_chosen", "score_rejected")
    rows = [
        {k: v for k, v in last.items() if k not in changes}
        | {f"{k}_before": first[k] for k in changes if k in first}
        | {k: last[k] for k in changes if k in last}
        for first, last in zip(before["samples"], after["samples"], strict=True)
    ]
    job.run.write_lines("samples.jsonl", rows)
    measure = job.strategy.measure
    results = {
        "measure": measure.key,
        "label": measure.label,
        "higher_is_better": measure.higher_is_better,
        "before": before["figures"],
        "after": after["figures"],
        "steps": trainer.state.global_step,
    }
    (job.run.model / "README.md").write_text(model_card(job, results), encoding="utf-8")
    job.run.write_text("report.html", html_report(job, results, rows))
    # Last: its presence says that the run is finished.
    job.run.write_json("results.json", results)
    headline("Done")
    if measure.key in after["figures"]:
        first, last = before["figures"].get(measure.key), after["figures"][measure.key]
        say(f"{measure.label}: {first:.4g} → {last:.4g}")
    say(f"run: {job.run.path}")


def _result(run: RunDir, checkpoint: Path | None) -> Result:
    results = run.read_json("results.json")
    return Result(run.path, run.model, results["before"], results["after"], checkpoint)
