"""Single values of other trainers → ours: what a table of names cannot say.

Each function is named by a key in ``configs/peers``, in the class ``converted``. It is given their
config, the key and its value, and says what became of it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from modelforge.importing.theirs import Theirs, listed, says_something

_ALL = ("all", "all-linear", "all_linear", "linear")
_PLAIN_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_TRACKERS = (
    *("azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "mlflow"),
    *("neptune", "swanlab", "tensorboard", "trackio", "wandb"),
)
_KERNELS = {
    "flash_attention_2": "flash_attention_2",
    "flash_attn": "flash_attention_2",
    "flash_attention": "flash_attention_2",
    "flash_attention_3": "flash_attention_3",
    "sdpa": "sdpa",
    "eager": "eager",
    "auto": "auto",
}
_SIZES = {"bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "half": "fp16"}


def spoken(t: Theirs, key: str, value: Any) -> None:
    """A key that another one's function reads; it has a line by then if it counts."""
    if not says_something(value):
        t.lose(key, "")
    elif not t.told(key):
        t.lose(key, "it counts only beside other keys, which this file does not have")


def filled(t: Theirs, key: str, value: Any) -> None:
    """The same here, where it says anything."""
    if value in (None, {}, []):
        t.lose(key, "")
    else:
        t.put(key, value, key.rpartition(".")[2], value)


def model(t: Theirs, key: str, value: Any) -> None:
    """The model: a folder beside the file, or a hub id."""
    if value:
        place = t.place(str(value))
        note = "" if place == value else "relative to our config"
        t.put(key, value, "model_name", place, note)


def sft_model(t: Theirs, key: str, value: Any) -> None:
    """TRL's PPO names the policy so, beside the model of the tokenizer."""
    if t.ours.get("model_name") == value:
        t.changed(key, "the same model", "model_name", value)
        return
    t.ours.pop("model_name", None)
    t.put(key, value, "model_name", t.place(str(value)))


def adapter_folder(t: Theirs, key: str, value: Any) -> None:
    """An adapter that is trained further is the model here, and brings its base."""
    folders = listed(value)
    if not folders:
        t.lose(key, "")
    elif len(folders) > 1:
        t.open(key, "several adapters: merge all but the last into the base first")
    else:
        base = t.ours.pop("model_name", None)
        note = f"the adapter is trained further; its base is {base}, as its own config says"
        t.put(key, value, "model_name", t.place(str(folders[0])), note)


def output(t: Theirs, key: str, value: Any) -> None:
    """Their folder of one model holds the runs here."""
    if value:
        t.put(key, value, "output_dir", str(value), "the folder of the runs, one folder a run")


def run_name(t: Theirs, key: str, value: Any) -> None:
    """A run's name is a folder's name here."""
    if value is None or value == "":
        t.lose(key, "")
        return
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(value)).strip("-._") or "run"
    plain = _PLAIN_NAME.match(str(value))
    t.put(key, value, "run_name", name, "" if plain else "it names a folder here")


def modules(t: Theirs, key: str, value: Any) -> None:
    """Modules of LoRA: a text with commas is several names, a pattern stays one."""
    if not value:
        t.lose(key, "")
    elif str(value).strip() in _ALL or (isinstance(value, list) and set(value) & set(_ALL)):
        t.put(key, value, "lora_target_modules", "all-linear")
    elif t.ours.get("lora_target_modules") == "all-linear":
        t.leave(key, "all linear layers are trained, these among them")
    elif isinstance(value, str) and re.search(r"[\^$*()|\\]", value):
        t.put(key, value, "lora_target_modules", value, "a pattern")
    else:
        t.put(key, value, "lora_target_modules", listed(value))


def modules_to_save(t: Theirs, key: str, value: Any) -> None:
    """Modules that are trained whole beside LoRA."""
    if listed(value):
        t.put(key, value, "lora_modules_to_save", listed(value))


def target_parameters(t: Theirs, key: str, value: Any) -> None:
    """PEFT's ``target_parameters``: the experts of a mixture."""
    if listed(value):
        t.put(key, value, "lora.target_parameters", listed(value))


def all_linear(t: Theirs, key: str, value: Any) -> None:
    """LoRA on all linear layers, also beside a list of some."""
    if value:
        t.ours.pop("lora_target_modules", None)
        t.put(key, value, "lora_target_modules", "all-linear")
    else:
        t.lose(key, "")


def tokens(t: Theirs, key: str, value: Any) -> None:
    """Words that are added; an older Axolotl has its special tokens there."""
    if isinstance(value, dict):
        special_tokens(t, key, value)
    elif value:
        t.put(key, value, "add_tokens", listed(value))
    else:
        t.lose(key, "")


def rank(t: Theirs, key: str, value: Any) -> None:
    """A rank counts only where an adapter is trained."""
    if value and t.ours.get("lora_r") == 0:
        t.leave(key, "all weights are trained: no adapter")
    else:
        filled(t, key, value)


def layers(t: Theirs, key: str, value: Any) -> None:
    """PEFT's ``layers_to_transform``."""
    if value is not None:
        t.put(key, value, "lora.layers_to_transform", value)


def precision(t: Theirs, key: str, value: Any) -> None:
    """``bf16`` and the like: auto is what ModelForge does anyway."""
    name = key.rpartition(".")[2]
    if value in (None, "", "auto"):
        t.lose(key, "") if value is None else t.leave(key, "the machine decides, as there")
    else:
        on = str(value).lower() in ("true", "full", "1", "yes")
        t.put(key, value, name, on) if on or name == "bf16" else t.leave(key, "off, as here")


def dtype(t: Theirs, key: str, value: Any) -> None:
    """A dtype by name: bf16 or fp16 here."""
    name = str(value).removeprefix("torch.")
    if value is None:
        t.lose(key, "")
    elif name == "auto":
        t.leave(key, "the machine decides")
    elif _SIZES.get(name) == "bf16" and t.ours.get("lora_r") == 0:
        t.put(key, value, "dtype", "bfloat16")
    elif name in _SIZES:
        other = t.said("fp16" if _SIZES[name] == "bf16" else "bf16")
        if other or t.said(_SIZES[name]) is not None or t.find(_SIZES[name])[1] is not None:
            t.leave(key, "bf16 or fp16 says it")
        else:
            t.put(key, value, _SIZES[name], True)
    elif name in ("float32", "fp32", "float"):
        if not (t.find("bf16")[1] or t.find("fp16")[1]):
            t.put(key, value, "bf16", False)
        t.put(key, value, "dtype", "float32")
    else:
        t.lose(key, f"{name} is not trained in here; bf16 and fp16 are")


def pure_bf16(t: Theirs, key: str, value: Any) -> None:
    """LLaMA-Factory's: the trained weights too are 16-bit."""
    if not value:
        t.lose(key, "")
    elif t.ours.get("lora_r") == 0:
        t.put(key, value, "dtype", "bfloat16")
    else:
        t.put(key, value, "bf16", True)


def attention(t: Theirs, key: str, value: Any) -> None:
    """The attention kernel, by the names that the projects have for it."""
    if not value:
        t.lose(key, "")
    elif str(value) in _KERNELS:
        t.put(key, value, "attn_implementation", _KERNELS[str(value)])
    elif "flash" in str(value):
        ours = "flash_attention_3" if str(value).endswith("3") else "flash_attention_2"
        t.put(key, value, "attn_implementation", ours)
    elif str(value) in ("xformers", "flex_attention"):
        t.put(key, value, "attn_implementation", "sdpa", "PyTorch's, with the same result")
    else:
        t.lose(key, f"there is no {value} here; auto takes the fastest kernel that is installed")


def trackers(t: Theirs, key: str, value: Any) -> None:
    """Trackers, without the word for all that are installed."""
    names = [str(name) for name in listed(value)]
    known = [name for name in names if name in _TRACKERS]
    if not names or "all" in names:
        t.leave(key, "all that are installed; TensorBoard is the default here")
    elif names == ["none"]:
        t.put(key, value, "report_to", "none")
    elif known:
        note = "" if len(known) == len(names) else f"of {', '.join(names)}"
        t.put(key, value, "report_to", known[0] if len(known) == 1 else known, note)
    else:
        t.lose(key, f"there is no tracker {', '.join(names)}")


def wandb(t: Theirs, key: str, value: Any) -> None:
    """A project of Weights & Biases: the tracker is a key, its project a variable of the shell."""
    if value:
        note = f"and set WANDB_PROJECT={value} in the shell"
        t.put(key, value, "report_to", "wandb", note)
    else:
        t.lose(key, "")


def deepspeed(t: Theirs, key: str, value: Any) -> None:
    """DeepSpeed's settings: by a stage's name, or by a file of theirs."""
    text = str(value).lower()
    stage = re.search(r"(?:ze?ro|ds_z|stage)_?-?([0-3])", text)
    if not value:
        t.lose(key, "")
    elif isinstance(value, str) and (found := t.local(value)):
        t.put(key, value, "distributed.backend", "zero3" if "3" in found.name else "zero2")
        t.ours["distributed"]["config"] = t.place(value)
    elif stage and int(stage[1]) >= 2:
        note = "offloading is in DeepSpeed's file: name one in distributed.config"
        note = note if "offload" in text else "the shipped settings of this stage"
        t.put(key, value, "distributed.backend", f"zero{stage[1]}", note)
    elif stage:
        t.put(key, value, "distributed.backend", "zero2", "there is no stage 1 here; 2 is near")
    else:
        t.open(key, "is a file that is not here: name it in distributed.config")


def fsdp(t: Theirs, key: str, value: Any) -> None:
    """FSDP: whole sharding, by the shipped settings."""
    if value:
        t.put(key, value, "distributed.backend", "fsdp", "the shipped settings of FSDP")
    else:
        t.lose(key, "")


def fsdp_config(t: Theirs, key: str, value: Any) -> None:
    """FSDP's settings: the shipped ones stand in for theirs."""
    if value:
        note = "the shipped settings; name a JSON file in distributed.config for others"
        t.put(key, value, "distributed.backend", "fsdp", note)
    else:
        t.lose(key, "")


def accelerate(t: Theirs, key: str, value: Any) -> None:
    """Accelerate's file, by its name."""
    name = Path(str(value)).name
    if "fsdp" in name:
        fsdp(t, key, value)
    elif stage := re.search(r"zero[_-]?[0-3]", name):
        deepspeed(t, key, stage[0])
    else:
        t.leave(key, "--num-processes says how many processes train together")


def remote_code(t: Theirs, key: str, value: Any) -> None:
    """Code of the model's own is run only where its user says so twice."""
    if value:
        t.leave(key, "most models need no code of their own; if yours does, set it to true and say "
                     "--trust-remote-code")  # fmt: skip
    else:
        t.lose(key, "")


def push(t: Theirs, key: str, value: Any) -> None:
    """Pushing to the hub."""
    t.put(key, value, "push_to_hub", bool(value)) if value else t.lose(key, "")


def token(t: Theirs, key: str, value: Any) -> None:
    """The end and the padding of rows."""
    if value:
        t.put(key, value, key.rpartition(".")[2], str(value))
    else:
        t.lose(key, "")


def special_tokens(t: Theirs, key: str, value: Any) -> None:
    """Axolotl's section: the end of an answer and the padding have keys here."""
    for name, text in (value or {}).items():
        inner = f"{key}.{name}"
        if name in ("eos_token", "pad_token") and text:
            t.put(inner, text, name, str(text))
        elif name == "additional_special_tokens":
            t.put(inner, text, "add_special_tokens", listed(text))
        else:
            t.leave(inner, "the tokenizer has it")
    if not value:
        t.lose(key, "")


def text_column(t: Theirs, key: str, value: Any) -> None:
    """The column of plain text."""
    if value in (None, "text"):
        t.leave(key, "it is recognised by that name")
    else:
        t.put(key, value, "columns.text", str(value))


def init_kwargs(t: Theirs, key: str, value: Any) -> None:
    """What TRL gives the model's loader."""
    for name, inner in (value or {}).items():
        at = f"{key}.{name}"
        if name in ("torch_dtype", "dtype"):
            dtype(t, at, inner)
        elif name == "attn_implementation":
            attention(t, at, inner)
        elif name == "revision":
            t.put(at, inner, "model_revision", inner)
        else:
            t.lose(at, "the model is loaded without it")
    if not value:
        t.lose(key, "")


def environment(t: Theirs, key: str, value: Any) -> None:
    """Environment variables in a file of TRL's."""
    names = ", ".join(f"{k}={v}" for k, v in (value or {}).items())
    t.open(key, f"set them in the shell: {names}") if names else t.lose(key, "")


def plugins(t: Theirs, key: str, value: Any) -> None:
    """Axolotl's plugins by their names."""
    for index, name in enumerate(listed(value)):
        at = f"{key}[{index}]"
        if "liger" in str(name).lower():
            t.put(at, name, "use_liger_kernel", True)
        elif "cut_cross_entropy" in str(name) and t.strategy in ("sft", "qlora"):
            t.put(at, name, "loss_type", "chunked_nll", "TRL's loss that saves the same memory")
        elif "cut_cross_entropy" in str(name):
            t.leave(at, "it saves memory, and changes no result")
        elif any(
            word in str(name).lower() for word in ("spectrum", "kd", "diffusion", "densemixer")
        ):
            t.refuse(at, f"the plugin {name}")
        else:
            t.lose(at, f"there is no plugin {name} here")
    if not value:
        t.lose(key, "")


def rpo(t: Theirs, key: str, value: Any) -> None:
    """A term of likelihood beside DPO's loss."""
    if value and t.strategy == "dpo":
        t.ours.pop("loss_type", None)
        t.put(key, value, "loss_weights", [1.0, float(value)], "the likelihood of chosen answers")
        t.ours["loss_type"] = ["sigmoid", "sft"]
    else:
        t.lose(key, "only dpo has it here")


def loss(t: Theirs, key: str, value: Any) -> None:
    """The loss by TRL's name; DPO takes a list."""
    names = {"ipo_": "ipo", "chunked_ce": "chunked_nll"}
    if not value:
        t.lose(key, "")
    elif t.said("loss_type") is not None:
        t.leave(key, f"loss_type is {t.said('loss_type')} already")
    elif t.strategy == "dpo":
        if {"orpo", "simpo", "kto_pair", "cpo"} & set(listed(value)):
            t.refuse(key, f"the loss {value}: dpo has none of that name", "examples/04_orpo.py")
        t.put(key, value, "loss_type", listed(value))
    else:
        t.put(key, value, "loss_type", names.get(str(value), value))
