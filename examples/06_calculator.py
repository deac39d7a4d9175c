"""A calculator as tools for GRPO: two functions, named in the config by their place in this file.

The tiny model is first shown how the calculator is called, with either function at random. GRPO
then learns from the number of the answer alone: fewer calls and answers go wrong. Which of the two
functions a question asks for it does not find out in so few steps.

python examples/06_calculator.py
"""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import modelforge

HERE = Path(__file__).parent
NAMES, THINGS = ("Dora", "Finn", "Olga", "Ada", "Tom", "Zoe"), ("hats", "pears", "keys")
FIRST, SECOND = (10, 18), (3, 8)  # few numbers: so small a model copies no others
COMMON: dict[str, Any] = {
    "chat_template": str(HERE / "tiny" / "calling.jinja"),
    "max_seq_length": 192,
    "report_to": "none",
    "save_strategy": "no",
}


def plus(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: What is added to it.
    """
    return int(a) + int(b)


def minus(a: int, b: int) -> int:
    """Subtract a number from another.

    Args:
        a: The first.
        b: What is taken from it.
    """
    return int(a) - int(b)


def _function(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"a": {}, "b": {}}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def main(folder: Path, *, sft_steps: int = 120, steps: int = 20, held_out: int = 24) -> Any:
    """Show how the calculator is called, then learn what to call it for."""
    rng = random.Random(0)
    shown, asked = [], []
    for _ in range(400):
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        a, b = rng.choice(FIRST), rng.choice(SECOND)
        more = rng.random() < 0.5
        what = f"gets {b} more" if more else f"gives {b} away"
        ask = f"{name} has {a} {thing} and {what}. How many {thing} does {name} have now?"
        called = rng.choice((plus, minus))
        call = {"name": called.__name__, "arguments": {"a": a, "b": b}}
        turns = [
            {"role": "user", "content": ask},
            {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]},
            {"role": "tool", "name": called.__name__, "content": str(called(a, b))},
            {"role": "assistant", "content": f"The answer is {called(a, b)}."},
        ]
        shown.append({"messages": turns, "tools": [_function("plus"), _function("minus")]})
        asked.append({"prompt": ask, "answer": str(a + b if more else a - b)})
    for name, rows in (("shown", shown), ("asked", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    begun = modelforge.train(
        COMMON
        | {"strategy": "sft", "model_name": str(HERE / "tiny" / "model"), "lora_r": 0}
        | {"dataset": str(folder / "shown.jsonl"), "eval_split": 0, "output_dir": str(folder)}
        | {"learning_rate": 4e-3, "lr_scheduler_type": "cosine", "max_steps": sft_steps}
        | {"per_device_train_batch_size": 16}
    )
    return modelforge.train(
        COMMON
        | {"strategy": "grpo", "model_name": str(begun.run_dir), "output_dir": str(folder)}
        | {"tools": [f"{Path(__file__)}:plus", f"{Path(__file__)}:minus"]}
        | {"rewards": ["numeric_answer"], "max_tool_calling_iterations": 2}
        | {"dataset": str(folder / "asked.jsonl"), "eval_split": held_out, "eval_prompts": held_out}
        | {"generation": {"max_new_tokens": 96, "temperature": 0.7}, "num_generations": 8}
        | {"per_device_train_batch_size": 64, "num_generations_eval": 4}
        | {"learning_rate": 1e-3, "max_steps": steps, "logging_steps": 2}
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        result = main(Path(made))
    for when, figures in (("before", result.before), ("after", result.after)):
        print(f"success rate {when}: {figures['eval_reward']:.2f}")
