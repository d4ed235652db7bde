"""Asking the Hugging Face hub, once: its client's own retries take half a minute to say that there is no network."""

from __future__ import annotations

from typing import Literal

_SECONDS = 10.0
"""Longest wait for the answer."""


def unreachable(repo: str, file: str, kind: Literal["model", "dataset"] = "model") -> str | None:
    """Why `repo` cannot be had from the hub, in one line, after one request for `file`; None if it can."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    try:
        get_hf_file_metadata(hf_hub_url(repo, file, repo_type=kind), timeout=_SECONDS)
    except EntryNotFoundError:
        return None  # the repository is there, that file is not
    except Exception as error:  # noqa: BLE001 - boundary: the hub's client raises errors of several libraries
        return " ".join(str(error).split())[:200]
    return None
