"""Every language model that transformers knows, planned for sft and grpo.

Each model type's own default config, cut to few layers, is planned in 4 bits with LoRA, and in 16
bits where that fails. Prints what is not planned with the reason, and at the end how many are.

    python benchmarks/plan_models.py [--only llama mamba]
"""

import argparse
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from modelforge import registry
from modelforge.configfile.load import load_config
from modelforge.plan import plan
from modelforge.plan.architectures import repeats, with_layers
from modelforge.plan.planner import card
from modelforge.training.defaults import Facts, fill
from modelforge.training.fit_to_card import said

SECONDS = 90


def small_config(kind: str, folder: Path) -> None:
    """Save the type's default config there, with one period of its layers."""
    config: Any = CONFIG_MAPPING[kind]()
    whole = config.get_text_config().num_hidden_layers
    first, period = repeats(config)
    layers = max(2, first + period)
    if layers < min(whole, 9):
        config = with_layers(config, layers)
    config.save_pretrained(folder)


def why_not(strategy: str, folder: Path, **keys: Any) -> str:
    """Why there is no plan; empty where there is one."""
    values = {"strategy": strategy, "model_name": str(folder), "dataset": "d", "lora_r": 8,
              "max_seq_length": 256, "per_device_train_batch_size": 2,
              "gradient_accumulation_steps": 4, **keys}  # fmt: skip
    if strategy == "grpo":
        values["num_generations"] = 2
    signal.alarm(SECONDS)
    try:
        config = load_config(values)
        kind = registry.get_strategy(strategy)()
        plan(fill(config, Facts(kind, card(12.0))), hardware=card(12.0))
    except Exception as error:
        return said(error)
    finally:
        signal.alarm(0)
    return ""


def reasons(kind: str) -> Iterator[tuple[str, str]]:
    """Each strategy that is not planned for this type, with the reason."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            small_config(kind, folder)
        except Exception as error:
            yield "sft, grpo", f"its default config: {said(error)}"
            return
        for strategy in ("sft", "grpo"):
            why = why_not(strategy, folder, use_4bit=True)
            if why and why_not(strategy, folder, use_4bit=False, gradient_checkpointing=False):
                yield strategy, why
            elif why:
                yield f"{strategy} in 4 bits or with checkpointing", why


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*")
    kinds = parser.parse_args().only or list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

    def too_slow(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, too_slow)
    start, planned = time.process_time(), 0
    for kind in kinds:
        found = list(reasons(kind))
        planned += not found
        for strategy, why in found:
            print(f"{kind}: {strategy}: {why}", flush=True)
    print(f"{planned} of {len(kinds)} planned ({time.process_time() - start:.0f} CPU s)")


if __name__ == "__main__":
    main()
