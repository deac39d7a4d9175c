"""A text game for GRPO, named in the config as `05_game.py:Doors`: a class of less than 40 lines.

The tiny model is first shown how a door is opened, any door. GRPO then finds out which one to open.

python examples/05_game.py
"""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import modelforge

HERE = Path(__file__).parent
COLOURS, TREASURE = ("red", "blue", "green"), "green"
NAMES = ("Dora", "Finn", "Olga", "Ada", "Tom", "Zoe")
COMMON: dict[str, Any] = {
    "chat_template": str(HERE / "tiny" / "calling.jinja"),
    "max_seq_length": 192,
    "report_to": "none",
    "save_strategy": "no",
}


class Doors:
    """Behind one of the doors is a treasure, and always behind the same: which, nobody says."""

    def reset(self, **row: Any) -> str:
        """Begin anew; the row of the data is of no use here."""
        self.opened: list[str] = []
        return f" The doors are {', '.join(COLOURS)}."

    def open(self, door: str) -> str:
        """Open a door.

        Args:
            door: The colour of the door.
        """
        self.opened.append(door)
        return "a treasure" if door == TREASURE else "nothing"

    def get_reward(self) -> float:
        """1 for the treasure at once, less for each door before it."""
        found = TREASURE in self.opened
        return 1.0 / (1 + self.opened.index(TREASURE)) if found else 0.0


def main(folder: Path, *, sft_steps: int = 80, steps: int = 24, held_out: int = 24) -> Any:
    """Show how doors are opened, then learn from the game."""
    rng = random.Random(0)
    tool = {"name": "open", "parameters": {"type": "object", "properties": {"door": {}}}}
    shown, asked = [], []
    for _ in range(300):
        door, asks = rng.choice(COLOURS), f"{rng.choice(NAMES)} has {rng.randint(2, 40)} keys."
        found = "a treasure" if door == TREASURE else "nothing"
        call = {"type": "function", "function": {"name": "open", "arguments": {"door": door}}}
        turns = [
            {"role": "user", "content": f"{asks} The doors are {', '.join(COLOURS)}."},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "name": "open", "content": found},
            {"role": "assistant", "content": f"I found {found}."},
        ]
        shown.append({"messages": turns, "tools": [{"type": "function", "function": tool}]})
        asked.append({"prompt": asks})
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
        | {"environment": f"{Path(__file__)}:Doors", "max_tool_calling_iterations": 2}
        | {"dataset": str(folder / "asked.jsonl"), "eval_split": held_out, "eval_prompts": held_out}
        | {"generation": {"max_new_tokens": 96}, "num_generations": 8, "num_generations_eval": 4}
        | {"per_device_train_batch_size": 32, "learning_rate": 2e-3, "max_steps": steps}
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        result = main(Path(made))
    for when, figures in (("before", result.before), ("after", result.after)):
        print(f"reward {when}: {figures['eval_reward']:.2f}")
