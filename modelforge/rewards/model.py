"""A reward model as a reward function: loaded with transformers and PEFT, its head checked."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import find_adapter_config_file

from modelforge.common.hub import look_for_hub, why_offline
from modelforge.data.carried import chat_ids, is_special
from modelforge.errors import ModelError, Problem
from modelforge.models.attach import rows_of_adapter
from modelforge.models.hub import on_the_hub, unreadable
from modelforge.models.lora import exact_4bit_on_cpu
from modelforge.models.vocabulary import Vocabulary, grow
from modelforge.rewards.folder import folder_problem, is_adapter, reward_folder, trained_as
from modelforge.runs import files


def encode(
    tokenizer: Any, prompts: list, completions: list, max_length: int | None = None
) -> dict[str, torch.Tensor]:
    """Prompt and completion as a reward model was trained on them, right-padded: (B, L) each.

    Conversations go through the tokenizer's chat template; plain text gets the tokenizer's own
    special tokens and an EOS at its end: both as TRL's ``RewardTrainer`` prepares its pairs. Left
    padding would change a 4-bit model's scores. Longer texts keep their last ``max_length``
    tokens, since the head reads the last one.
    """
    rows = []
    for prompt, completion in zip(prompts, completions, strict=True):
        if isinstance(completion, str):
            text = prompt + completion
            eos = tokenizer.eos_token or ""  # an encoder's tokenizer adds its own end
            text = text if text.endswith(eos) else text + eos
            ids = tokenizer(text)["input_ids"]
        else:
            messages = [*prompt, *completion]
            if is_special(messages):
                ids = chat_ids(tokenizer, messages)
            else:
                ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        rows.append({"input_ids": ids if max_length is None else ids[-max_length:]})
    padding = tokenizer.pad_token is not None  # a text that stands alone needs none
    padded = tokenizer.pad(rows, padding, padding_side="right", return_tensors="pt")
    return {key: padded[key] for key in ("input_ids", "attention_mask")}


def pad_as_trained(tokenizer: Any, model: Any, *, adapted: bool) -> None:
    """Give tokenizer and model the one pad token that the model was trained with.

    It decides which token is scored: the rightmost other one.

    Args:
        tokenizer: The reward model's own.
        model: The reward model.
        adapted: Whether it is an adapter: then its tokenizer tells, for the config is the base's.
    """
    config = model.config.get_text_config()
    rows = model.get_input_embeddings().weight.shape[0]
    trained = None if adapted else config.pad_token_id
    if trained is not None and 0 <= trained < rows:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(trained)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    config.pad_token_id = tokenizer.pad_token_id


class RewardModel:
    """A separately loaded reward model, called as TRL calls a reward function."""

    def __init__(self, model: Any, tokenizer: Any, *, max_length: int | None, batch_size: int):
        self.model, self.tokenizer = model, tokenizer
        # Without a pad token texts of unlike lengths cannot stand in one batch.
        self.max_length, self.batch_size = max_length, batch_size if tokenizer.pad_token else 1
        self.__name__ = "reward_model"

    @classmethod
    def load(
        cls,
        name: str,
        *,
        base_dir: Path = Path(),
        device: Any = None,
        max_length: int | None = None,
        batch_size: int = 16,
        use_4bit: bool = False,
    ) -> RewardModel:
        """Load a folder (a run's, an adapter's, a full model's) or a hub id.

        Raises:
            ModelError: no reward model, no trained head for one score, or no pad token.
        """
        folder = base_dir / name
        local = folder.is_dir()
        if local and (what := folder_problem(folder)):
            fix = "name a run of the strategy reward, or the folder of a reward model"
            raise ModelError(Problem(name, what, fix))
        if on_the_hub(name, base_dir) and not why_offline()[0]:
            look_for_hub()
        path = str(reward_folder(folder)) if local else name
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            model = _load_model(path, device=device, use_4bit=use_4bit)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError(unreadable(name, "reward model", error)) from None
        pad_as_trained(tokenizer, model, adapted=local and is_adapter(Path(path)))
        reward = cls(model, tokenizer, max_length=max_length, batch_size=batch_size)
        stem = Path(path)
        reward.__name__ = stem.parent.name if stem.name == files.MODEL else stem.name
        return reward

    def __call__(self, *, prompts: list, completions: list, **columns: Any) -> list[float]:
        if not isinstance(completions[0], str) and not self.tokenizer.chat_template:
            what = "the reward model has no chat template, and the data is conversations"
            raise ModelError(Problem(self.__name__, what, "save one with its tokenizer"))
        scores: list[float] = []
        for i in range(0, len(prompts), self.batch_size):
            part = slice(i, i + self.batch_size)
            batch = encode(self.tokenizer, prompts[part], completions[part], self.max_length)
            with torch.no_grad():
                inputs = {key: value.to(self.model.device) for key, value in batch.items()}
                scores += self.model(**inputs).logits[:, 0].float().tolist()
        return scores


def _load_model(path: str, *, device: Any, use_4bit: bool) -> Any:
    """The sequence-classification model in eval mode, every head weight from the checkpoint."""
    if device is None:
        # each process of a distributed run has its own device
        rank = os.environ.get("LOCAL_RANK", "0")
        device = f"cuda:{rank}" if torch.cuda.is_available() else "cpu"
    # A reward model's own code is never run; without the False transformers would ask.
    kwargs: dict[str, Any] = {
        "dtype": "auto",
        "device_map": {"": device},
        "trust_remote_code": False,
        "use_safetensors": True,
    }
    if use_4bit:
        from transformers import BitsAndBytesConfig

        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        )
    if is_adapter(Path(path)):
        from peft import PeftConfig, PeftModel

        base_name = PeftConfig.from_pretrained(path).base_model_name_or_path
        # The base has no head of its own; the adapter's is loaded over it, as was checked.
        base = AutoModelForSequenceClassification.from_pretrained(
            base_name, num_labels=1, revision=trained_as(Path(path))[0], **kwargs
        )
        exact_4bit_on_cpu(base)
        grow(base, Vocabulary(rows_of_adapter(Path(path)), known=0))
        with warnings.catch_warnings():
            # PEFT only warns of keys that the adapter's file lacks: the head would be random.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(base, path).eval()
    if find_adapter_config_file(path) is not None:
        # transformers would follow it to another model, and take a pickled adapter too.
        what = "is an adapter on the hub"
        raise ModelError(Problem(path, what, "download it (`hf download`) and give its folder"))
    model, info = AutoModelForSequenceClassification.from_pretrained(
        path, output_loading_info=True, **kwargs
    )
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        what = f"the checkpoint lacks {missing}: it would score with random weights"
        raise ModelError(Problem(path, what, "give a model trained as a reward model"))
    if model.config.num_labels != 1:
        what = f"gives {model.config.num_labels} labels; a reward model gives one score"
        raise ModelError(Problem(path, what))
    exact_4bit_on_cpu(model)
    return model.eval()
