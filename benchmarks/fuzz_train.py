"""Fuzz what `check` lets through: random configs on odd models, prepared and trained for two steps.

    OMP_NUM_THREADS=1 python benchmarks/fuzz_train.py --cases 2000 --seed 0

Each case is a config that trains, with a few keys of its strategy's schema at random values, on one
of several tiny models (architectures, pad tokens, tied or not, real chat templates, adapters,
reward models). The first of its keys goes round all keys of all strategies. What `prepare` refuses
with a `UserError` is refused; what the config's own check refuses is mostly drawn anew. All else is
trained as `modelforge.train` does. Most cases end after their second step, and answer no held-out
prompts; one in eight is trained, measured and saved to its end. A failure is a case that ends in
any other exception, or that takes longer than the limit. A case that is refused only after `check`
is counted as late.

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
STRATEGIES = ("sft", "qlora", "reward", "dpo", "kto", "grpo", "rloo", "ppo", "rlhf")
KIND = {"sft": "data.jsonl", "qlora": "data.jsonl", "kto": "labelled.jsonl"}
KIND |= dict.fromkeys(("reward", "dpo", "rlhf"), "pairs.jsonl")
TO_THE_END = 1 / 8  # the share of cases that are measured and saved after their steps too
# Keys that the case sets itself, or whose only effect is to take long.
LEFT_ALONE = "strategy model_name dataset output_dir run_name $schema stages torch_compile_mode"
# Keys whose values name what a schema cannot know.
NAMED: dict[str, tuple[Any, ...]] = {
    "report_to": ("all", "tensorboard", "wandb", "mlflow", "comet_ml", "neptune", "swanlab",
                  "trackio", "dvclive", "clearml", "azure_ml", "codecarbon", "flyte", "dagshub",
                  "no_such", ["tensorboard", "wandb"], [], ["none"]),
    "deepspeed": ({}, {"zero_optimization": {"stage": 2}}, {"zero_optimization": {"stage": 9}},
                  {"train_batch_size": 7}, {"bf16": {"enabled": True}}, "ds.json", "data.jsonl"),
    "fsdp": ("full_shard", "full_shard auto_wrap", "no_such", ["full_shard"], True),
    "fsdp_config": ({}, {"version": 2}, {"no_such": 1}, {"min_num_params": 10}),
    "distributed": ("ddp", "fsdp", "zero2", "zero3", "auto", "no_such"),
    "ddp_backend": ("gloo", "nccl", "mpi", "no_such"),
    "dataloader_num_workers": (0, -1, "two"),  # processes take long to start
    "dataset_num_proc": (1, 0, -1),
    "reward_model": ("scores", "labels", "llama", "score_adapter", "adapter", "gone", ".", ""),
    "judge_model": ("scores", "labels", "llama", "score_adapter", "gone"),
    "dataset_split": ("train", "test", "train[:3]", ""),
    "torch_compile": (False,),  # a minute
    "torch_compile_backend": ("tvm", "no_such", "ipex"),
    "lora_target_modules": ("all-linear", ["q_proj"], ["q_proj", "embed_tokens"], ["lm_head"],
                            ".*proj", ["c_attn"], ["query_key_value"], [], "("),
}  # fmt: skip
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 512,
         "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 8,
         "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 256,
         "ffn_dim": 32, "word_embed_proj_dim": 16, "num_local_experts": 2,
         "tie_word_embeddings": False}  # fmt: skip
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2", "gpt_neox", "opt", "phi",
                 "mixtral", "bert", "t5")  # fmt: skip


def make_models(folder: Path) -> list[str]:
    """Tiny models of many kinds, with random weights: their folders' names."""
    import torch
    import trl
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
    for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja")):
        words = copy.deepcopy(tokenizer)
        words.chat_template = path.read_text(encoding="utf-8")
        save(f"talks_{path.stem}", plain, words)
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


def make(random: Random, pair: tuple[str, str], models: list[str], folder: Path) -> dict[str, Any]:
    """One config: one that trains, with a few of its keys changed.

    Args:
        pair: The strategy, and the key that is changed first.
    """
    strategy, key = pair
    schema = fuzz_configs.schema_of(strategy)
    talking = random.random() < 0.5
    few = [name for name in models if name.startswith("talks") == talking]
    model = random.choice(few) if random.random() < 0.5 else random.choice(("llama", "tied"))
    values: dict[str, Any] = {
        "strategy": strategy, "model_name": str(folder / model), "max_steps": 2,
        "dataset": str(folder.parent / KIND.get(strategy, "prompts.jsonl")), "lora_r": 4,
        "max_seq_length": 160 if "talks" in model else 32, "report_to": "none",
        "per_device_train_batch_size": 4,
        "output_dir": str(folder.parent / "runs"), "eval_split": random.choice((0, 4)),
        "learning_rate": 1e-3, "save_strategy": "no", "optim": "adamw_torch", "resume": "never",
    }  # fmt: skip
    if strategy in ("grpo", "rloo", "ppo", "rlhf"):
        values["generation"] = {"max_new_tokens": 4}
    if strategy in ("grpo", "rloo", "ppo"):
        values["rewards"] = ["exact_match"]
    if strategy in ("grpo", "rloo"):
        values["num_generations"] = 2
    for _ in range(random.choice((1, 1, 2, 3))):
        node = schema["properties"][key]
        if random.random() < 0.25:
            values[key] = fuzz_configs.nasty(random)
        else:
            values[key] = likely(random, key, fuzz_configs.of_schema(random, node, schema), folder)
        key = random.choice(keys_of(strategy))
    return values


def loads(values: dict[str, Any]) -> bool:
    """Whether the config's own check has nothing against it."""
    import modelforge

    try:
        modelforge.load_config(copy.deepcopy(values))
    except modelforge.UserError:
        return False
    except Exception:
        return True  # `run_case` shows it
    return True


def keys_of(strategy: str) -> list[str]:
    """The keys that are changed."""
    keys = fuzz_configs.schema_of(strategy)["properties"]
    return [key for key in keys if key not in LEFT_ALONE.split()]


def likely(random: Random, key: str, value: Any, folder: Path) -> Any:
    """A value that runs: short where the schema knows no upper bound."""
    if key in ("max_steps", "num_train_epochs") and isinstance(value, int | float):
        return random.choice((1, 2, 3))
    if key in NAMED:
        value = copy.deepcopy(random.choice(NAMED[key]))
        return str(folder / value) if key.endswith("_model") else value
    if isinstance(value, int) and not isinstance(value, bool) and value > 64:
        return random.choice((value, 1, 2, 8, 64))
    return value


def run_case(values: dict[str, Any], *, to_the_end: bool) -> str:
    """``refused``, ``trained`` or ``late``; what else is raised is a failure."""
    import modelforge
    from modelforge.evaluation import results
    from modelforge.training import run as running
    from modelforge.training.prepare import prepare

    kept = running.build_trainer, running.prepare, results._samples
    checked = False

    def preparing(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        prepared = kept[1](*args, **kwargs)
        checked = True
        return prepared

    def stopping(*args: Any) -> Any:
        trainer = kept[0](*args)
        trainer.add_callback(stop_at_two(raising=not to_the_end))
        return trainer

    running.build_trainer, running.prepare = stopping, preparing
    if not to_the_end:
        results._samples = lambda *args, **kwargs: []
    try:
        config = modelforge.load_config(values)
        if config.settings.strategy == "rlhf":
            prepare(config)
            modelforge.RLHFTrainer(config).check()
            checked = True
        modelforge.train(config)
    except modelforge.UserError as refused:
        return f"late: {str(refused)[:200]}" if checked else f"refused: {str(refused)[:200]}"
    except EnoughSteps:
        pass
    finally:
        running.build_trainer, running.prepare, results._samples = kept
    return "trained"


class EnoughSteps(BaseException):
    """The second step is done."""


def stop_at_two(*, raising: bool) -> Any:
    """A callback that ends training after its second step, or the whole run."""
    from transformers import TrainerCallback

    class StopAtTwo(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step >= 2:
                if raising:
                    raise EnoughSteps
                control.should_training_stop = True

    return StopAtTwo()


def guarded(values: dict[str, Any], *, to_the_end: bool) -> str:
    """`run_case` within the limit and without a word: what became of it."""
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stderr(quiet), contextlib.redirect_stdout(quiet):
            return run_case(values, to_the_end=to_the_end)
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
    pairs = [(strategy, key) for strategy in STRATEGIES for key in keys_of(strategy)]
    Random(f"pairs {options.seed}").shuffle(pairs)
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
            random = Random(f"train {options.seed} {number}")
            for _ in range(random.choice((1, 5, 5, 5))):
                values = make(random, pairs[number % len(pairs)], models, folder)
                if loads(values):
                    break
            if options.show:
                print(number, json.dumps(values, default=str)[:2000], flush=True)
            became = guarded(values, to_the_end=random.random() < TO_THE_END)
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
