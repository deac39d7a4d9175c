"""How often Python looks for garbage: seldom while much is made that stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

GARBAGE = 100_000  # objects made before a process looks for garbage; a batch makes many more lists


@contextmanager
def few_collections() -> Iterator[None]:
    """Look for garbage seldom: modules and rows are held, and each look goes over all of them."""
    before = gc.get_threshold()
    gc.set_threshold(GARBAGE)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def no_last_look() -> None:
    """End this process without a look for garbage, which goes over all that was imported."""
    gc.freeze()
