"""What a trainer writes of its model: the trained adapter alone, or all weights."""

from __future__ import annotations

from functools import partial
from typing import Any

from peft import PeftModel


def save_as_loaded(model: Any, *, use_cache: bool | None) -> None:
    """Have ``save_pretrained`` write what is to be loaded, at the root of a folder.

    Of an adapter, the trained one alone. TRL adds a frozen copy of a starting adapter as the
    reference. Saved beside the policy, it made transformers restore the copy and not the policy on
    resume, without an error; and it can be made again from where the run started.

    Of all weights, a config that generates as the base's does: transformers turns the cache off
    for training, and would write that down.

    Args:
        model: The trainer's.
        use_cache: As the base's config had it; None where it has no such key.
    """
    save = model.save_pretrained
    if isinstance(model, PeftModel):
        policy = partial(save, selected_adapters=["default"])
        model.save_pretrained = policy  # type: ignore[method-assign]
        return

    def save_with_cache(*args: Any, **kwargs: Any) -> Any:
        training = model.config.use_cache
        model.config.use_cache = use_cache
        try:
            return save(*args, **kwargs)
        finally:
            model.config.use_cache = training

    if use_cache is not None:
        model.save_pretrained = save_with_cache
