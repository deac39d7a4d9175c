"""Prompts with what their rows give the chat template: functions, and arguments of its own.

TRL's trainers that sample render all prompts alike. In normal form the first message of a prompt
holds what is its row's alone (see `modelforge.data.carried`). `Carrying` mends two other things in
these trainers too: what a judge makes of an unscored completion, and weights cast for a rollout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from modelforge.data.carried import chat_ids, is_special

#: What of TRL's private parts `carrying` overrides, with the parameters it is called with.
HOOKS = {
    "_tokenize_prompts": ["prompts"],
    "_calculate_rewards": ["inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_single_turn": ["prompt_ids", "images", "multimodal_fields"],
}


@contextmanager
def weights_kept(model: Any) -> Iterator[None]:
    """Give each weight and buffer back what it held, whatever was done to the model meanwhile.

    For continuous batching TRL casts the whole model to bfloat16 before each rollout. Adapters and
    heads are trained in float32: most of their small steps would be rounded away.
    """
    held = [(tensor, tensor.data) for tensor in (*model.parameters(), *model.buffers())]
    buffers = [(m, dict(m._buffers)) for m in model.modules() if m._buffers]
    try:
        yield
    finally:
        for tensor, data in held:
            tensor.data = data
        for module, theirs in buffers:
            module._buffers.update(theirs)


def carrying(trainer_class: type[Any]) -> type[Any]:
    """A trainer class that samples, made to render such prompts."""
    return type(trainer_class.__name__, (Carrying, trainer_class), {})


class Carrying:
    """Mixed into a trainer of TRL, in front of it."""

    processing_class: Any
    chat_template_kwargs: Mapping[str, Any]
    reward_weights: Any
    accelerator: Any
    model: Any

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        """TRL takes a completion for scored where any reward gave a number, a judge's too."""
        trainer: Any = super()
        scores = trainer._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        idle = self.reward_weights.to(scores.device) == 0
        unscored = (scores.isnan() | idle).all(1)
        return scores.masked_fill(unscored[:, None], float("nan"))

    def _generate_single_turn(self, *asked: Any, **other: Any) -> Any:
        trainer: Any = super()
        if not getattr(self, "use_transformers_continuous_batching", False):
            return trainer._generate_single_turn(*asked, **other)
        with weights_kept(self.accelerator.unwrap_model(self.model)):
            return trainer._generate_single_turn(*asked, **other)

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        if not any(map(is_special, prompts)):
            trainer: Any = super()
            return trainer._tokenize_prompts(prompts)
        kwargs = self.chat_template_kwargs
        ids = [chat_ids(self.processing_class, each, kwargs, generate=True) for each in prompts]
        return ids, None, {}
