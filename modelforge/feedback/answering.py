"""Models answer the prompts of a file, and their answers are had judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelforge.common.files import digest, write_whole, writing
from modelforge.errors import ConfigError, Problem
from modelforge.feedback.responses import Row, kept_prompt
from modelforge.inference.answers import Sampling
from modelforge.inference.generate import generate
from modelforge.inference.prompts import read_prompts


def ask_models(models: Sequence[str], prompts: str, folder: Path, sampling: Sampling) -> list[Row]:
    """The answers of some models to the prompts of a file; what is answered already is kept.

    Args:
        models: Runs, folders or hub ids; ``NAME=PATH`` gives another name than the folder's.
        prompts: A data file.
        folder: Where prompts and answers are kept.
        sampling: How answers are drawn.

    Raises:
        UserError: If a model or the file cannot be used, or two models have one name.
    """
    asked = [kept_prompt(each.prompt) for each in read_prompts(prompts)]
    return answered(named_models(models), asked, folder, sampling)


def answered(
    models: Mapping[str, str], asked: Sequence[Mapping[str, Any]], folder: Path, sampling: Sampling
) -> list[Row]:
    """The answers of some models to some prompts.

    Args:
        models: Name → where it lies.
        asked: Prompts as feedback keeps them.
        folder: Where prompts and answers are kept.
        sampling: How answers are drawn.
    """
    lines = [
        {"prompt": each.get("messages", each.get("prompt")),
         **({"tools": each["tools"]} if "tools" in each else {})}
        for each in asked
    ]  # fmt: skip
    folder = folder / digest([lines, vars(sampling)])[:8]  # other prompts have answers of their own
    path = folder / "prompts.jsonl"
    with writing(path, "name another place for the file of votes with --db"):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_whole(path, text)
    rows: list[Row] = [(dict(each), {}) for each in asked]
    for name, model in models.items():
        output = folder / f"{name}.jsonl"
        found = generate(model, str(path), output, sampling=sampling)
        with found.file.open(encoding="utf-8") as file:  # str.splitlines would cut at U+2028
            for row in map(json.loads, file):
                rows[row["row"]][1][name] = row["completion"]
    return rows


def named_models(models: Sequence[str]) -> dict[str, str]:
    """The name of each model, and where it lies.

    Raises:
        ConfigError: If two have one name.
    """
    found: dict[str, str] = {}
    for said in models:
        name, _, path = said.rpartition("=")
        name = name or Path(path.rstrip("/")).name
        if name in found:
            fix = f"call one of them otherwise: OTHER={path}"
            raise ConfigError(Problem("--models", f"two are called {name}", fix))
        if not name or "/" in name:
            raise ConfigError(Problem(f"--models {said}", "has no name", "write NAME=PATH"))
        found[name] = path
    return found


def reward_scores(
    model: str, texts: Mapping[int, tuple[str, str, tuple[str, ...]]]
) -> dict[tuple[str, str], float]:
    """What a reward model gives each answer, by prompt and text.

    Raises:
        ModelError: If it is no reward model.
    """
    from modelforge.rewards.model import RewardModel

    keys = list(dict.fromkeys((prompt, text) for prompt, text, _ in texts.values()))
    if not keys:
        return {}
    reward = RewardModel.load(model)
    chats, replies = [], []
    for key, text in keys:
        prompt = json.loads(key)
        messages = prompt.get("messages") or [{"role": "user", "content": prompt["prompt"]}]
        chat = bool(reward.tokenizer.chat_template)
        chats.append(messages if chat else prompt.get("prompt") or messages[-1]["content"])
        replies.append([{"role": "assistant", "content": text}] if chat else text)
    given = reward(prompts=chats, completions=replies)
    return dict(zip(keys, given, strict=True))
