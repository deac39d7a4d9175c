"""Variables that the libraries below read once, when they are imported."""

from __future__ import annotations

import os
import sys


def prepare_environment() -> None:
    """Set them where the user has not; to be called before torch and transformers are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if sys.platform == "linux":
        # Segments that grow leave no holes between batches of different lengths.
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
