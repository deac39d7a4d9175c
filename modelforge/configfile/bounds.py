"""What the fields of TRL's config classes can hold, where their types do not say it.

TRL and transformers look at these once a model is loaded, or break on them in a step.
"""

from __future__ import annotations

from typing import Any

_POSITIVE = {"exclusiveMinimum": 0}
_NOT_NEGATIVE = {"minimum": 0}
_ONE_OR_MORE = {"minimum": 1}
_SHARE = {"minimum": 0, "maximum": 1}
_PROCESSES = {"minimum": 0, "maximum": 256}
_PORT = {"minimum": 1, "maximum": 65535}
_SEED = {"minimum": 0, "maximum": 2**32 - 1}

#: Name of a field → bounds of the numbers that it holds, in JSON Schema's words.
BOUNDS: dict[str, dict[str, Any]] = {
    "adam_beta1": {"minimum": 0, "exclusiveMaximum": 1},
    "adam_beta2": {"minimum": 0, "exclusiveMaximum": 1},
    "adam_epsilon": _POSITIVE,
    "beta": _NOT_NEGATIVE,
    "center_rewards_coefficient": _NOT_NEGATIVE,
    "data_seed": _SEED,
    "dataloader_num_workers": _PROCESSES,
    "dataloader_prefetch_factor": _ONE_OR_MORE,
    "dataset_num_proc": {"minimum": 1, "maximum": 256},
    "ddp_timeout": _ONE_OR_MORE,
    "delta": _POSITIVE,
    "discopop_tau": _POSITIVE,
    "epsilon": _NOT_NEGATIVE,
    "epsilon_high": _NOT_NEGATIVE,
    "eval_accumulation_steps": _ONE_OR_MORE,
    "eval_delay": _NOT_NEGATIVE,
    "eval_steps": _POSITIVE,
    "generation_batch_size": _ONE_OR_MORE,
    "gradient_accumulation_steps": _ONE_OR_MORE,
    "label_smoothing": {"minimum": 0, "exclusiveMaximum": 0.5},
    "label_smoothing_factor": _SHARE,
    "ld_alpha": _SHARE,
    "learning_rate": _POSITIVE,
    "logging_steps": _POSITIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "max_length": {"minimum": 8},
    "max_steps": {"minimum": -1},
    "min_p": _SHARE,
    "neftune_noise_alpha": _NOT_NEGATIVE,
    "num_generations": {"minimum": 2},
    "num_generations_eval": _ONE_OR_MORE,
    "num_iterations": _ONE_OR_MORE,
    "num_train_epochs": _POSITIVE,
    "pad_to_multiple_of": _ONE_OR_MORE,
    "per_device_eval_batch_size": _ONE_OR_MORE,
    "per_device_train_batch_size": _ONE_OR_MORE,
    "precompute_ref_batch_size": _ONE_OR_MORE,
    "ref_model_mixup_alpha": _SHARE,
    "ref_model_sync_steps": _ONE_OR_MORE,
    "repetition_penalty": _POSITIVE,
    "router_aux_loss_coef": _NOT_NEGATIVE,
    "save_steps": _POSITIVE,
    "save_total_limit": _ONE_OR_MORE,
    "steps_per_generation": _ONE_OR_MORE,
    "temperature": _POSITIVE,
    "top_entropy_quantile": _SHARE,
    "top_p": {"exclusiveMinimum": 0, "maximum": 1},
    "torch_empty_cache_steps": _ONE_OR_MORE,
    "vllm_group_port": _PORT,
    "vllm_max_model_length": _ONE_OR_MORE,
    "vllm_server_port": _PORT,
    "vllm_tensor_parallel_size": _ONE_OR_MORE,
    "warmup_steps": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
}

#: Name of a field → what the object that it holds may have; TRL's own types take any text too.
OBJECTS: dict[str, dict[str, Any]] = {
    "chat_template_kwargs": {"type": "object"},
    "gradient_checkpointing_kwargs": {
        "type": "object",
        "properties": {
            "use_reentrant": {"type": "boolean"},
            "preserve_rng_state": {"type": "boolean"},
            "determinism_check": {"enum": ["default", "none"]},
        },
        "additionalProperties": False,
    },
    "lr_scheduler_kwargs": {"type": "object"},
}

#: Name of a field, of all classes or of one → the values that it can have.
VALUES: dict[str, tuple[str, ...]] = {
    "DPOConfig.loss_type": (
        "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard",
        "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
    ),
    "GRPOConfig.loss_type": (
        "grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo",
    ),
    "SFTConfig.loss_type": ("nll", "dft", "chunked_nll"),
    # Not "quantized": the policy would sample from other probabilities than it is trained on.
    "cache_implementation": ("dynamic", "static", "offloaded", "offloaded_static"),
    "f_divergence_type": ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "packing_strategy": ("bfd", "bfd_split", "wrapped"),
    "scale_rewards": ("group", "batch", "none"),
    "truncation_mode": ("keep_start", "keep_end"),
    "vllm_importance_sampling_mode": (
        "token_truncate", "token_mask", "sequence_truncate", "sequence_mask",
    ),
    "vllm_model_impl": ("auto", "vllm", "transformers"),
}  # fmt: skip
