"""Keys that another key leaves without effect: what the user says of them holds, or is refused.

`RULES` is the one list of them, after transformers, TRL and PEFT as they are. A default of ours
that has no effect is not chosen, not shown and not written down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelforge.common.patch import drop
from modelforge.config import Config
from modelforge.configfile import schema
from modelforge.errors import ConfigError, Problem

if TYPE_CHECKING:
    from modelforge.strategy import Strategy

Get = Callable[[str], Any]

#: Under this name a rule sees what the strategy trains: no key of a config is called so.
HEAD = "(head)"


@dataclass(frozen=True)
class Rule:
    """What leaves keys without effect.

    Attributes:
        keys: The keys; one that ends in ``*`` stands for all that begin so.
        hidden: Whether they have no effect, by the values of the other keys.
        why: What hides them.
        fix: What to set instead.
    """

    keys: str
    hidden: Callable[[Get], bool]
    why: str
    fix: str


def _never(key: str, *values: Any) -> Callable[[Get], bool]:
    """Hidden while the key has none of these values; without values, while it is off."""
    if not values:
        return lambda get: not get(key)
    return lambda get: get(key) not in values


def _while(key: str, *values: Any) -> Callable[[Get], bool]:
    """Hidden while the key has one of these values."""
    return lambda get: get(key) in values


def _no_betas(get: Get) -> bool:
    optim = str(get("optim"))
    others = ("adafactor", "sgd", "adagrad", "rmsprop", "lomo", "adalomo", "galore", "grok")
    return optim.startswith(others) or optim == "schedule_free_sgd"


def _plain_optimiser(get: Get) -> bool:
    plain = ("adamw_torch", "adamw_torch_fused", "adafactor", "lomo", "adalomo")
    bitsandbytes = ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw", "lion", "paged_lion")
    return get("optim") in plain or str(get("optim")).startswith(bitsandbytes)


def _no_warmup(get: Get) -> bool:
    by_optimiser = str(get("optim")) in ("schedule_free_adamw", "schedule_free_sgd")
    flat = ("constant", "reduce_lr_on_plateau", "greedy")
    return get("lr_scheduler_type") in flat and not by_optimiser


def _losses(get: Get) -> set[str]:
    found = get("loss_type") or []
    return {found} if isinstance(found, str) else set(found)


def _without_loss(needed: tuple[str, ...]) -> Callable[[Get], bool]:
    return lambda get: not _losses(get) & set(needed)


_BY_LOSS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("label_smoothing", ("robust", "exo_pair", "aot", "aot_unpaired")),
    ("discopop_tau", ("discopop",)),
    ("sapo_*", ("sapo",)),
    ("vespo_*", ("vespo",)),
)

RULES = (
    Rule(
        "lora lora_alpha lora_dropout lora_target_modules lora_modules_to_save train_tokens",
        _never("lora_r"),
        "lora_r is 0: all weights are trained, and there is no adapter",
        "remove it, or set lora_r to 8 or more",
    ),
    Rule("lora_alpha lora_dropout",
         lambda get: (get("lora") or {}).get("peft_type", "LORA") != "LORA",
         "lora.peft_type names another method", "set the fields of lora"),
    Rule("bnb_4bit_quant_type use_double_quant", _never("use_4bit"),
         "the model is not loaded in 4-bit", "remove it, or set use_4bit to true"),
    Rule("warmup_ratio", lambda get: bool(get("warmup_steps")),
         "warmup_steps is set", "keep one of the two"),
    Rule(
        "warmup_ratio warmup_steps",
        _no_warmup,
        "this lr_scheduler_type has no warm-up",
        "remove it, or set another lr_scheduler_type (constant_with_warmup for constant)",
    ),
    Rule("lr_scheduler_kwargs", _while("lr_scheduler_type", "constant", "constant_with_warmup"),
         "this lr_scheduler_type takes none", "remove it, or set another lr_scheduler_type"),
    Rule("num_train_epochs", lambda get: (get("max_steps") or -1) > 0,
         "max_steps is set", "keep one of the two"),
    Rule("save_steps", _never("save_strategy", "steps"),
         "save_strategy is not steps", "remove it, or set save_strategy to steps"),
    Rule("save_total_limit", _while("save_strategy", "no"),
         "save_strategy is no", "remove it, or set another save_strategy"),
    Rule("eval_steps", _never("eval_strategy", "steps"),
         "eval_strategy is not steps", "remove it, or set eval_strategy to steps"),
    Rule(
        "eval_delay metric_for_best_model greater_is_better",
        _while("eval_strategy", None, "no"),
        "nothing is evaluated while it trains (eval_strategy is no)",
        "remove it, or set eval_strategy to steps or epoch",
    ),
    Rule("logging_steps", _never("logging_strategy", "steps"),
         "logging_strategy is not steps", "remove it, or set logging_strategy to steps"),
    Rule("gradient_checkpointing_kwargs", _never("gradient_checkpointing"),
         "gradient_checkpointing is off", "remove it, or set gradient_checkpointing to true"),
    Rule("adam_beta1 adam_beta2 adam_epsilon", _no_betas,
         "this optim has none", "remove it, or set another optim"),
    Rule("adam_epsilon", lambda get: "lion" in str(get("optim")),
         "this optim has none", "remove it, or set another optim"),
    Rule("optim_args", _plain_optimiser,
         "this optim takes none", "remove it; betas and weight decay have keys of their own"),
    Rule("optim_target_modules",
         lambda get: not str(get("optim")).startswith(("galore", "apollo")),
         "only the galore and apollo optimisers look at it", "remove it, or set one of them"),
    Rule("label_smoothing_factor", lambda get: "dft" in _losses(get),
         "loss_type dft takes none", "remove it, or set loss_type to nll"),
    Rule("length_column_name", _never("train_sampling_strategy", "group_by_length"),
         "rows are not grouped by length",
         "remove it, or set train_sampling_strategy to group_by_length"),
    Rule("dataloader_prefetch_factor dataloader_persistent_workers",
         _never("dataloader_num_workers"), "dataloader_num_workers is 0",
         "remove it, or set dataloader_num_workers to 1 or more"),
    Rule("prediction_loss_only", lambda get: True,
         "held-out rows are measured one by one, with all figures", "remove it"),
    Rule("liger_kernel_config", _never("use_liger_kernel"),
         "use_liger_kernel is off", "remove it, or set use_liger_kernel to true"),
    Rule("hub_*", _never("push_to_hub"),
         "push_to_hub is off", "remove it, or set push_to_hub to true"),
    Rule("project trackio_*", lambda get: "trackio" not in _names(get("report_to")),
         "only the tracker trackio looks at it", "remove it, or set report_to to trackio"),
    Rule("packing_strategy", _never("packing"),
         "packing is off", "remove it, or set packing to true"),
    Rule("lora_dropout", _never("disable_dropout", False, None),
         "disable_dropout is on, and turns LoRA's dropout off too",
         "remove it, or set disable_dropout to false"),
    Rule("f_alpha_divergence_coef", _never("f_divergence_type", "alpha_divergence"),
         "f_divergence_type is not alpha_divergence",
         "remove it, or set f_divergence_type to alpha_divergence"),
    Rule("precompute_ref_batch_size", _never("precompute_ref_log_probs"),
         "precompute_ref_log_probs is off",
         "remove it, or set precompute_ref_log_probs to true"),
    Rule("ref_model_mixup_alpha ref_model_sync_steps", _never("sync_ref_model"),
         "sync_ref_model is off", "remove it, or set sync_ref_model to true"),
    Rule("vllm_*", _never("use_vllm"),
         "use_vllm is off", "remove it, or set use_vllm to true"),
    Rule("entropy_coef_* entropy_target", _never("use_adaptive_entropy"),
         "use_adaptive_entropy is off", "remove it, or set use_adaptive_entropy to true"),
    Rule("use_bias_correction_kl", _never("beta"),
         "beta is 0: there is no KL term", "remove it, or set beta above 0"),
    Rule("num_completions_to_print log_unique_prompts log_completions_hub_repo",
         _never("log_completions"),
         "log_completions is off", "remove it, or set log_completions to true"),
    Rule("constraints", _while(HEAD, "reward"),
         "a reward model writes no answers that could be held to them",
         "remove it; the reward `constraints` of grpo, rloo and ppo counts what breaks them"),
    *(
        Rule(key, _without_loss(losses),
             f"loss_type is not {' or '.join(losses)}", "remove it, or set another loss_type")
        for key, losses in _BY_LOSS
    ),
)  # fmt: skip


def without_effect(
    config: Config, strategy: Strategy, *, keys: Collection[str] | None = None
) -> dict[str, Rule]:
    """The keys of a config that say something and change nothing, each with what hides it.

    Args:
        config: With the defaults filled in so far.
        strategy: Whose trainer it is for.
        keys: Those to look at; by default those that were said or chosen.
    """
    keys = {*config.said, *config.choices} if keys is None else keys
    trained, _ = strategy.planned(config, adapted=False)
    defaults = schema.load(type(trained))[schema.TRL_DEFAULTS]

    def get(key: str) -> Any:
        if key == HEAD:
            return trained.head
        return config.get(key, defaults.get(key))

    found: dict[str, Rule] = {}
    for rule in RULES:
        if not rule.hidden(get):
            continue
        for key in _matching(rule.keys.split(), keys):
            if _says_something(config.get(key)):
                found.setdefault(key, rule)
    return found


def refuse_without_effect(config: Config, strategy: Strategy) -> None:
    """See that everything the user said has an effect.

    Raises:
        ConfigError: With every key that has none.
    """
    problems = [
        _idle(config, key, rule)
        for key, rule in without_effect(config, strategy).items()
        if config.given(key) and not _off_by_machine(key, config)
    ]
    if problems:
        raise ConfigError(*problems)


def refuse_idle_everywhere(config: Config, under: Iterable[Config], strategy: Strategy) -> None:
    """The same as far as it can be told before machine, model and data are looked at.

    Args:
        config: As loaded.
        under: It with the defaults of each machine that it may meet.
        strategy: Whose trainer it is for.

    Raises:
        ConfigError: With every key of the user's that has no effect on any of them.
    """
    each = [without_effect(filled, strategy, keys=config.said) for filled in under]
    idle = set.intersection(*(set(found) for found in each))
    problems = [_idle(config, key, rule) for key, rule in each[0].items() if key in idle]
    if problems:
        raise ConfigError(*problems)


def _idle(config: Config, key: str, rule: Rule) -> Problem:
    """A key of the user's that changes nothing: without it the run is the same."""
    what = f"has no effect: {rule.why}"
    return Problem(f"{config.name}: {key}", what, rule.fix, drop([key]))


def effective(config: Config, strategy: Strategy) -> Config:
    """The config without the defaults that change nothing."""
    hidden = without_effect(config, strategy)
    return config.without([key for key in hidden if not config.given(key)])


def recorded(config: Config, strategy: Strategy) -> dict[str, Any]:
    """All values that count, with local paths made absolute: the same run from any folder."""
    values = config.portable()
    hidden = without_effect(config, strategy, keys=values)
    return {key: value for key, value in values.items() if key not in hidden}


def _off_by_machine(key: str, config: Config) -> bool:
    """Whether the key would count on another machine: then the machine's reason is shown."""
    quantised = config.choices.get("use_4bit")
    return key in ("bnb_4bit_quant_type", "use_double_quant") and bool(
        quantised is not None and quantised.source in ("machine", "default")
    )


def _matching(patterns: list[str], keys: Collection[str]) -> list[str]:
    """Those of the keys that a rule names."""
    found = []
    for pattern in patterns:
        stem = pattern.removesuffix("*")
        found += sorted(k for k in keys if k == pattern or (stem != pattern and k.startswith(stem)))
    return found


def _says_something(value: Any) -> bool:
    """Whether a value asks for anything: null, false and 0 ask for what is so anyway."""
    return value not in (None, False, 0)


def _names(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])
