"""The tokens of a run: added, chosen to end and to fill, and given rows in the embedding.

A new row begins as the mean of the rows that the model was trained with. So the new token is at
first about as likely as an average one (https://nlp.stanford.edu/~johnhew/vocab-expansion.html).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.console import say
from modelforge.errors import ModelError, Problem, did_you_mean
from modelforge.models.attach import tokens_of_adapter

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from modelforge.config import Config
    from modelforge.models.source import ModelSource

_MERGE = "merge the adapter into its base (its model card shows how), and give the merged model"


@dataclass(frozen=True)
class Vocabulary:
    """What the tokens of a run ask of its model's embedding.

    Attributes:
        rows: The rows that it is to have.
        known: The first rows, which the model was trained with.
        fresh: The ids whose rows nothing has trained: they begin as the mean of the known ones.
        trained: The ids whose rows are trained beside LoRA.
    """

    rows: int
    known: int
    fresh: tuple[int, ...] = ()
    trained: tuple[int, ...] = ()


def settle_tokens(
    tokenizer: PreTrainedTokenizerBase,
    config: Config,
    source: ModelSource,
    architecture: PretrainedConfig,
) -> Vocabulary:
    """Add the config's tokens, set those that end and fill, and find the rows that they need.

    Args:
        tokenizer: Changed in place.
        config: With every value that does not follow from the data.
        source: The model.
        architecture: Its config.

    Raises:
        ModelError: If a token cannot be what the config says, or has no row and is to get none.
    """
    settings, rows = config.settings, architecture.get_text_config().vocab_size
    before = tokenizer.get_vocab()
    asked = list(dict.fromkeys([*settings.add_tokens, *settings.add_special_tokens]))
    problems = [*_add(tokenizer, before, config), *_set_special(tokenizer, config)]
    ids = tokenizer.get_vocab()
    added = {ids[token] for token in asked if token not in before}
    beyond = {index for index in ids.values() if index >= rows}
    trained: set[int] = set()
    if source.adapter is not None:
        trained = tokens_of_adapter(source.adapter)
        lost = added if _holds_embedding(source.adapter) else (added | beyond) - trained
        problems += _not_in_adapter(tokenizer, lost, source.adapter, config)
    else:
        wanted = {ids[token] for token in asked} | (beyond if settings.resize_vocab else set())
        problems += _without_row(tokenizer, beyond - wanted, rows, source, config)
        if settings.lora_r:
            problems += _unknown(settings.train_tokens, "train_tokens", ids, config)
            trained = added | beyond | {ids[t] for t in settings.train_tokens if t in ids}
    problems += _unsupported(config, grown=bool(beyond), trained=bool(trained))
    if problems:
        raise ModelError(*problems)
    known = min(rows, max(before.values()) + 1)
    needed = max([rows, *(index + 1 for index in beyond)])
    found = Vocabulary(needed, known, tuple(sorted(added | beyond)), tuple(sorted(trained)))
    if source.adapter is not None and found.trained:
        names = _listed(tokenizer, found.trained)
        say(f"tokens whose rows the adapter brings, and trains further: {names}")
        return found
    _say(found, tokenizer, [token for token in asked if token in before], rows, config)
    return found


def _add(
    tokenizer: PreTrainedTokenizerBase, before: Mapping[str, int], config: Config
) -> Iterator[Problem]:
    """Put the config's new tokens into the vocabulary, each to be found as it is written."""
    from transformers import AddedToken

    for key in ("add_tokens", "add_special_tokens"):
        special = key == "add_special_tokens"
        marked = tokenizer.get_added_vocab() if special else before
        new = [token for token in dict.fromkeys(config.get(key)) if token not in marked]
        tokenizer.add_tokens(
            [AddedToken(token, normalized=False, special=special) for token in new],
            special_tokens=special,
        )
        for token in new:
            index = tokenizer.convert_tokens_to_ids(token)
            if index not in tokenizer(f"a{token}b", add_special_tokens=False)["input_ids"]:
                what = f"{token!r} cannot be added: this tokenizer does not find it in a text"
                yield Problem(f"{config.name}: {key}", what, "choose another spelling")


def _set_special(tokenizer: PreTrainedTokenizerBase, config: Config) -> Iterator[Problem]:
    """Set the tokens that end an answer and fill rows up."""
    for key in ("eos_token", "pad_token"):
        token = config.get(key)
        if token is None:
            continue
        problems = list(_unknown([token], key, tokenizer.get_vocab(), config))
        yield from problems
        if not problems:
            setattr(tokenizer, key, token)


def _unknown(
    tokens: Iterable[str], key: str, ids: Mapping[str, int], config: Config
) -> Iterator[Problem]:
    for token in tokens:
        if token not in ids:
            near = did_you_mean(token, [known for known in ids if known[:1] in "<[|"])
            fix = f"name it in add_special_tokens too; {near}".removesuffix("; ")
            what = f"{token!r} is no token of this model's tokenizer"
            yield Problem(f"{config.name}: {key}", what, fix)


def _holds_embedding(folder: Path) -> bool:
    """Whether an adapter holds the embedding whole."""
    recorded = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return any("embed" in name or "wte" in name for name in recorded.get("modules_to_save") or ())


def _not_in_adapter(
    tokenizer: PreTrainedTokenizerBase, lost: set[int], adapter: Path, config: Config
) -> Iterator[Problem]:
    if lost:
        what = f"the adapter {adapter} has no row for {_listed(tokenizer, lost)}"
        key = "add_tokens" if config.settings.add_tokens else "add_special_tokens"
        key = key if config.get(key) else "model_name"
        yield Problem(f"{config.name}: {key}", what, _MERGE)


def _without_row(
    tokenizer: PreTrainedTokenizerBase,
    lost: set[int],
    rows: int,
    source: ModelSource,
    config: Config,
) -> Iterator[Problem]:
    if lost:
        what = (
            f"the tokenizer of {source.tokenizer} has {len(tokenizer)} tokens, and the embedding "
        )
        what += f"{rows} rows: {_listed(tokenizer, lost)} would have none"
        fix = "set resize_vocab to true, which gives each token a row and trains the new ones; or "
        fix += "remove these tokens from the tokenizer"
        yield Problem(f"{config.name}: model_name", what, fix)


def _unsupported(config: Config, *, grown: bool, trained: bool) -> Iterator[Problem]:
    """Why this run cannot have new rows."""
    if (grown or trained) and config.settings.distributed.shards_weights:
        what = "new rows of the embedding cannot be made where no process holds all weights"
        fix = "set the backend to ddp or zero2, or leave the tokens out"
        yield Problem(f"{config.name}: distributed", what, fix)
    if (grown or trained) and config.get("use_vllm"):
        what = "vLLM loads the base as it lies on disk, without rows of its own for new tokens"
        yield Problem(
            f"{config.name}: use_vllm", what, "set it to false, or train on a merged model"
        )


def _listed(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> str:
    names = [repr(tokenizer.convert_ids_to_tokens(index)) for index in sorted(ids)]
    return ", ".join(names[:3]) + (f" … ({len(names)})" if len(names) > 3 else "")


def _say(
    found: Vocabulary,
    tokenizer: PreTrainedTokenizerBase,
    known: list[str],
    rows: int,
    config: Config,
) -> None:
    """What was made of the tokens, and why."""
    if known:
        say(f"tokens that the tokenizer has already: {', '.join(map(repr, known))}")
    if found.fresh:
        where = f"the embedding grows from {rows} to {found.rows} rows"
        if found.rows == rows:
            where = f"they take rows of the embedding ({rows}) that no token used"
        names = _listed(tokenizer, found.fresh)
        say(f"new tokens: {names}; {where}, and new rows begin as the mean of the others")
    elif config.settings.resize_vocab:
        say(f"resize_vocab changes nothing: each token has one of the {rows} rows")
    if found.trained:
        how = "all weights of it" if config.settings.lora_modules_to_save else "these rows alone"
        say(f"rows trained beside LoRA: {_listed(tokenizer, found.trained)} ({how})")


def grow(model: Any, vocabulary: Vocabulary) -> None:
    """Give a model the rows that the tokens need; those on the meta device get no values.

    Args:
        model: As loaded, before any adapter; changed in place.
        vocabulary: Of the run's tokens.
    """
    import torch

    if model.get_input_embeddings().weight.shape[0] < vocabulary.rows:
        model.resize_token_embeddings(vocabulary.rows, mean_resizing=False)
    if not vocabulary.fresh:
        return
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if module is not None and not module.weight.is_meta:
            with torch.no_grad():
                mean = module.weight[: vocabulary.known].mean(0, dtype=torch.float32)
                module.weight[list(vocabulary.fresh)] = mean.to(module.weight.dtype)
