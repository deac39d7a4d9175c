"""Make the callables that TRL's trainers take from the rewards of a config."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelforge.common.console import say
from modelforge.config import RewardEntry
from modelforge.errors import ConfigError, Problem
from modelforge.rewards.builtin import BUILTIN, TAGS, Score
from modelforge.rewards.callables import RewardFunction, checked, unique
from modelforge.rewards.completions import completion_text
from modelforge.rewards.constrained import counted
from modelforge.rewards.functions import source_of
from modelforge.rewards.spec import kind_of


def build_rewards(
    entries: Sequence[RewardEntry],
    *,
    tokenizer: Any,
    base_dir: Path = Path(),
    device: Any = None,
    template_arguments: Mapping[str, Any] | None = None,
) -> tuple[list[RewardFunction], list[float]]:
    """The reward functions, in TRL's form, and their weights.

    Each is called as ``f(prompts=, completions=, completion_ids=, **columns)`` with lists of B
    entries and returns B numbers, None where a row cannot be scored. Each has its own
    ``__name__``, under which its metrics are logged.

    Args:
        entries: As ``parse_rewards`` gives them.
        tokenizer: The policy's; counts tokens where no ids are given.
        base_dir: The folder that relative paths start from.
        device: Where reward models are put; None leaves the choice to them (CUDA if there).
        template_arguments: What the policy's chat template is rendered with besides messages.

    Raises:
        ModelError: a reward model that has no trained score head, or no chat template.
    """
    functions: list[RewardFunction] = []
    names: list[str] = []
    function: Any
    opened = opened_tag(tokenizer, template_arguments or {})
    for entry in entries:
        kind = kind_of(entry.name)
        if kind == "builtin":
            score = BUILTIN[entry.name](**entry.arguments)
            function, name = _per_row(score, tokenizer, tags_of(entry), opened), entry.name
        elif kind == "constraints":
            function, name = counted(entry, base_dir), entry.name
        elif kind == "trl":
            function, name = _from_trl(entry, opened)
        elif kind == "model":
            from modelforge.rewards.model import RewardModel

            function = RewardModel.load(entry.name, base_dir=base_dir, device=device,
                                        **entry.arguments)  # fmt: skip
            name = function.__name__
        else:
            function, name = _of_the_user(entry, base_dir)
        names.append(name)
        functions.append(function)
    for function, name in zip(functions, unique(names), strict=True):
        function.__name__ = name
    return functions, [entry.weight for entry in entries]


def tags_of(entry: RewardEntry) -> list[str]:
    """The names of the tags that a reward wants a completion to be made of, the first one first."""
    if entry.name == "think_format_reward":
        return ["think"]
    return (entry.arguments.get("tags") or TAGS) if entry.name == "format" else []


_LAST_TAG = re.compile(r"<([\w-]+)>\s*\Z")


def opened_tag(tokenizer: Any, arguments: Mapping[str, Any]) -> str:
    """The name of the tag that the template's generation prompt ends in, such as ``think``, if any.

    What the model then writes begins behind it. To a reward of the form it belongs all the same.
    """
    if not getattr(tokenizer, "chat_template", None):
        return ""
    ask = [{"role": "user", "content": "?"}]
    try:
        prompt = tokenizer.apply_chat_template(
            ask, add_generation_prompt=True, tokenize=False, **arguments
        )
    except Exception:  # a template is a program of its author; rows it refuses are dropped
        return ""
    return _ends_in_tag(prompt)


def _ends_in_tag(prompt: str) -> str:
    found = _LAST_TAG.search(prompt)
    return found[1] if found else ""


def _from_the_first_tag(
    completions: Sequence[Any], prompts: Sequence[Any], tags: Sequence[str], opened: str
) -> list[str]:
    """The texts of completions, each with the tag before it that its prompt has opened."""
    texts = []
    for completion, prompt in zip(completions, prompts, strict=True):
        text = completion_text(completion)
        tag = _ends_in_tag(prompt) if isinstance(prompt, str) else opened
        begun = tag in tags and not text.lstrip().startswith(f"<{tag}>")
        texts.append(f"<{tag}>{text}" if begun else text)
    return texts


def _per_row(score: Score, tokenizer: Any, tags: Sequence[str], opened: str) -> RewardFunction:
    def reward(
        *, prompts: Any, completions: list, completion_ids: list | None = None, **columns: Any
    ) -> list[float | None]:
        texts = _from_the_first_tag(completions, prompts, tags, opened)
        if completion_ids is None:
            completion_ids = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
        # TRL also hands over its state and loggers, which are no columns.
        lists = {key: value for key, value in columns.items() if isinstance(value, list)}
        return [
            score(text, len(completion_ids[i]), {key: lists[key][i] for key in lists})
            for i, text in enumerate(texts)
        ]

    return reward


def _from_trl(entry: RewardEntry, opened: str) -> tuple[RewardFunction, str]:
    """TRL's function under the name that TRL logs it by; plain text goes to it as a message."""
    import trl.rewards

    if not hasattr(trl.rewards, entry.name):
        what = f"TRL {trl.__version__} has no such reward"
        raise ConfigError(Problem(entry.name, what, "pip install -U trl"))
    theirs = getattr(trl.rewards, entry.name)
    makes, tags = entry.name.startswith("get_"), tags_of(entry)
    function = theirs(**entry.arguments) if makes else theirs
    bound = {} if makes else entry.arguments

    def reward(*, completions: list, **columns: Any) -> list[float | None]:
        messages = [
            [{"role": "assistant", "content": text}] if isinstance(text, str) else text
            for text in completions
        ]
        if tags:
            texts = _from_the_first_tag(completions, columns["prompts"], tags, opened)
            messages = [[{"role": "assistant", "content": text}] for text in texts]
        return function(completions=messages, **columns, **bound)

    return reward, function.__name__


def _of_the_user(entry: RewardEntry, base_dir: Path) -> tuple[RewardFunction, str]:
    """The user's function, its arguments bound and its answers checked."""
    path, name = source_of(entry.name, base_dir)
    assert path is not None, "was checked"
    say(f"reward: running {path.resolve()} for '{name}', as the config asks")
    if kind_of(entry.name) == "module":
        module = importlib.import_module(entry.name.rpartition(":")[0])
    else:
        module = load_module(path.resolve())
    function = getattr(module, name)
    if not callable(function):
        what = f"'{name}' is {type(function).__name__}, not a function"
        raise ConfigError(Problem(entry.name, what, f"def {name}(completions, **kwargs): ..."))

    if inspect.isclass(function):
        what = f"'{name}' is a class; a reward is called with completions"
        raise ConfigError(Problem(entry.name, what, f"name an object of it: reward = {name}()"))
    return checked(function, name, where=entry.name, bound=entry.arguments), name


def load_module(path: Path) -> Any:
    """Run the user's file; what it raises keeps its traceback. Modules beside it are found."""
    module_name = f"modelforge_user_{path.stem}_{abs(hash(str(path)))}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
