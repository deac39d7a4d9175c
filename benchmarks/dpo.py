"""What DPO teaches the tiny model, and what it costs of what SFT had taught it.

    OMP_NUM_THREADS=1 python benchmarks/dpo.py "" "beta=0.5 learning_rate=5e-4" --seeds 42 1 2

For each seed, SFT as in `modelforge demo`; then DPO on its adapter with each set of keys over
configs/tiny/dpo.json (an empty set: as shipped), all in one pass over the base as `modelforge tune`
does it. Shown are the two figures of the demo on held-out rows, word problems answered correctly
and pairs whose better answer is likelier; and the second figure on pairs of other questions
(`preference_b_eval`). `--keep` names a folder for the adapters of SFT: what is there is not
trained again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
# The reference's figures are the same computed before training, and cheaper.
ALL = {"sft": [], "dpo": ["precompute_ref_log_probs=true"]}


def trained(strategy: str, trials: Mapping[str, Sequence[str]], folder: Path) -> list[Path]:
    """The adapters of these runs, trained side by side; name → keys over the shipped config."""
    from modelforge.configfile.load import load_config
    from modelforge.configfile.presets import tiny_preset
    from modelforge.training.prepare import prepare
    from modelforge.training.trials import trained_until, why_not_joined

    values = tiny_preset(strategy, TINY) | {"output_dir": str(folder), "report_to": "none"}
    few = folder / f"few-{strategy}.jsonl"  # trials have held-out rows, and these are not measured
    few.parent.mkdir(parents=True, exist_ok=True)
    rows = Path(values["eval_dataset"]).read_text(encoding="utf-8").splitlines()
    few.write_text("\n".join(rows[:4]) + "\n", encoding="utf-8")
    values |= {"eval_dataset": str(few)}
    with contextlib.redirect_stderr(io.StringIO()):
        prepared = [
            prepare(load_config(values, overrides=[f"run_name={name}", *ALL[strategy], *keys]))
            for name, keys in trials.items()
        ]
        list(trained_until(1.0, prepared, joined=why_not_joined(prepared) is None))
    found = [each.run.last_checkpoint() for each in prepared]
    return [each for each in found if each is not None]


def figures(adapter: Path) -> list[float]:
    """Words right, pairs right, and pairs right of other questions."""
    from peft import PeftModel

    from modelforge.tiny.evaluate import load, preference_accuracy, read_rows, sft_accuracy

    model: Any
    model, tokenizer = load(TINY / "model")
    model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    pairs = [read_rows(name) for name in ("preference_eval", "preference_b_eval")]
    words = sft_accuracy(model, tokenizer, read_rows("sft_eval"))
    return [words, *(preference_accuracy(model, tokenizer, rows) for rows in pairs)]


def show(*cells: Any) -> None:
    """A row of the table."""
    told = (f"{each:.1%}" if isinstance(each, float) else str(each) for each in cells)
    print("| " + " | ".join(told) + " |", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("keys", nargs="+", help="KEY=VALUE ... over the shipped config")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = (options.keep or Path(made)).resolve()
        last = "checkpoints/checkpoint-300"
        starts = {seed: folder / f"sft-{seed}" / last for seed in options.seeds}
        todo = {f"sft-{s}": [f"seed={s}"] for s, start in starts.items() if not start.is_dir()}
        if todo:
            trained("sft", todo, folder)
        again = len(list(folder.glob("dpo-*")))
        cells = [(keys, seed) for keys in options.keys for seed in options.seeds]
        trials = {
            f"dpo-{again + i}": [f"model_name={starts[seed]}", f"seed={seed}", *keys.split()]
            for i, (keys, seed) in enumerate(cells)
        }
        adapters = trained("dpo", trials, folder)
        show("keys", "seed", "words right", "pairs right", "pairs of other questions")
        show(*["---"] * 5)
        for seed, start in starts.items():
            show("(after sft)", seed, *figures(start))
        rows = [figures(adapter) for adapter in adapters]
        for (keys, seed), row in zip(cells, rows, strict=True):
            show(keys or "as shipped", seed, *row)
        for at, keys in enumerate(options.keys):
            mine = rows[at * len(starts) : (at + 1) * len(starts)]
            show(keys or "as shipped", "mean", *map(statistics.mean, zip(*mine, strict=True)))


if __name__ == "__main__":
    main()
