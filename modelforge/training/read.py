"""Second step of a run: the tokenizer, and the rows as they are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelforge.common.console import headline, say, warn
from modelforge.data import (
    Data,
    How,
    Rows,
    keep_prompts_open,
    load_tokenizer_template,
    read_rows,
)
from modelforge.data.template import BY_TASK
from modelforge.errors import ConfigError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modelforge.config import Config
    from modelforge.data.template import TemplateChoice
    from modelforge.strategy import Strategy
    from modelforge.training.resolve import Resolved


@dataclass(frozen=True)
class Read:
    """What the data files hold.

    Attributes:
        tokenizer: With its chat template.
        rows: Every row, tokenised once and uncut.
        data: The rows at the length that the config has by now.
    """

    tokenizer: PreTrainedTokenizerBase
    rows: Rows
    data: Data


def read(resolved: Resolved) -> Read:
    """Read, check and tokenise the data, and show the ledger.

    Raises:
        UserError: If tokenizer, template or data cannot train.
    """
    config, strategy, settings = resolved.config, resolved.strategy, resolved.config.settings
    tokenizer = resolved.provider.load_tokenizer(resolved.source)
    template = load_tokenizer_template(
        tokenizer,
        chat_template=settings.prompt_layout or settings.chat_template,
        task=settings.task,
        base_dir=config.base_dir,
    )
    refuse_idle_task(config, template)
    if keep_prompts_open(tokenizer):
        warn("the tokenizer appends EOS to every text; this is off, since answers follow prompts")
    rows = read_rows(
        dataset=settings.dataset,
        eval_dataset=settings.eval_dataset,
        eval_split=settings.eval_split,
        dataset_split=settings.dataset_split,
        columns=settings.columns,
        max_samples=settings.max_samples,
        system_prompt=settings.system_prompt,
        kind=strategy.data_kind,
        tokenizer=tokenizer,
        chat_template=template,
        seed=settings.seed,
        base_dir=config.base_dir,
        prompts_held_out=config.prompts_held_out,
        eos_token_ids=resolved.provider.stop_tokens(resolved.source),
        how=How(
            train_on=config.get("train_on", "all"),
            template_kwargs=settings.chat_template_kwargs,
            scores=strategy.head == "reward",
        ),
    )
    data = cut(rows, config, strategy)
    if strategy.head == "reward":
        _pad_for_scores(tokenizer, data, resolved)
    return Read(tokenizer, rows, data)


def refuse_idle_task(config: Config, template: TemplateChoice) -> None:
    """See that the task's layout is the one that is used, where the user asks for one.

    Raises:
        ConfigError: If another template is, whatever the task.
    """
    wanted = BY_TASK[config.settings.task]
    if config.given("task") and wanted != "plain" and template.name != wanted:
        what = f"has no effect: the chat template is {template.name} ({template.reason})"
        fix = f"set chat_template to {wanted}, or remove task"
        raise ConfigError(Problem(f"{config.name}: task", what, fix))


def _pad_for_scores(tokenizer: PreTrainedTokenizerBase, data: Data, resolved: Resolved) -> None:
    """Have the score head read each text's last token, whoever pads it."""
    from modelforge.models.pad import pad_for_scores

    pairs = (*data.train_tokens, *data.eval_tokens)
    ends = {pair.ids[side][-1] for pair in pairs for side in (0, 1)}
    ends |= {*resolved.provider.stop_tokens(resolved.source), tokenizer.eos_token_id}
    rows = resolved.architecture.get_text_config().vocab_size
    why = pad_for_scores(tokenizer, rows=rows, ends=ends)
    if why is not None:
        say(f"pad token: {tokenizer.pad_token!r}: {why}")
    elif tokenizer.pad_token_id in ends:
        warn(
            f"the vocabulary has no token to pad with but {tokenizer.pad_token!r}, which texts end "
            "in: the score is read at the token before it, here and wherever the model is loaded "
            "with the pad token that is saved with it"
        )


def cut(rows: Rows, config: Config, strategy: Strategy) -> Data:
    """The rows at the config's length, with their ledger shown.

    Raises:
        DataError: If too few can be trained on.
    """
    data = rows.within(
        strategy.max_row_tokens(config),
        long_rows=strategy.long_rows(config),
        long_eval_rows=strategy.long_rows(config, held_out=True),
    )
    headline("Data")
    for line in data.ledger.fact_lines():
        say(line)
    for warning in data.ledger.warnings:
        warn(warning)
    return data
