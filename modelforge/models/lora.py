"""4-bit and LoRA: from the config's keys to the objects of transformers and PEFT."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.config import LORA_KEYS, OUT_OF_BASE, Choice, Config, Settings, of_whole_weights
from modelforge.errors import ConfigError, Problem

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from transformers import BitsAndBytesConfig, PreTrainedModel

    from modelforge.machine.hardware import Hardware


#: The adapter's output is scaled by alpha / rank (Schulman et al., LoRA Without Regret, 2025).
ALPHA = 32
#: What a language model's head is called; a reward model has none.
LANGUAGE_HEADS = {"lm_head"}
# What transformers calls these optimisers of bitsandbytes where they are not paged.
_IN_32_BITS = {"adamw_32bit": "adamw_torch", "ademamix_32bit": "ademamix"}


def lora_config(
    settings: Settings, *, head: str, model: Any = None, rows: Sequence[int] = ()
) -> PeftConfig | None:
    """PEFT's config of the adapter, or None where all weights are trained (``lora_r`` 0).

    Args:
        settings: ModelForge's keys.
        head: ``causal-lm`` or ``reward``. A reward model's score head is trained whole and saved
            with the adapter: without it the scores are lost.
        model: What it is for, where rows of its embedding or whole modules are trained too.
        rows: Ids of the tokens whose rows are trained.
    """
    if settings.lora_r == 0:
        return None
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    section = dict(settings.lora)
    kind = section.pop("peft_type", "LORA")
    whole = {*settings.lora_modules_to_save, *(section.pop("modules_to_save", None) or ())}
    names, tied = ([], False) if model is None else embedding_names(model)
    if tied and whole & {*names, *LANGUAGE_HEADS}:
        whole = (whole - LANGUAGE_HEADS) | set(names)
    fields: dict[str, Any] = {"target_modules": settings.lora_target_modules}
    if kind == "LORA":
        fields["r"], fields["lora_alpha"] = settings.lora_r, settings.lora_alpha
        fields["lora_dropout"] = settings.lora_dropout
        if tied and whole & set(names):
            fields["ensure_weight_tying"] = True
    elif kind == "IA3" and settings.lora_target_modules == "all-linear":
        del fields["target_modules"]  # PEFT knows IA3's places by the architecture
    if settings.lora_target_modules == "all-linear" and model is not None and kind != "IA3":
        unlike = [name.rpartition(".")[2] for name, _ in unlike_linear(model)]
        if unlike and not isinstance(section.get("exclude_modules"), str):
            said = section.pop("exclude_modules", None) or []
            fields["exclude_modules"] = sorted({*said, *unlike})
    if rows or section.get("trainable_token_indices"):
        show_bias()
    if rows and not whole.issuperset(names):
        at = {name: list(rows) for name in names if name not in whole}
        fields["trainable_token_indices"] = at
    weightless = model is None or model.device.type == "meta"
    if section.get("init_lora_weights") in OUT_OF_BASE and weightless:
        del section["init_lora_weights"]  # a decomposition needs weights, and the shape is the same
    if head == "reward":
        whole = (whole - LANGUAGE_HEADS) | {"score"}
    fields["task_type"] = "SEQ_CLS" if head == "reward" else "CAUSAL_LM"
    fields["modules_to_save"] = sorted(whole) or None
    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)](**fields | section)


def unlike_linear(model: Any) -> Iterator[tuple[str, Any]]:
    """Linear layers that no LoRA can stand beside, with their names.

    Some are linear layers by their class alone, and do not take and give what one does, such as
    the routers of some mixtures of experts. Others PEFT refuses: a fused kernel of Mamba reads
    their weight past the adapter.
    """
    import torch
    from peft import LoraConfig
    from peft.tuners import tuners_utils

    refuse = getattr(tuners_utils, "_check_lora_target_modules_mamba", lambda *_: None)
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        try:
            refuse(LoraConfig(), model, name.rpartition(".")[2])
        except ValueError:
            yield name, module
            continue
        if not type(module).__module__.startswith("transformers.models."):
            continue
        weight = module.weight
        try:
            with torch.no_grad():
                given = module(weight.new_zeros((1, 1, module.in_features)))
        except Exception:  # whatever it takes, it is not what a linear layer takes
            yield name, module
            continue
        if getattr(given, "shape", None) != (1, 1, module.out_features):
            yield name, module


def starts_as_base(settings: Settings) -> bool:
    """Whether the base, its adapter off, is the model as it begins."""
    return settings.lora.get("init_lora_weights") not in OUT_OF_BASE


def show_bias() -> None:
    """Let a head whose rows are trained be asked for its bias, as for its weight.

    TRL's losses that never hold all logits read both, and PEFT's wrapper (0.19 to 0.21) hands on
    the weight alone.
    """
    from peft.utils.other import TrainableTokensWrapper

    wrapper: Any = TrainableTokensWrapper
    if not hasattr(wrapper, "bias"):
        wrapper.bias = property(lambda head: getattr(head.original_module, "bias", None))


def rows_trained(settings: Settings) -> int:
    """How many rows of the embedding a run trains beside LoRA, as far as its config tells."""
    named = {*settings.add_tokens, *settings.add_special_tokens, *settings.train_tokens}
    return max(len(named), int(settings.resize_vocab))


def embedding_names(model: Any) -> tuple[list[str], bool]:
    """The last names of a model's embedding and of a head with rows of its own; and if it is tied.

    A tied head follows the embedding, and a reward model has none.
    """
    inner, head = model.get_input_embeddings(), model.get_output_embeddings()
    shared = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    tied = head is not None and bool(shared)
    wanted = [inner] if tied or head is None else [inner, head]
    found = {id(module): name for name, module in model.named_modules()}
    return [found[id(module)].rpartition(".")[2] for module in wanted], tied


def quantization_config(settings: Settings, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """transformers' quantisation config, or None where nothing is quantised.

    Args:
        settings: ModelForge's keys.
        dtype: What the dequantised weights are multiplied in.
    """
    if not (settings.use_4bit or settings.use_8bit):
        return None
    from transformers import BitsAndBytesConfig

    if settings.use_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=settings.use_double_quant,
        bnb_4bit_compute_dtype=dtype,
        # FSDP and ZeRO-3 shard parameters of one type alone: 4-bit weights packed in that type.
        bnb_4bit_quant_storage=dtype if settings.distributed.shards_weights else None,
    )


def lora_defaults(config: Config, hardware: Hardware) -> dict[str, Choice]:
    """Values that follow from others: the LoRA scale, and 4-bit where it cannot be used."""
    settings = config.settings
    choices: dict[str, Choice] = {}
    if settings.use_4bit and not config.given("use_4bit"):
        if settings.lora_r == 0:
            why = "lora_r is 0, and quantised weights cannot be trained"
            choices["use_4bit"] = Choice(False, "default", why)
        elif settings.use_8bit:
            choices["use_4bit"] = Choice(False, "default", "use_8bit is set")
        elif why := of_whole_weights(settings.lora)[1]:
            choices["use_4bit"] = Choice(False, "default", f"{why}: they stay whole")
    if settings.lora_r and not (config.given("lora_alpha") or settings.preset):
        why = "fixed, so that one learning rate holds for every rank"
        choices["lora_alpha"] = Choice(ALPHA, "default", why)
    if hardware.device == "cpu":
        if settings.use_8bit:
            why = "8-bit training needs a CUDA device"
            choices["use_8bit"] = Choice(False, "machine", why)
        if settings.use_4bit and not _has_bitsandbytes():
            why = "bitsandbytes is not installed on this machine"
            choices["use_4bit"] = Choice(False, "machine", why)
        if str(config.get("optim", "")).startswith("paged_"):
            optim = config.get("optim").removeprefix("paged_")
            optim = _IN_32_BITS.get(optim, optim)
            why = "there is no GPU memory to page out of"
            choices["optim"] = Choice(optim, "machine", why)
    return choices


def adapter_choices(
    config: Config, adapter: Path, *, head: str, linear: Callable[[], set[str]]
) -> dict[str, Choice]:
    """The shape of the adapter that is trained further, which no key can change.

    Args:
        config: As loaded.
        adapter: Its folder.
        head: ``causal-lm``; or ``reward``, under which a language model's head is left out.
        linear: The names of the base's linear layers but the head, for ``all-linear``.

    Raises:
        ConfigError: With every key of the user's that says otherwise.
    """
    recorded = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    kind = recorded.get("peft_type", "LORA")
    names = ("r", "lora_alpha", "lora_dropout", "target_modules")
    choices: dict[str, Choice] = {}
    problems = []
    for key in LORA_KEYS[len(names) :]:
        if config.get(key):
            what = f"has no effect: what is trained beside LoRA is decided in the adapter {adapter}"
            fix = "remove it, or set model_name to the base (or to the merged model)"
            problems.append(Problem(f"{config.name}: {key}", what, fix))
    for key, name in zip(LORA_KEYS, names, strict=False):
        own = recorded.get(name)
        if kind != "LORA" and config.given(key):
            what = f"has no effect: the adapter that is trained further is of type {kind}"
            problems.append(Problem(f"{config.name}: {key}", what, "remove it"))
        if kind != "LORA" or own is None:
            continue
        if isinstance(own, list):
            left_out = LANGUAGE_HEADS if head == "reward" else set()
            own = sorted(set(own) - left_out)
        said = config.said.get(key, own)
        if not _alike(said, own, linear):
            what = f"is {said!r}, and the adapter that is trained further has {own!r}"
            fix = "remove it, or set model_name to the base (or to the merged model)"
            problems.append(Problem(f"{config.name}: {key}", what, fix))
        if not config.given(key):
            choices[key] = Choice(own, "adapter", f"the adapter's own, of {adapter}")
    for field, said in config.settings.lora.items():
        own = recorded.get(field)
        if not (own == said or _alike(said, own, linear)):
            what = f"is {said!r}, and the adapter that is trained further has {own!r}"
            fix = "remove it, or set model_name to the base (or to the merged model)"
            problems.append(Problem(f"{config.name}: lora.{field}", what, fix))
    if problems:
        raise ConfigError(*problems)
    return choices


def _alike(said: Any, own: Any, linear: Callable[[], set[str]]) -> bool:
    """Whether the user says of an adapter what it is."""
    if isinstance(own, list):
        if said == "all-linear":
            return set(own) == linear()
        return set(said) == set(own) if isinstance(said, list) else False
    return bool(said == own)


def _has_bitsandbytes() -> bool:
    from importlib.util import find_spec

    return find_spec("bitsandbytes") is not None


def exact_4bit_on_cpu(model: PreTrainedModel) -> int:
    """Keep bitsandbytes' 4-bit layers on the path that has right gradients; how many there are.

    On processors with AVX512-BF16 bitsandbytes (≥ 0.49) repacks a 4-bit weight at the first
    forward pass in eval mode; the gradients of later training steps are then silently wrong.
    Without that path the layer dequantises, which is exact.
    """
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "support_avx512bf16_for_cpu")]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)
