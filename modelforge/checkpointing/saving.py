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
        adapted: Any = model
        config: Any = adapted.peft_config["default"]
        options: dict[str, Any] = {"selected_adapters": ["default"]}
        if getattr(config, "trainable_token_indices", None) or config.modules_to_save:
            # The rows of new tokens are the adapter's. PEFT would add the whole embedding to every
            # checkpoint, and nothing that loads an adapter needs it.
            options["save_embedding_layers"] = False
        adapted.save_pretrained = partial(save, **options)
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


def carry_rows(model: Any) -> None:
    """Have a copy of an adapter begin with the rows of tokens that the adapter has trained.

    TRL adds a frozen copy of a starting adapter as the reference. It copies what has the adapter's
    name inside its own, and PEFT puts it at the end of the name of these rows. So the copy would
    keep the rows of the base (TRL 1.14 to 1.16).

    Args:
        model: To be given to a trainer.
    """
    if not isinstance(model, PeftModel):
        return
    adapted: Any = model
    add = adapted.add_adapter

    def add_adapter(name: str, *args: Any, **kwargs: Any) -> Any:
        added = add(name, *args, **kwargs)
        for module in adapted.modules():
            rows = getattr(module, "trainable_tokens_delta", None)
            if rows is not None and name in rows and "default" in rows:
                rows[name].data.copy_(rows["default"].data)
        return added

    adapted.add_adapter = add_adapter
