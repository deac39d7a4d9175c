"""Choosing the chat template, with the reason for the choice."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from modelforge.errors import ModelError, Problem, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The layout for a tokenizer that brings none.
BY_TASK = {
    "text-generation": "plain",
    "summarization": "summarization",
    "question-answering": "question-answering",
}


@dataclass(frozen=True)
class TemplateChoice:
    """The chat template a run uses.

    Attributes:
        name: ``tokenizer``, ``none``, a built-in's name or a file.
        reason: Why this one.
        text: The Jinja template; None for ``none``.
    """

    name: str
    reason: str
    text: str | None


def built_in_templates() -> dict[str, str]:
    """The templates shipped in ``configs/chat_templates``: name → Jinja text."""
    folder = files("modelforge.configs") / "chat_templates"
    return {
        entry.name.removesuffix(".jinja"): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".jinja")
    }


def trl_templates() -> dict[str, str]:
    """The chat templates of models that TRL ships: name → Jinja text, as the models have them."""
    import trl

    folder = Path(trl.__file__).parent / "chat_templates"
    return {
        path.stem: path.read_text(encoding="utf-8")
        for path in sorted(folder.glob("*.jinja"))
        if not path.stem.endswith("_training")
    }


def load_tokenizer_template(
    tokenizer: PreTrainedTokenizerBase, *, chat_template: str, task: str, base_dir: Path
) -> TemplateChoice:
    """Choose the chat template and set it on the tokenizer, so that it is saved with the model.

    Args:
        tokenizer: Its ``chat_template`` is changed in place.
        chat_template: ``auto`` (the tokenizer's own, else the built-in for the task), ``none``, a
            built-in's name, that of one of TRL's, or the path of a ``.jinja`` file (relative to
            ``base_dir``, then to the working folder).
        task: ``text-generation``, ``summarization`` or ``question-answering``.
        base_dir: The config file's folder.

    Raises:
        ModelError: If there is no such template, it is no valid Jinja, a built-in one meets a
            tokenizer without an end-of-sequence token, or the tokenizer is one in Python alone.
    """
    choice = choose(tokenizer, chat_template=chat_template, task=task, base_dir=base_dir)
    if choice.text is not None:
        if not getattr(tokenizer, "is_fast", False):
            what = f"{type(tokenizer).__name__} does not tell which characters a token stands for, "
            what += "by which the turns that are trained on are found"
            fix = "save the model with a tokenizer.json, or set chat_template to none"
            raise ModelError(Problem("tokenizer", what, fix))
        check_syntax(tokenizer, choice)
    if choice.name != "tokenizer":  # its own stays as it is: it may have one for tools beside it
        tokenizer.chat_template = choice.text
    return choice


def choose(
    tokenizer: PreTrainedTokenizerBase, *, chat_template: str, task: str, base_dir: Path
) -> TemplateChoice:
    """`load_tokenizer_template` without setting it."""
    if chat_template == "none":
        return TemplateChoice("none", "chat_template is none", None)
    if chat_template == "auto":
        if tokenizer.chat_template:
            return TemplateChoice("tokenizer", "the tokenizer's own", tokenizer.get_chat_template())
        name = BY_TASK[task]
        return built_in(tokenizer, name, f"the tokenizer has none; built in for {task}")
    if chat_template in built_in_templates():
        return built_in(tokenizer, chat_template, "chosen in the config")
    for path in (base_dir / chat_template, Path(chat_template)):
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                what = f"the template {path} cannot be read: {error}"
                raise ModelError(Problem("chat_template", what)) from None
            return TemplateChoice(str(path), "file named in the config", text)
    known = trl_templates()
    if chat_template in known:
        reason = "one of TRL's, chosen in the config"
        return TemplateChoice(chat_template, reason, known[chat_template])
    names = ["auto", "none", *built_in_templates(), *known]
    what = f"no built-in template and no file is called '{chat_template}'"
    raise ModelError(Problem("chat_template", what, did_you_mean(chat_template, names)))


def built_in(tokenizer: PreTrainedTokenizerBase, name: str, reason: str) -> TemplateChoice:
    """A shipped template, beginning with BOS where the tokenizer puts one before plain text."""
    if tokenizer.eos_token is None:
        fix = "set eos_token in the model's tokenizer_config.json"
        what = f"the tokenizer has no end-of-sequence token, which the template '{name}' ends with"
        raise ModelError(Problem("chat_template", what, fix))
    text = built_in_templates()[name].strip()
    if adds_bos(tokenizer):
        text = "{{- bos_token }}" + text
    return TemplateChoice(name, reason, text)


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer begins plain text with its BOS token."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def check_syntax(tokenizer: PreTrainedTokenizerBase, choice: TemplateChoice) -> None:
    """Compile the template, as transformers will.

    Raises:
        ModelError: If it is no valid Jinja.
    """
    import jinja2

    try:
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "?"}], chat_template=choice.text, tokenize=False
        )
    except jinja2.TemplateSyntaxError as error:
        what = f"{choice.name}, line {error.lineno}: {error.message}"
        raise ModelError(Problem("chat_template", what, "mend the template")) from None
    except Exception:
        return  # it compiles; what it refuses is told row by row
