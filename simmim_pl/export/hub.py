"""Push an exported folder to Hugging Face's hub, which nothing else here does."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from simmim_pl.contracts import InputError

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def require_hub(repository: str) -> Any:
    """The package huggingface_hub. Raises :class:`InputError` if it is not installed, or if the name is none."""
    if not REPOSITORY.fullmatch(repository):
        raise InputError(f"--push {repository} is not a repository name of the hub: give OWNER/NAME.")
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(f"--push needs huggingface_hub ({error}): pip install 'simmim_pl[export]'.") from error


def push(folder: Path, repository: str) -> str:
    """Upload a folder's files to a model repository, which is made if there is none.

    Args:
        folder: the export.
        repository: ``OWNER/NAME``.

    Returns:
        The repository's address.

    Raises:
        InputError: the upload failed: no login, no permission for the name, or no network.
    """
    api: Any = require_hub(repository).HfApi()
    try:
        url = api.create_repo(repository, repo_type="model", exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Export of simmim_pl")
        return str(url)
    except Exception as error:  # the hub's, its network's: no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise InputError(
            f"{folder} is written, but its upload to {repository} failed ({reason}): log in with `hf auth "
            f"login`, and try again with `hf upload {repository} {folder}`."
        ) from error
