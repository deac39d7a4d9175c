"""Whether the Hugging Face hub can be reached, and what an answer of it means."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from modelforge.common.console import warn

_PATIENCE = 5.0  # seconds to wait for a connection

_unreachable = ""


def look_for_hub() -> None:
    """See whether the hub can be reached; where it cannot, work from its cache, and say so once.

    The hub's libraries try a lost connection again five times for each file, with growing pauses.
    One look beforehand spares that. ``HF_HUB_OFFLINE`` stays as the user set it.
    """
    import httpx
    from huggingface_hub import constants, get_session

    if _unreachable:  # that was then
        _work_offline("")
    if constants.is_offline_mode():
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        reason = str(error) or type(error).__name__
        _work_offline(f"{constants.ENDPOINT} cannot be reached ({reason})")
        warn(f"{_unreachable}, so only what the hub's cache holds can be used")
    except httpx.HTTPError:
        pass  # it answers, if badly; the libraries know how to deal with that


def _work_offline(why: str) -> None:
    """Have the hub's libraries use their cache alone; an empty reason takes that back."""
    global _unreachable
    from huggingface_hub import constants

    _unreachable = why
    constants.HF_HUB_OFFLINE = bool(why)
    if why:
        os.environ["HF_HUB_OFFLINE"] = "1"  # for what is imported or started later
    else:
        os.environ.pop("HF_HUB_OFFLINE", None)
    if "datasets" in sys.modules:
        import datasets

        datasets.config.HF_HUB_OFFLINE = bool(why)


@contextmanager
def cache_alone() -> Iterator[None]:
    """Within it, nothing is downloaded from the hub: what its cache holds can be read."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def why_offline() -> tuple[str, str]:
    """Why only the hub's cache is used, and what to do; empty where the hub is used."""
    from huggingface_hub import constants

    if _unreachable:
        return _unreachable, "check the network, proxy and HF_ENDPOINT, or give a folder"
    if constants.is_offline_mode():
        fix = "download it where there is a network (`hf download`), or give a folder"
        return "HF_HUB_OFFLINE is set", fix
    return "", ""


def refusal(name: str, error: BaseException, *, kind: str = "") -> tuple[str, str]:
    """What the hub refuses, and what to do; empty where the error is another one.

    Args:
        name: The hub id.
        error: As raised.
        kind: ``datasets/`` for a data set: where its page is.
    """
    names = {type(cause).__name__ for cause in _causes(error)}
    text = str(error).lower()
    token = "set HF_TOKEN to a token of your account, or run `hf auth login`"
    if "GatedRepoError" in names or "gated repo" in text or "gated dataset" in text:
        page = f"https://huggingface.co/{kind}{name}"
        fix = f"accept its terms on {page}, then {token}; or take one that is not gated"
        return "is gated: the hub gives it to accounts that accepted its terms", fix
    missing = {"RepositoryNotFoundError", "DatasetNotFoundError"}
    if names & missing or "not a valid model identifier" in text:
        return "is not on the hub, or is private", f"check the id; for a private one {token}"
    return "", ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
