"""The teacher of a distillation: found, held against the student's vocabulary, loaded beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelforge.errors import ConfigError, ModelError, Problem
from modelforge.models.attach import head_problems
from modelforge.models.hub import unreadable
from modelforge.models.lora import exact_4bit_on_cpu, quantization_config
from modelforge.models.source import ModelSource, find_model

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PretrainedConfig

    from modelforge.config import Config


def find_teacher(name: str, base_dir: Path) -> ModelSource:
    """Where a teacher comes from: a model folder, a run, an adapter, or a hub id.

    Raises:
        ModelError: If it is a path and no usable model lies there.
    """
    return find_model(name, base_dir=base_dir, revision=None, where="teacher_model")


def teacher_shape(source: ModelSource) -> PretrainedConfig:
    """The config of a teacher's base.

    Raises:
        ModelError: If it cannot be read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.base, trust_remote_code=False)
    except Exception as error:  # the checks of a config's class raise kinds of their own
        raise ModelError(unreadable(source.base, "teacher", error)) from None


def refuse_other_vocabulary(config: Config, teacher: ModelSource) -> None:
    """See that teacher and student give probabilities to the same tokens.

    The loss compares them token id by token id. A teacher whose embedding has more rows than the
    tokenizer needs is cut to the student's when it is loaded; one that has fewer cannot be.

    Args:
        config: Of the run; its model is the student.
        teacher: As `find_teacher` gives it.

    Raises:
        ConfigError: If a token differs, or the teacher has fewer rows.
        ModelError: If one of the two cannot be read, or the teacher is a reward model.
    """
    where, fix = f"{config.name}: teacher_model", "take a teacher of the student's own family"
    unfit = list(head_problems(teacher, teacher_shape(teacher), head="causal-lm", where=where))
    if unfit:
        raise ModelError(*unfit)
    student = find_model(
        config.settings.model_name,
        base_dir=config.base_dir,
        revision=config.settings.model_revision,
        where=f"{config.name}: model_name",
    )
    ours, theirs = _tokens(student), _tokens(teacher)
    other = sorted(set(ours.items()) ^ set(theirs.items()), key=lambda item: item[1])
    if other:
        token, at = other[0]
        what = (
            f"has another vocabulary than the student ({len(theirs)} and {len(ours)} tokens; the "
            f"first that differs is {token!r}, id {at}): their probabilities cannot be compared"
        )
        raise ConfigError(Problem(where, what, fix))
    rows, wanted = (teacher_shape(s).get_text_config().vocab_size for s in (teacher, student))
    if rows < wanted:
        what = f"has {rows} rows in its output head, and the student {wanted}"
        raise ConfigError(Problem(where, what, fix))


def _tokens(source: ModelSource) -> dict[str, int]:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source.tokenizer, trust_remote_code=False)
    except Exception as error:  # its parser, written in Rust, raises a plain Exception
        raise ModelError(unreadable(source.tokenizer, "tokenizer", error)) from None
    return tokenizer.get_vocab()


def teacher_without_weights(source: ModelSource, rows: int) -> Any:
    """A teacher of the right shape on the meta device.

    Args:
        source: As `find_teacher` gives it.
        rows: Of its embedding, as the student has.
    """
    import torch
    from transformers import AutoModelForCausalLM

    shape = teacher_shape(source)
    shape.get_text_config().vocab_size = rows
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(shape).requires_grad_(False)


def load_teacher(
    source: ModelSource, config: Config, *, rows: int, device: torch.device, use_4bit: bool
) -> Any:
    """The teacher with its weights, frozen, in evaluation mode.

    Args:
        source: As `find_teacher` gives it.
        config: Of the run; the 4-bit type is the student's.
        rows: Of its embedding, as the student has.
        device: Where the student is.
        use_4bit: Whether its weights are loaded in 4-bit.

    Raises:
        ModelError: If it cannot be loaded.
    """
    import torch
    from peft import PeftModel
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    settings = config.settings.model_copy(update={"use_4bit": use_4bit, "use_8bit": False})
    kwargs: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    kwargs["device_map"] = {"": str(device)}
    quantization = quantization_config(settings, dtype)
    if quantization is not None:
        kwargs["quantization_config"] = quantization
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(source.base, **kwargs)
        if device.type == "cpu":
            exact_4bit_on_cpu(model)
        if source.adapter is not None:
            model = PeftModel.from_pretrained(model, str(source.adapter))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(unreadable(source.base, "teacher", error)) from None
    if model.get_input_embeddings().weight.shape[0] > rows:
        model.resize_token_embeddings(rows)
    return model.requires_grad_(False).eval()
