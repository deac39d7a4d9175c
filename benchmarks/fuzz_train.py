"""Fuzz what `check` lets through: random configs on odd models, prepared and trained for two steps.

    OMP_NUM_THREADS=1 python benchmarks/fuzz_train.py --cases 2000 --seed 0

Each case is a config that trains, with a few keys of its strategy's schema at random values, on one
of several tiny models (architectures, pad tokens, tied or not, adapters, reward models). What
`prepare` refuses with a `UserError` is refused. All else is trained as `modelforge.train` does, and
stopped after its second step. A failure is a case that ends in any other exception, or that takes
longer than the limit. A case that is refused only after `check` is counted as late.

Each case has a random generator of its own: ``--cases 1 --first 4711 --show`` runs one again.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import io
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import fuzz_configs
from fuzz import TooLong, place, too_long

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

TINY = Path(__file__).parents[1] / "examples" / "tiny" / "model"
LIMIT = 60.0  # seconds of processor time that a case may take
STRATEGIES = ("sft", "qlora", "reward", "dpo", "grpo", "rloo", "ppo", "rlhf")
KIND = {"sft": "data.jsonl", "qlora": "data.jsonl"}
KIND |= dict.fromkeys(("reward", "dpo", "rlhf"), "pairs.jsonl")
# Keys that reach outside of the process, or whose only effect is to take long.
LEFT_ALONE = """
    strategy model_name dataset output_dir run_name torch_compile torch_compile_mode
    report_to distributed deepspeed fsdp fsdp_config ddp_backend
    dataloader_num_workers dataset_num_proc trust_remote_code model_revision dataset_split
    use_vllm $schema reward_model judge_model stages
"""
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 512,
         "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 8,
         "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128,
         "ffn_dim": 32, "word_embed_proj_dim": 16, "num_local_experts": 2,
         "tie_word_embeddings": False}  # fmt: skip
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2", "gpt_neox", "opt", "phi",
                 "mixtral", "bert", "t5")  # fmt: skip


def make_models(folder: Path) -> list[str]:
    """Tiny models of many kinds, with random weights: their folders' names."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY)

    def save(name: str, model: Any, words: Any = tokenizer) -> None:
        model.save_pretrained(folder / name)
        words.save_pretrained(folder / name)

    def small(kind: str = "llama", **keys: Any) -> Any:
        return AutoConfig.for_model(kind, **(SHAPE | keys))

    for kind in ARCHITECTURES:
        with contextlib.suppress(ValueError):  # t5 is no causal language model
            save(kind, AutoModelForCausalLM.from_config(small(kind)))
    save("tied", AutoModelForCausalLM.from_config(small(tie_word_embeddings=True)))
    plain = AutoModelForCausalLM.from_config(small(pad_token_id=None))
    for name, pad in (("no_pad", None), ("pad_eos", tokenizer.eos_token)):
        words = copy.deepcopy(tokenizer)
        words.pad_token = pad
        save(name, plain, words)
    words = copy.deepcopy(tokenizer)
    words.add_tokens(["<one>", "<two>"])
    save("more_tokens", plain, words)
    words = copy.deepcopy(tokenizer)
    words.chat_template = None
    save("no_template", plain, words)
    save("thinks", plain, thinking(copy.deepcopy(tokenizer)))
    save("appends_eos", plain, appending(copy.deepcopy(tokenizer)))
    scores = AutoModelForSequenceClassification.from_config(small(num_labels=1))
    save("scores", scores)
    save("labels", AutoModelForSequenceClassification.from_config(small(num_labels=3)))
    for name, model, task in (
        ("adapter", plain, "CAUSAL_LM"),
        ("score_adapter", scores, "SEQ_CLS"),
    ):
        model = copy.deepcopy(model)
        model.name_or_path = str(folder / ("no_pad" if task == "CAUSAL_LM" else "scores"))
        peft = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type=task)
        save(name, get_peft_model(model, peft))
    return sorted(path.name for path in folder.iterdir())


def thinking(words: Any) -> Any:
    """A tokenizer whose template opens a thought, and takes earlier ones away."""
    words.chat_template = (
        "{%- for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}{% endfor %}"
        "{%- if add_generation_prompt %}<|assistant|><think>{% endif %}"
    )
    return words


def appending(words: Any) -> Any:
    """A tokenizer without a template that ends each text in EOS."""
    from tokenizers.processors import TemplateProcessing

    eos = words.eos_token
    words.chat_template = None
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {eos}", special_tokens=[(eos, words.eos_token_id)]
    )
    return words


def make(random: Random, models: list[str], folder: Path) -> dict[str, Any]:
    """One config: one that trains, with a few of its keys changed."""
    strategy = random.choice(STRATEGIES)
    schema = fuzz_configs.schema_of(strategy)
    model = random.choice(models) if random.random() < 0.5 else random.choice(("llama", "tied"))
    values: dict[str, Any] = {
        "strategy": strategy, "model_name": str(folder / model), "max_steps": 2,
        "dataset": str(folder.parent / KIND.get(strategy, "prompts.jsonl")), "lora_r": 4,
        "max_seq_length": 32, "per_device_train_batch_size": 4, "report_to": "none",
        "output_dir": str(folder.parent / "runs"), "eval_split": random.choice((0, 4)),
        "learning_rate": 1e-3, "save_strategy": "no", "optim": "adamw_torch", "resume": "never",
    }  # fmt: skip
    if strategy in ("grpo", "rloo", "ppo", "rlhf"):
        values["generation"] = {"max_new_tokens": 4}
    if strategy in ("grpo", "rloo", "ppo"):
        values["rewards"] = ["exact_match"]
    if strategy in ("grpo", "rloo"):
        values["num_generations"] = 2
    keys = [key for key in schema["properties"] if key not in LEFT_ALONE.split()]
    for _ in range(random.choice((1, 1, 2, 3))):
        key = random.choice(keys)
        node = schema["properties"][key]
        if random.random() < 0.15:
            values[key] = fuzz_configs.nasty(random)
        else:
            values[key] = likely(random, key, fuzz_configs.of_schema(random, node, schema))
    return values


def likely(random: Random, key: str, value: Any) -> Any:
    """A value that runs: short where the schema knows no upper bound."""
    if key in ("max_steps", "num_train_epochs") and isinstance(value, int | float):
        return random.choice((1, 2, 3))
    if key == "torch_compile_backend":  # inductor takes a minute
        return random.choice(("tvm", "no_such", "eager", "ipex"))
    if key == "lora_target_modules":
        return random.choice((value, "all-linear", ["q_proj"], ["q_proj", "embed_tokens"],
                              ["lm_head"], ".*proj", ["c_attn"], ["query_key_value"]))  # fmt: skip
    if isinstance(value, int) and not isinstance(value, bool) and value > 64:
        return random.choice((value, 1, 2, 8, 64))
    return value


def run_case(values: dict[str, Any]) -> str:
    """``refused``, ``trained`` or ``late``; what else is raised is a failure."""
    import modelforge
    from modelforge.training import run as running
    from modelforge.training.prepare import prepare

    try:
        config = modelforge.load_config(values)
        prepare(config)
        if config.settings.strategy == "rlhf":
            modelforge.RLHFTrainer(config).check()
    except modelforge.UserError:
        return "refused"
    build = running.build_trainer

    def stopping(*args: Any) -> Any:
        trainer = build(*args)
        trainer.add_callback(stop_at_two())
        return trainer

    running.build_trainer = stopping
    try:
        modelforge.train(config)
    except modelforge.UserError as late:
        return f"late: {str(late)[:200]}"
    finally:
        running.build_trainer = build
    return "trained"


def stop_at_two() -> Any:
    """A callback that ends training after its second step."""
    from transformers import TrainerCallback

    class StopAtTwo(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step >= 2:
                control.should_training_stop = True

    return StopAtTwo()


def guarded(values: dict[str, Any]) -> str:
    """`run_case` within the limit and without a word: what became of it."""
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stderr(quiet), contextlib.redirect_stdout(quiet):
            return run_case(values)
    except TooLong:
        return f"FAILED longer than {LIMIT:.0f} s of processor time"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        if os.environ.get("FUZZ_TRACEBACK"):
            traceback.print_exc()
        return (
            f"FAILED {type(error).__name__} at {place(error)}: {' '.join(str(error).split())[:160]}"
        )
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main(arguments: list[str] | None = None) -> int:
    """Print what became of the cases; the exit code is 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--show", action="store_true", help="print each case")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, too_long)
    counts: Counter[str] = Counter()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "models"
        folder.mkdir()
        fuzz_configs.write_data(folder.parent)
        models = make_models(folder)
        os.chdir(folder.parent)
        for number in range(options.first, options.first + options.cases):
            if time.perf_counter() - start > options.seconds:
                break
            values = make(Random(f"train {options.seed} {number}"), models, folder)
            if options.show:
                print(number, json.dumps(values, default=str)[:2000], flush=True)
            became = guarded(values)
            kind = became.partition(" ")[0].rstrip(":")
            counts[kind] += 1
            if kind in ("FAILED", "late") or options.show:
                print(f"{number}: {became}", flush=True)
            shutil.rmtree(folder.parent / "runs", ignore_errors=True)
    print(
        f"{counts.total()} cases: {counts['trained']} trained, {counts['refused']} refused by "
        f"check, {counts['late']} refused later, {counts['FAILED']} failed (seed {options.seed}, "
        f"{time.perf_counter() - start:.0f} s, {datetime.date.today()}, {os.cpu_count()}-core "
        f"{platform.machine()} CPU, Python {platform.python_version()})"
    )
    return int(counts["FAILED"] > 0)


if __name__ == "__main__":
    sys.exit(main())
