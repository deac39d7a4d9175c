"""Whether model, adapter, tokenizer and LoRA's keys go together, without weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.errors import ModelError, Problem
from modelforge.models.attach import adapter_config
from modelforge.models.lora import lora_config
from modelforge.models.stored import stored_as
from modelforge.models.vocabulary import grow
from modelforge.models.weights import misfits

if TYPE_CHECKING:
    from modelforge.config import Config
    from modelforge.models.attach import Head
    from modelforge.models.vocabulary import Vocabulary
    from modelforge.training.resolve import Resolved


def model_without_weights(
    config: Config, resolved: Resolved, vocabulary: Vocabulary
) -> tuple[Any, Any]:
    """The model as the provider would load it, on the meta device, and the adapter TRL is to add.

    Raises:
        ModelError: If model, adapter, tokenizer and LoRA's keys do not go together.
    """
    source, head = resolved.source, resolved.strategy.head
    where = f"{config.name}: model_name"
    model = _on_meta(config, resolved, where)
    if stored_as(resolved.architecture) is None:
        problems = list(misfits(Path(source.base), model, where))
        if problems:
            raise ModelError(*problems)
    grow(model, vocabulary)
    if source.adapter is not None:
        adapter = adapter_config(source.adapter, head=head)
        _refuse_tied(model, adapter.target_modules, where)
        _refuse_tied(model, _of_weights(adapter.target_parameters), where)
        return _with_adapter(model, source.adapter, head, where), None
    rows = vocabulary.trained
    peft_config = lora_config(config.settings, head=head, model=model, rows=rows)
    if peft_config is not None:
        if config.settings.lora_modules_to_save:
            saved = config.settings.lora_modules_to_save
            _refuse_unmatched(model, saved, f"{config.name}: lora_modules_to_save")
        targets, key = config.settings.lora_target_modules, f"{config.name}: lora_target_modules"
        _refuse_unmatched(model, targets, key)
        _refuse_tied(model, targets, key)
        for field in ("exclude_modules", "modules_to_save"):
            if config.settings.lora.get(field):
                key = f"{config.name}: lora.{field}"
                _refuse_unmatched(model, config.settings.lora[field], key)
        weights = config.settings.lora.get("target_parameters")
        if weights:
            key = f"{config.name}: lora.target_parameters"
            _refuse_unmatched_weights(model, weights, key)
            _refuse_tied(model, _of_weights(weights), key)
        if config.settings.lora.get("lora_bias"):
            _refuse_bias(
                model, config.settings.lora_target_modules, f"{config.name}: lora.lora_bias"
            )
        for field in ("rank_pattern", "alpha_pattern"):
            for name in config.settings.lora.get(field) or ():
                _refuse_unmatched(model, rf"(.*\.)?({name})", f"{config.name}: lora.{field}")
    return model, peft_config


def _refuse_tied(model: Any, targets: str | Collection[str] | None, where: str) -> None:
    """Refuse LoRA on an embedding that is the head as well.

    As an adapter it is exact. Merged, it changes both sides, and the model is another one; with
    PEFT's ``ensure_weight_tying`` it is added twice (PEFT 0.19 to 0.21).

    Raises:
        ModelError: If it is so.
    """
    head = model.get_output_embeddings()
    if not model.config.get_text_config().tie_word_embeddings or head is None or not targets:
        return
    tied = (model.get_input_embeddings(), head)
    names = [name for name, module in model.named_modules() if any(module is t for t in tied)]
    found = [name for name in names if _targeted(targets, [name])]
    if found:
        what = f"{' and '.join(found)}: the two embeddings of this model are one weight, and an "
        what += "adapter of either could never be merged into it"
        fix = "leave it out; or save the base untied (tie_word_embeddings false, a head of its own)"
        raise ModelError(Problem(where, what, fix))


def _refuse_bias(model: Any, targets: str | list[str], where: str) -> None:
    """Refuse a bias of LoRA beside a layer that has none: PEFT could never merge it.

    Raises:
        ModelError: If it is so.
    """
    import torch

    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        meant = module is not head if targets == "all-linear" else _targeted(targets, [name])
        if meant and isinstance(module, torch.nn.Linear) and module.bias is None:
            what = f"{name} has no bias to merge that of the adapter into"
            raise ModelError(Problem(where, what, "remove it, or target layers with a bias"))


def _on_meta(config: Config, resolved: Resolved, where: str) -> Any:
    from modelforge.models.providers.huggingface import weights_dtype
    from modelforge.plan.model import meta_model

    architecture = copy.deepcopy(resolved.architecture)
    head = resolved.strategy.head
    dtype = weights_dtype(config, resolved.hardware)
    try:
        return meta_model(architecture, config.settings, head=head, dtype=dtype)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OSError) as error:
        kind = "reward model" if head == "reward" else "language model"
        what = f"{resolved.source.base} cannot be loaded as a {kind}: {_words(error)}"
        raise ModelError(Problem(where, what, "give another model")) from error


def _with_adapter(model: Any, folder: Path, head: Head, where: str) -> Any:
    """The adapter on the base, each of its weights held against the place it is to take."""
    from peft.utils import get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    from modelforge.plan.model import attach_adapter

    try:
        adapted = attach_adapter(model, folder, head=head)
        with safe_open(str(folder / "adapter_model.safetensors"), framework="pt") as file:
            keys = file.keys()
            held = {key: list(file.get_slice(key).get_shape()) for key in keys}
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OSError) as error:
        what = f"the adapter {folder} does not fit {model.name_or_path}: {_words(error)}"
        raise ModelError(Problem(where, what, "train it again, or give another")) from error
    except SafetensorError as error:
        what = f"{folder}/adapter_model.safetensors cannot be read: {_words(error)}"
        raise ModelError(Problem(where, what, "copy the file again")) from error
    parameters = dict(adapted.named_parameters())  # a packed weight has no state without values
    places = get_peft_model_state_dict(adapted, state_dict=parameters, save_embedding_layers=False)
    for key, tensor in places.items():
        if key in held and held[key] != list(tensor.shape):
            what = f"the adapter {folder} was made for another base: {key} is {held[key]}, and "
            what += f"this base takes {list(tensor.shape)}"
            raise ModelError(Problem(where, what, "correct base_model_name_or_path there"))
    return adapted


def _refuse_unmatched(model: Any, targets: str | list[str], where: str) -> None:
    """See that each of LoRA's targets is a module of this model. PEFT asks for one of them all.

    Raises:
        ModelError: If one is not.
    """
    if targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules() if name]
    each = [targets] if isinstance(targets, str) else [[target] for target in targets]
    unmatched = [target for target in each if not _targeted(target, names)]
    if targets and not unmatched:
        return
    fix = f'set "all-linear", or some of {", ".join(_adaptable(model))}'
    said = [target if isinstance(target, str) else target[0] for target in unmatched]
    problems = [Problem(where, f"{target!r} is no module of this model", fix) for target in said]
    raise ModelError(*(problems or [Problem(where, "names no module", fix)]))


def _refuse_unmatched_weights(model: Any, weights: Collection[str], where: str) -> None:
    """See that each weight that LoRA is to adapt is one of this model. PEFT warns at most.

    Raises:
        ModelError: If one is not.
    """
    names = [name for name, _ in model.named_parameters()]
    unmatched = [each for each in weights if not _targeted([each], names)]
    if unmatched:
        fix = "name a weight by the end of its name, such as mlp.experts.gate_up_proj"
        what = f"{', '.join(map(repr, unmatched))}: no weight of this model"
        raise ModelError(Problem(where, what, fix))


def _of_weights(names: Collection[str] | None) -> list[str]:
    """The modules that weights of these names belong to."""
    return [name.removesuffix(".weight") for name in names or ()]


def _targeted(targets: str | Collection[str], names: list[str]) -> bool:
    """Whether PEFT takes one of the modules: a text is a pattern, one of a list a name's end."""
    if targets == "all-linear":
        return False
    if not isinstance(targets, str):
        ends = tuple(f".{target}" for target in targets)
        return any(f".{name}".endswith(ends) for name in names)
    try:
        pattern = re.compile(targets)
    except re.error:
        return False
    return any(pattern.fullmatch(name) for name in names)


def _adaptable(model: Any) -> list[str]:
    """The last names of the linear layers, as they come."""
    import torch

    head = model.get_output_embeddings()
    linear = [name.rpartition(".")[2] for name, module in model.named_modules()
              if isinstance(module, torch.nn.Linear) and module is not head]  # fmt: skip
    return list(dict.fromkeys(linear))


def _words(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
