"""Predicted peak memory against measurements that others published.

Each row names its source and the setting as published. Rows whose setting is fully known (model,
types, batch, length, adapter, optimiser, loss) must agree within 3 %; the others are printed to be
judged by a reader. Another implementation than TRL's is said where one was measured.

    python benchmarks/memory_published.py

PEFT's comparison (github.com/huggingface/peft, method_comparison/MetaMathQA/results): an own
training loop with transformers' loss, batch 4 padded to the longest row, of at most 692 tokens.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from modelforge.configfile.load import load_config
from modelforge.plan import plan
from modelforge.plan.allocator import GIB, CachingAllocator
from modelforge.plan.architectures import find_architecture
from modelforge.plan.kernels import cuda
from modelforge.plan.meta_run import build_meta_run
from modelforge.plan.model import meta_model
from modelforge.plan.planner import card, find
from modelforge.plan.step import MetaRun, alone, log_steps
from modelforge.plan.tracker import Tracker

PEFT_ROW = 692
TRL_GRPO = "jsboige/CoursIA PostTraining/_measurements: TRL GRPO, nf4 double quant, r 8, batch 8"
NOTEBOOK = "huggingface/trl sft_trl_lora_qlora notebook, T4"
TORCHTUNE = "pytorch/torchtune README, RTX 4090: 2 × 2048 packed, compile (its own model code)"


@dataclass(frozen=True)
class Row:
    """One published measurement.

    Attributes:
        source: Where it was published, and its setting.
        what: ``allocated`` or ``reserved``.
        measured: In GiB.
        predict: Gives allocated and reserved in bytes.
        complete: Whether the setting is fully published.
    """

    source: str
    what: str
    measured: float
    predict: Callable[[], tuple[int, int]]
    complete: bool = False


def peft_comparison(lora: dict[str, Any] | None) -> Callable[[], tuple[int, int]]:
    """Llama-3.2-3B in bfloat16, batch 4, no checkpointing, AdamW, transformers' own loss."""

    def predict() -> tuple[int, int]:
        tracker = peft_log(lora, length=PEFT_ROW)
        return tracker.peak, CachingAllocator().replay(tracker.events).max_reserved

    return predict


def peft_log(lora: dict[str, Any] | None, *, length: int) -> Tracker:
    """The log of its step on four rows of this length."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments, default_data_collator

    found = find_architecture("llama-3.2-3b", base_dir=Path(), revision=None, where="")
    settings = config(strategy="sft", use_4bit=False).settings
    with alone(), tempfile.TemporaryDirectory() as folder:
        model: Any = meta_model(
            found.architecture, settings, head="causal-lm", dtype=torch.bfloat16
        )
        if lora is not None:
            with torch.device("meta"):
                model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
        rows = [{k: [2] * length for k in ("input_ids", "attention_mask", "labels")}] * 4
        args = TrainingArguments(
            output_dir=folder, use_cpu=True, bf16=False, per_device_train_batch_size=4,
            optim="adamw_torch", report_to=[], disable_tqdm=True, gradient_checkpointing=False,
        )  # fmt: skip
        arguments = {
            "model": model,
            "args": args,
            "train_dataset": rows,
            "data_collator": default_data_collator,
        }
        job = MetaRun(Trainer, arguments, rows, 4 * length, padded=True)
        return log_steps(job, cuda((8, 9)))[0]


def grpo_with_full_logits(model_name: str) -> Callable[[], tuple[int, int]]:
    """TRL's GRPO before its fused head: float32 logits of all completion tokens.

    Prompts of about 12 and completions of 96 tokens are what the source's logs suggest.
    """

    def predict() -> tuple[int, int]:
        said = config(
            strategy="grpo",
            model_name=model_name,
            max_seq_length=108,
            generation={"max_new_tokens": 96},
            num_generations=8,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            lora_r=8,
            lora_dropout=0.05,
        )
        with alone(), tempfile.TemporaryDirectory() as folder:
            job = build_meta_run(
                said, find(said).architecture, card(24), adapter=None, output_dir=Path(folder)
            )
            old = replace(job, trainer_class=_without_fused_head(job.trainer_class))
            tracker, _ = log_steps(old, cuda((8, 9)))
        return tracker.peak, CachingAllocator().replay(tracker.events).max_reserved

    return predict


def _without_fused_head(trainer_class: Any) -> Any:
    class FullLogits(trainer_class):
        def _get_per_token_logps_and_entropies(
            self, model: Any, ids: Any, mask: Any, keep: int, *args: Any, **kwargs: Any
        ) -> tuple[Any, Any, None]:
            from trl.trainer.utils import entropy_from_logits, selective_log_softmax

            logits = model(
                input_ids=ids, attention_mask=mask, logits_to_keep=keep + 1, use_cache=False
            ).logits
            logits = logits[:, :-1, :][:, -keep:, :] / self.temperature
            logps = selective_log_softmax(logits, ids[:, -keep:])
            with torch.no_grad():
                entropies = entropy_from_logits(logits)
            return logps, entropies, None

    return FullLogits


def modelforge_config(
    capability: tuple[int, int] = (8, 9), **values: Any
) -> Callable[[], tuple[int, int]]:
    """What TRL as installed would take for this config."""

    def predict() -> tuple[int, int]:
        hardware = replace(card(24), compute_capability=capability, bf16=capability >= (8, 0))
        made = plan(config(**values), hardware=hardware)
        return made.peak_allocated, made.peak_reserved

    return predict


def config(**values: Any) -> Any:
    """A config that says all that matters."""
    said = {
        "model_name": "llama-3.1-8b",
        "dataset": "d",
        "use_4bit": True,
        "gradient_checkpointing": True,
        "gradient_accumulation_steps": 1,
        "optim": "adamw_torch_fused",
    }
    return load_config({**said, **values})


def rows() -> list[Row]:
    """The measurements."""
    peft = "huggingface/peft MetaMathQA, L40S, "
    attention = {"r": 32, "lora_alpha": 64, "target_modules": ["q_proj", "v_proj"]}
    mlp = {"r": 10, "lora_alpha": 20, "target_modules": ["up_proj", "gate_proj", "down_proj"]}
    tune = {"per_device_train_batch_size": 2, "max_seq_length": 2048, "lora_r": 8}
    swift = {"per_device_train_batch_size": 1, "max_seq_length": 2048, "lora_r": 8}
    notebook = {"strategy": "qlora", "per_device_train_batch_size": 1, "max_seq_length": 1024,
                "lora_r": 32, "optim": "paged_adamw_8bit", "capability": (7, 5)}  # fmt: skip
    qlora = {"strategy": "qlora", "optim": "adamw_torch"}
    return [
        Row(f"{peft}LoRA r 32 q v", "reserved", 20.762, peft_comparison(attention), True),
        Row(f"{peft}LoRA r 10 MLP", "reserved", 23.002, peft_comparison(mlp), True),
        Row(f"{peft}full", "reserved", 36.199, peft_comparison(None), True),
        Row(f"{TORCHTUNE}, QLoRA", "allocated", 7.4, modelforge_config(**qlora, **tune)),
        Row(
            f"{TORCHTUNE}, LoRA bf16",
            "allocated",
            16.2,
            modelforge_config(strategy="sft", **tune, use_4bit=False),
        ),
        Row(
            "modelscope/ms-swift examples/train/qlora, Qwen2.5-7B, 1 × 2048, '10 GB'",
            "reserved",
            10e9 / GIB,
            modelforge_config(strategy="qlora", model_name="qwen2.5-7b", **swift),
        ),
        Row(f"{TRL_GRPO}, Qwen3-1.7B", "allocated", 2.744, grpo_with_full_logits("qwen3-1.7b")),
        Row(f"{TRL_GRPO}, Qwen3-4B", "allocated", 4.096, grpo_with_full_logits("qwen3-4b")),
        Row(f"{TRL_GRPO}, Qwen3-8B", "allocated", 7.406, grpo_with_full_logits("qwen3-8b")),
        Row(f"{NOTEBOOK}, Llama-3.1-8B", "reserved", 10.9, modelforge_config(**notebook)),
        Row(
            f"{NOTEBOOK}, Qwen3-14B",
            "reserved",
            14.04,
            modelforge_config(**(notebook | {"model_name": "qwen3-14b"})),
        ),
    ]


def main() -> int:
    worst = 0.0
    for row in rows():
        allocated, reserved = row.predict()
        predicted = (allocated if row.what == "allocated" else reserved) / GIB
        error = predicted / row.measured - 1
        state = "fully published" if row.complete else "setting not fully published"
        print(
            f"{row.source}\n  {row.what} {row.measured:.2f} GiB measured, {predicted:.2f} "
            f"predicted: {error:+.1%} ({state})",
            flush=True,
        )
        worst = max(worst, abs(error)) if row.complete else worst
    print(f"largest error of the fully published rows: {worst:.1%}")
    return int(worst > 0.03)


if __name__ == "__main__":
    sys.exit(main())
