"""An 8B on cards of 12 and 16 GiB: every strategy through `modelforge train`, on random weights.

Shape and vocabulary are the real model's, the weights drawn at random, the rows as long as asked
for; what fits is decided by the run's own plan. PyTorch is held to the size of the card. Printed
are tokens a second (over the whole loop, generation and the first step included) and the peak as
it was planned and as it was measured.

    python benchmarks/gpu_8b.py                      all strategies, 12 and 16 GiB
    python benchmarks/gpu_8b.py --cards 12 --strategies sft ppo
    python benchmarks/gpu_8b.py --tiny               the same code on the CPU at a tiny size

On the CPU there is neither a cap nor a counter: --tiny shows that the script runs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "examples" / "tiny" / "model"
STRATEGIES = ("sft", "qlora", "reward", "dpo", "grpo", "ppo")  # ppo takes reward's run
GIB = 2**30


def write_model(folder: Path, name: str, *, tiny: bool) -> None:
    """A folder that passes for a model's: its shape, the tiny model's tokenizer, no weights."""
    from gpu_memory import tiny_model
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    from modelforge.plan.architectures import find_architecture

    if tiny:
        tiny_model(folder)
    else:
        found = find_architecture(name, base_dir=folder, revision=None, where="--model")
        found.architecture.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY, model_max_length=10**6).save_pretrained(folder)
    save_file({}, folder / "model.safetensors")


def write_rows(folder: Path, length: int, rows: int = 64) -> None:
    """Demonstrations, pairs and prompts of about so many tokens, a third of them the prompt's."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY, model_max_length=10**6)

    def text(tokens: int, number: int) -> str:
        words = f"{number} cats and {number + 1} dogs ran home. " * tokens
        ids = tokenizer(words, add_special_tokens=False)["input_ids"][: tokens - 8]
        return str(tokenizer.decode(ids))

    made: dict[str, list[dict[str, str]]] = {"sft": [], "pairs": [], "prompts": []}
    for number in range(rows):
        prompt, answer = text(length // 3, number), text(2 * length // 3, number + 100)
        made["sft"].append({"prompt": prompt, "completion": answer})
        rejected = text(2 * length // 3, number + 200)
        made["pairs"].append({"prompt": prompt, "chosen": answer, "rejected": rejected})
        made["prompts"].append({"prompt": prompt, "answer": str(number)})
    for name, lines in made.items():
        content = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(content)


def config_of(strategy: str, folder: Path, card: float, length: int, steps: int) -> dict[str, Any]:
    """What a user would write, and nothing that decides what fits but the card and the length."""
    data = {"sft": "sft", "qlora": "sft", "grpo": "prompts", "ppo": "prompts"}
    config: dict[str, Any] = {
        "strategy": strategy,
        "model_name": str(folder / "model"),
        "dataset": str(folder / f"{data.get(strategy, 'pairs')}.jsonl"),
        "provider": "huggingface",
        "memory_budget_gb": card,
        "eval_split": 0,
        "max_steps": steps,
        "save_strategy": "no",
        "report_to": "none",
        "output_dir": str(folder / "runs"),
        "run_name": strategy,
        "resume": "never",
    }
    if strategy in ("grpo", "ppo"):
        config |= {"max_seq_length": length, "generation": {"max_new_tokens": length // 2}}
    if strategy == "grpo":
        config["rewards"] = ["numeric_answer"]
    if strategy == "ppo":
        config["reward_model"] = str(folder / "runs" / "reward")
    return config


def train(strategy: str, folder: Path, card: float, length: int, steps: int) -> dict[str, Any]:
    """One run in this process; what its folder says of it."""
    import torch
    from gpu_memory import materialise

    import modelforge
    from modelforge.evaluation import reload
    from modelforge.models.lora import exact_4bit_on_cpu, lora_config
    from modelforge.models.providers import choice
    from modelforge.models.providers.base import Loaded
    from modelforge.models.providers.huggingface import HuggingFace, weights_dtype
    from modelforge.plan import Calibration
    from modelforge.plan.model import meta_model

    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        room = (card - Calibration().context_gb) * GIB
        torch.cuda.set_per_process_memory_fraction(min(1.0, room / total))

    class Random(HuggingFace):
        """Draws what it is asked to load."""

        def load_model(
            self,
            source: Any,
            config: Any,
            hardware: Any,
            *,
            head: Any,
            tokenizer: Any,
            vocabulary: Any,
        ) -> Loaded:
            shape = self.load_model_config(source)
            dtype = weights_dtype(config, hardware)
            meta = meta_model(shape, config.settings, head=head, dtype=dtype)
            model = materialise(meta, hardware.device)
            model.name_or_path = model.config._name_or_path = source.base
            model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
            exact_4bit_on_cpu(model)
            return Loaded(model, lora_config(config.settings, head=head))

    choice.get_provider = lambda name: Random
    reload._SMALL = 0  # a random base stands in no folder that could be loaded again
    result = modelforge.train(config_of(strategy, folder, card, length, steps))
    plan = json.loads((result.run_dir / "plan.json").read_text())
    lines = (result.run_dir / "metrics.jsonl").read_text().splitlines()
    seconds = json.loads(lines[-1])["session"]["train_runtime"]
    predicted, measured = plan["predicted"], plan["measured"]
    return {
        "settings": predicted["settings"],
        "tokens_per_second": predicted["tokens_per_step"] * steps / seconds,
        "planned": predicted["peak_reserved"] / GIB,
        "measured": measured["peak_reserved"] / GIB if "peak_reserved" in measured else None,
        "allocated": measured["peak_allocated"] / GIB if "peak_allocated" in measured else None,
    }


def row(card: float, strategy: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    settings = found["settings"]
    shown = (
        f"{settings['per_device_train_batch_size']} × "
        f"{settings.get('gradient_accumulation_steps', 1)} × {settings['max_seq_length']}, "
        f"r {settings['lora_r']}" + ", 4-bit" * settings.get("use_4bit", False)
    )
    cells = [f"{found['tokens_per_second']:.0f}", f"{found['planned']:.3f}"]
    for key in ("measured", "allocated"):
        cells.append("–" if found[key] is None else f"{found[key]:.3f}")
    return f"| {card:g} | {strategy} | {shown} | " + " | ".join(cells) + " |"


HEAD = """\
| card, GiB | strategy | batch × accumulation × length | tokens/s | planned, GiB | measured, GiB \
| allocated, GiB |
|---|---|---|---|---|---|---|"""


def place() -> str | None:
    """The card, as it calls itself; asked of another process, so that this one keeps off it."""
    code = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="meta-llama/Llama-3.1-8B-Instruct")
    parser.add_argument("--cards", type=float, nargs="+", default=[12.0, 16.0], metavar="GiB")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--length", type=int, help="tokens of a row; 1024, from 16 GiB on 2048")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        strategy, folder, card, length = options.one
        found = train(strategy, Path(folder), float(card), int(length), options.steps)
        (Path(folder) / "found.json").write_text(json.dumps(found))
        return 0
    gpu = place()
    if gpu is None and not options.tiny:
        print("no CUDA device here: nothing to measure. --tiny runs the script on the CPU.")
        return 2
    where = gpu or "the CPU: no cap, no counter of memory; only that the script runs"
    print(f"{datetime.date.today()}, {where}; {'a tiny model' if options.tiny else options.model}")
    print(f"random weights, {options.steps} steps\n\n{HEAD}")
    failed = 0
    for card in options.cards:
        length = options.length or (64 if options.tiny else 1024 if card < 16 else 2048)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "model").mkdir()
            write_model(folder / "model", options.model, tiny=options.tiny)
            write_rows(folder, length)
            for strategy in options.strategies:
                command = [sys.executable, __file__, "--steps", str(options.steps), "--one"]
                command += [strategy, name, str(card), str(length)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    failed += 1
                    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                    print(f"| {card:g} | {strategy} | failed: {last} | | | | |", flush=True)
                    continue
                found = json.loads((folder / "found.json").read_text())
                print(row(card, strategy, found), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
