"""A proven export given to the Hugging Face hub, under the user's own account."""

from __future__ import annotations

from pathlib import Path

from modelforge.common.console import say
from modelforge.common.hub import look_for_hub, why_offline
from modelforge.errors import Problem, RunError

_WHERE = "--push"


def see_that_it_can_be_pushed(hub_id: str) -> None:
    """Before hours of work: the id is one, the hub is there, and it is known who asks.

    Raises:
        RunError: With what is missing.
    """
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    where = f"{_WHERE} {hub_id}"
    try:
        validate_repo_id(hub_id)
    except HFValidationError as error:
        raise RunError(Problem(where, f"is no hub id: {error}", "write ACCOUNT/NAME")) from None
    if get_token() is None:
        fix = "set HF_TOKEN to a token of your account that may write, or run `hf auth login`"
        raise RunError(Problem(where, "needs a token of the hub, and there is none", fix))
    look_for_hub()
    why, fix = why_offline()
    if why:
        raise RunError(Problem(where, f"cannot be done: {why}", fix))


def push(folder: Path, hub_id: str) -> str:
    """Upload an export's folder to a repository, which is made private where there is none.

    Returns:
        Where it can be seen.

    Raises:
        RunError: If the hub does not take it; the folder stays.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    say(f"pushing {folder} to {hub_id}")
    api = HfApi()
    try:
        api.create_repo(hub_id, private=True, exist_ok=True)
        found = api.upload_folder(
            repo_id=hub_id, folder_path=folder, commit_message="A model exported by ModelForge"
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        fix = f"the export is whole in {folder}; try `hf upload {hub_id} {folder}`"
        first = str(error).strip().splitlines()[0]
        raise RunError(Problem(f"{_WHERE} {hub_id}", f"the hub refused: {first}", fix)) from None
    return str(found.commit_url)
