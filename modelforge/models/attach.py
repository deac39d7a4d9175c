"""An adapter to train on, attached to its base: under its own head, or under a score head."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelforge.errors import Problem
from modelforge.models.lora import LANGUAGE_HEADS, show_bias

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from modelforge.models.source import ModelSource

Head = Literal["causal-lm", "reward"]


def head_problems(
    source: ModelSource, architecture: PretrainedConfig, *, head: Head, where: str
) -> Iterator[Problem]:
    """Why a model cannot be trained under this head. Looks at its config files alone.

    Args:
        source: The model.
        architecture: Its config, or its base's.
        head: The strategy's.
        where: How to call the key in messages.
    """
    names = getattr(architecture, "architectures", None) or []
    yield from _no_model_class(architecture, head, where)
    if head == "causal-lm" and reads_both_ways(architecture):
        what = f"{source.base} is an encoder: each token sees those behind it, its answer too"
        yield Problem(
            where, what, "take a language model, or set is_decoder to true in its config.json"
        )
    scores = any(name.endswith("ForSequenceClassification") for name in names)
    if source.adapter is not None:
        recorded = json.loads((source.adapter / "adapter_config.json").read_text(encoding="utf-8"))
        kind, task = recorded.get("peft_type", "LORA"), recorded.get("task_type")
        if head == "causal-lm" and task == "SEQ_CLS":
            what = f"{source.adapter} is a reward model's adapter; a language model is needed here"
            fix = f"set its base, {source.base}, or the run of a language model"
            yield Problem(where, what, fix)
        if head == "reward" and task != "SEQ_CLS" and kind != "LORA":
            what = f"{source.adapter} is an adapter of type {kind}, which takes no score head"
            yield Problem(where, what, "merge it into its base, and give the merged model")
    elif head == "causal-lm" and scores:
        what = f"{source.base} is a reward model ({names[0]}): its language model's head is gone"
        yield Problem(where, what, "set the model that it was trained from")
    if head == "reward" and scores and architecture.num_labels != 1:
        count = architecture.num_labels
        what = f"{source.base} gives {count} labels; a reward model gives one score"
        yield Problem(where, what, "give a language model, or a reward model")


def _no_model_class(architecture: PretrainedConfig, head: Head, where: str) -> Iterator[Problem]:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto: Any = AutoModelForSequenceClassification if head == "reward" else AutoModelForCausalLM
    if type(architecture) in auto._model_mapping or hasattr(architecture, "auto_map"):
        return
    kind = getattr(architecture, "model_type", "") or type(architecture).__name__
    role = "score head for" if head == "reward" else "language model of"
    what = f"transformers has no {role} the type {kind} ({auto.__name__})"
    yield Problem(where, what, "take a model that reads and writes text alone")


def reads_both_ways(architecture: PretrainedConfig) -> bool:
    """Whether it is an encoder with the head of a language model, which transformers warns of.

    BERT and its like have such a head, and see what they are to say, unless their config says
    ``is_decoder``.
    """
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    kind = auto._model_mapping.get(type(architecture), None)
    if kind is None or isinstance(kind, tuple) or getattr(architecture, "is_decoder", True):
        return False
    return "as a standalone, add `is_decoder=True" in inspect.getsource(kind)


def as_asked(model: Any) -> None:
    """Let a model answer to the names that TRL asks it by.

    Llama 4's text model names a trunk that it does not have, and then is its own ``base_model``;
    Granite's mixtures count their experts under another name than TRL's balance of experts reads.
    """
    inner = getattr(model, "model", None)
    if model.base_model is model and hasattr(inner, "get_input_embeddings"):
        model.base_model_prefix = "model"
    text = model.config.get_text_config()
    experts = getattr(text, "num_local_experts", None)
    if experts and not hasattr(text, "num_experts"):
        text.num_experts = experts


def tokens_of_adapter(folder: Path) -> set[int]:
    """The ids of the tokens whose rows an adapter holds."""
    recorded = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    held = recorded.get("trainable_token_indices") or []
    each = held.values() if isinstance(held, dict) else [held]
    return {index for ids in each for index in ids}


def rows_of_adapter(folder: Path) -> int:
    """How many rows an embedding must have for an adapter's tokens; 0 where it holds none."""
    return max(tokens_of_adapter(folder), default=-1) + 1


def adapter_config(folder: Path, *, head: Head) -> Any:
    """PEFT's config of an adapter to train on, under the head that is asked for.

    A language model's adapter is trained further under a score head, which is saved with it.

    Args:
        folder: The adapter's.
        head: ``causal-lm``, or ``reward`` for one score a sequence.
    """
    from peft import PeftConfig, TaskType

    config: Any = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False
    if getattr(config, "trainable_token_indices", None):
        show_bias()
    if changes_head(folder, head):
        config.task_type = TaskType.SEQ_CLS
        saved = set(config.modules_to_save or ()) - LANGUAGE_HEADS
        config.modules_to_save = sorted({*saved, "score"})
        if isinstance(config.target_modules, set):
            config.target_modules -= LANGUAGE_HEADS
        if isinstance(getattr(config, "trainable_token_indices", None), dict):
            for name in LANGUAGE_HEADS & config.trainable_token_indices.keys():
                del config.trainable_token_indices[name]
    return config


def attach_adapter(model: Any, folder: Path, *, head: Head) -> Any:
    """The base with this adapter and its weights, trainable.

    Under a score head a language model's adapter keeps its weights, and the head is fresh.

    Raises:
        ValueError: If weights of the adapter have no place in this base, or the other way round.
    """
    from peft import PeftModel, get_peft_model
    from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    config = adapter_config(folder, head=head)
    if not changes_head(folder, head):
        return PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    model = get_peft_model(model, config)
    weights = load_peft_weights(str(folder), device="cpu")
    carried = {key: w for key, w in weights.items() if not _left_out(key)}
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    strange = [key for key in own.keys() ^ carried.keys() if "score" not in key.split(".")]
    if strange:
        raise ValueError(f"it does not fit under a score head: {min(strange)}")
    set_peft_model_state_dict(model, own | carried)
    return model


def changes_head(folder: Path, head: Head) -> bool:
    """Whether a language model's adapter is to be trained further under a score head."""
    from peft import PeftConfig, TaskType

    config = PeftConfig.from_pretrained(str(folder))
    return head == "reward" and config.task_type != TaskType.SEQ_CLS


def _left_out(key: str) -> bool:
    """Weights of the language model's head, and the base's own embedding that PEFT saves along."""
    return bool(LANGUAGE_HEADS & set(key.split("."))) or ".base_layer." in key
