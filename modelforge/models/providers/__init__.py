"""Who loads a model. Nothing is imported before it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelforge.models.providers.base import Provider

PROVIDERS = {
    "huggingface": "modelforge.models.providers.huggingface:HuggingFace",
    "unsloth": "modelforge.models.providers.unsloth:Unsloth",
}


def get_provider(name: str) -> type[Provider]:
    """The provider's class, by a name that the config's schema has let through."""
    module, _, attribute = PROVIDERS[name].partition(":")
    return getattr(import_module(module), attribute)
