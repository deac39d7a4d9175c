"""A reward model on the policy's own base: an adapter and its score head."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelforge.common.console import say
from modelforge.config import OUT_OF_BASE
from modelforge.errors import ModelError, Problem
from modelforge.models.adapters import adapter_parameters, backbone, inference, using
from modelforge.rewards.folder import folder_problem, is_adapter, reward_folder, trained_as
from modelforge.rewards.model import encode


def shares_base(
    model: Any, folder: Path, *, revision: str | None = None, use_4bit: bool | None = None
) -> bool:
    """Whether this reward adapter was trained on the base that ``model`` is, or stands on.

    Args:
        model: The policy.
        folder: The adapter's, or its run's.
        revision: That the policy's base was loaded at.
        use_4bit: Whether the reward model is to be scored in 4-bit; None as it was trained, where
            its run tells, and else as the policy is.
    """
    trained_at, trained_in = trained_as(folder)
    folder = reward_folder(folder)
    if not is_adapter(folder):
        return False
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    wanted = trained_in if use_4bit is None else use_4bit
    ours_4bit = bool(getattr(model, "is_loaded_in_4bit", False))
    if trained_at != revision or wanted not in (None, ours_4bit):
        return False
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    theirs, ours = config.get("base_model_name_or_path"), base.name_or_path
    if not theirs or not ours:
        return False
    paths = Path(theirs), Path(ours)
    same = theirs == ours or (paths[0].exists() and paths[1].exists() and paths[0].samefile(ours))
    if same and beside_lora(config):
        say(f"reward model: beside the policy, since {folder} holds more than LoRA and a head")
        return False
    return same


def beside_lora(shape: Mapping[str, Any]) -> bool:
    """Whether an adapter trains rows or modules beside LoRA and a score head, or changes the base.

    PEFT loads a second adapter onto such modules only where it has the same (0.19 to 0.21). And on
    a base whose biases are trained, or that lost the part that the adapter began with, a reward
    model's adapter gives other scores.

    Args:
        shape: The adapter's config.
    """
    whole = set(shape.get("modules_to_save") or ()) - {"score", "classifier"}  # PEFT names both
    changed = shape.get("bias", "none") != "none" or shape.get("init_lora_weights") in OUT_OF_BASE
    return bool(shape.get("trainable_token_indices") or whole or changed)


def hold_score_heads(base: Any) -> None:
    """Give a base the placeholder on which PEFT hangs one trained head for each adapter."""
    if not hasattr(base, "score"):
        size = base.config.get_text_config().hidden_size
        base.score = nn.Linear(size, 1, bias=False, device=base.device).requires_grad_(False)


def score_on_base(
    model: Any, adapter: str, input_ids: Tensor, attention_mask: Tensor, *, pad_token_id: int | None
) -> Tensor:
    """Scores (B,) in float32 of right-padded texts (B, L).

    The head reads the rightmost token that is not the pad token, as in transformers' sequence
    classifiers (``GenericForSequenceClassification``): so the reward model was trained.

    Args:
        model: The policy, a ``PeftModel``.
        adapter: Of the reward model, with its score head.
        input_ids: The texts.
        attention_mask: 1 where there is text.
        pad_token_id: The one that the reward model was trained with; where that is EOS, the head
            reads the token before it. None: each text stands alone.
    """
    base = model.get_base_model()
    head = base.score.modules_to_save[adapter]
    input_ids, mask = input_ids.to(base.device), attention_mask.to(base.device)
    with using(model, adapter), inference(model):
        hidden = backbone(model)(input_ids=input_ids, attention_mask=mask)[0]
        rows = torch.arange(len(hidden), device=hidden.device)
        places = torch.arange(input_ids.size(1), device=hidden.device)
        filled = input_ids == (-1 if pad_token_id is None else pad_token_id)
        last = hidden[rows, (places * ~filled).argmax(1)]
        return head(last.to(head.weight.dtype))[:, 0].float()


class SharedBaseReward:
    """A reward function that scores on the policy's own base, under a reward adapter.

    Costs the memory of the adapter and its head. Gives what the separately loaded reward model
    gives. Called as TRL calls a reward function, once it is attached to the policy.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        tokenizer: Any,
        max_length: int | None = None,
        batch_size: int = 16,
    ):
        """A reward adapter to come; metrics are logged under ``name``.

        Args:
            tokenizer: The reward model's own: its chat template is the one it was trained with.

        Raises:
            ModelError: the folder is no reward adapter.
        """
        if what := folder_problem(folder):
            raise ModelError(Problem(str(folder), what))
        self.folder, self.__name__ = folder, name
        self.adapter = "reward_" + re.sub(r"\W", "_", name)  # PEFT takes no dots in a name
        self.tokenizer, self.max_length = tokenizer, max_length
        self.batch_size = batch_size if tokenizer.pad_token else 1
        self.model: Any = None

    def attach(self, policy: Any) -> SharedBaseReward:
        """Load the adapter, frozen, onto the policy, a ``PeftModel``; returns itself.

        Raises:
            ModelError: its weights do not fit this base.
        """
        self.model = policy
        hold_score_heads(policy.get_base_model())
        folder = str(self.folder)
        with warnings.catch_warnings():
            # PEFT only warns of keys that the file lacks: those weights would be random.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            try:
                path = str(reward_folder(self.folder))
                result = policy.load_adapter(path, adapter_name=self.adapter)
            except (UserWarning, RuntimeError, ValueError) as error:
                what = f"does not fit the base of the policy: {str(error).splitlines()[0]}"
                raise ModelError(Problem(folder, what)) from error
        if result.unexpected_keys:
            key = result.unexpected_keys[0]
            what = f"holds weights that the policy's base has no place for: {key}"
            raise ModelError(Problem(folder, what))
        for parameter in adapter_parameters(policy, self.adapter).values():
            parameter.requires_grad_(False)
        return self

    def __call__(self, *, prompts: list, completions: list, **columns: Any) -> list[float]:
        scores: list[float] = []
        for i in range(0, len(prompts), self.batch_size):
            part = slice(i, i + self.batch_size)
            batch = encode(self.tokenizer, prompts[part], completions[part], self.max_length)
            scores += self.score(**batch).tolist()
        return scores

    def score(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores (B,) in float32 of right-padded texts (B, L), as `score_on_base` gives them."""
        return score_on_base(
            self.model,
            self.adapter,
            input_ids,
            attention_mask,
            pad_token_id=self.tokenizer.pad_token_id,
        )
