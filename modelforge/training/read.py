"""Second step of a run: the tokenizer, and the rows as they are trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from modelforge.common.console import headline, say, warn
from modelforge.common.processes import world_size
from modelforge.data import (
    Data,
    How,
    Rows,
    Watched,
    keep_prompts_open,
    load_tokenizer_template,
    read_rows,
)
from modelforge.data.divide import EVAL_MOST
from modelforge.data.stream import rows_of_steps
from modelforge.data.template import BY_TASK
from modelforge.errors import ConfigError, Problem
from modelforge.models.vocabulary import settle_tokens
from modelforge.training.prompts import held_out_as

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modelforge.config import Config
    from modelforge.data.template import TemplateChoice
    from modelforge.models.vocabulary import Vocabulary
    from modelforge.strategy import Strategy
    from modelforge.training.resolve import Resolved


@dataclass(frozen=True)
class Read:
    """What the data files hold.

    Attributes:
        tokenizer: With its chat template.
        vocabulary: What its tokens ask of the model's embedding.
        rows: Every row, tokenised once and uncut.
        data: The rows at the length that the config has by now.
    """

    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    rows: Rows
    data: Data


def read(resolved: Resolved, *, watched: Watched | None = None) -> Read:
    """Read, check and tokenise the data, and show the ledger.

    Args:
        resolved: The first step's.
        watched: A row to follow.

    Raises:
        UserError: If tokenizer, template or data cannot train.
    """
    config, strategy, settings = resolved.config, resolved.strategy, resolved.config.settings
    tokenizer = resolved.provider.load_tokenizer(resolved.source)
    vocabulary = settle_tokens(tokenizer, config, resolved.source, resolved.architecture)
    template = load_tokenizer_template(
        tokenizer,
        chat_template=settings.prompt_layout or settings.chat_template,
        task=settings.task,
        base_dir=config.base_dir,
    )
    refuse_idle_task(config, template)
    if keep_prompts_open(tokenizer):
        warn("the tokenizer appends EOS to every text; this is off, since answers follow prompts")
    prompts = held_out_as(config)
    rows = read_rows(
        dataset=settings.dataset,
        eval_dataset=settings.eval_dataset,
        eval_split=settings.eval_split if prompts is None else 0,
        split_by=None if prompts is None else "held_out_as",
        dataset_split=settings.dataset_split,
        columns=settings.columns,
        **row_limit(config),
        system_prompt=settings.system_prompt,
        kind=strategy.data_kind,
        tokenizer=tokenizer,
        chat_template=template,
        seed=settings.seed,
        base_dir=config.base_dir,
        processes=config.get("dataset_num_proc"),
        eos_token_ids=resolved.provider.stop_tokens(resolved.source),
        how=How(
            train_on=config.get("train_on", "all"),
            template_kwargs=settings.chat_template_kwargs,
            scores=strategy.head == "reward",
        ),
        watched=watched,
    )
    rows = replace(rows, prompts=prompts)
    data = cut(rows, config, strategy)
    if strategy.head == "reward":
        _pad_for_scores(tokenizer, data, resolved, rows=vocabulary.rows)
    return Read(tokenizer, vocabulary, rows, data)


def row_limit(config: Config) -> dict[str, Any]:
    """The most rows to read of a data set, and why no more of it is downloaded.

    Returns:
        ``max_samples`` and ``streaming``, as `modelforge.data.sources.Asked` has them.
    """
    settings = config.settings
    if not settings.streaming or settings.max_samples is not None:
        why = "max_samples" if settings.streaming else ""
        return {"max_samples": settings.max_samples, "streaming": why}
    steps = config.get("max_steps")
    batch = config.micro_batch * (config.get("gradient_accumulation_steps") or 1) * world_size()
    held_out = settings.eval_split
    if held_out is None:
        held_out = 0 if settings.eval_dataset is not None else EVAL_MOST
    most = rows_of_steps(steps, batch, held_out)
    said = f"{steps} steps of {batch}"
    if held_out:
        said += f", {held_out:g} to hold out" if held_out >= 1 else f", {held_out:.0%} to hold out"
    return {"max_samples": most, "streaming": f"{said}, and a tenth more in place of dropped ones"}


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


def _pad_for_scores(
    tokenizer: PreTrainedTokenizerBase, data: Data, resolved: Resolved, *, rows: int
) -> None:
    """Have the score head read each text's last token, whoever pads it.

    Args:
        tokenizer: Its pad token is changed in place.
        data: The pairs.
        resolved: The first step's.
        rows: Of the model's embedding.

    Raises:
        ConfigError: If the user's own pad token ends texts.
    """
    from modelforge.models.pad import pad_for_scores

    pairs = (*data.train_tokens, *data.eval_tokens)
    ends = {pair.ids[side][-1] for pair in pairs for side in (0, 1)}
    ends |= {*resolved.provider.stop_tokens(resolved.source), tokenizer.eos_token_id}
    if resolved.config.settings.pad_token is not None:
        if tokenizer.pad_token_id in ends:
            what = f"{tokenizer.pad_token!r} ends texts, and the score is read at the last token "
            what += "that is no padding"
            fix = "leave it out, or set a token that no text ends in"
            raise ConfigError(Problem(f"{resolved.config.name}: pad_token", what, fix))
        return
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
