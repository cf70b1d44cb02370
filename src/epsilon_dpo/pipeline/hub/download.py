"""Files from the Hugging Face Hub at a pinned commit, with the ways in which that fails as one sentence each.

A file of a pinned commit that is in the local cache is used without asking the Hub. Otherwise the Hub is asked once,
with a short timeout, before huggingface_hub's own downloads start: these repeat a failing connection for 23 s
(measured).
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import httpx2  # the HTTP library under huggingface_hub, for the errors that it lets through
import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from epsilon_dpo.pipeline.observability.errors import NotServed, UserError, fault_of_proxy

RepoType = Literal["model", "dataset"]
TIMEOUT = 10.0  # seconds for the first answer of the Hub
TOO_MANY_REQUESTS, OWN_FAULT = 429, 500  # statuses; from the second on the Hub cannot answer, however it is asked


def hub_file(repo: str, name: str, revision: str, repo_type: RepoType) -> Path:
    """The file `name` of a repository at the commit `revision`.

    Raises:
        UserError: Hub unreachable or offline mode, repository gated or unknown, no such revision, no such file (the
            message names those that look alike).
    """
    with _one_sentence(repo, revision, repo_type):
        cached = huggingface_hub.try_to_load_from_cache(repo, name, revision=revision, repo_type=repo_type)
        if isinstance(cached, str):
            return Path(cached)
        available = _list_files(repo, revision, repo_type)
        if name not in available:
            alike = [other for other in available if Path(other).suffix == Path(name).suffix] or available
            raise UserError(
                f"{_place(repo, revision)} holds no {name}; it holds {', '.join(alike[:20]) or 'no file at all'}."
            )
        return Path(huggingface_hub.hf_hub_download(repo, name, revision=revision, repo_type=repo_type))


def cached_file(repo: str, name: str, revision: str) -> Path | None:
    """The file `name` of a model repository at the commit `revision` if it is in the local cache; asks no Hub.

    Raises:
        UserError: `repo` is no name of a repository.
    """
    with _one_sentence(repo, revision, "model"):
        cached = huggingface_hub.try_to_load_from_cache(repo, name, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def hub_folder(repo: str, revision: str, patterns: list[str]) -> Path:
    """The files of a model repository at the commit `revision` that match `patterns` (others are not downloaded).

    If the Hub cannot be reached, what is in the local cache; whether that is complete is for the caller to check where
    no `snapshot_download` has left the list of the repository's files. Where it has, the cache also serves a repository
    that the Hub does not show, such as a private one without a login.

    Raises:
        UserError: as `hub_file`, and the local cache lacks a listed file.
    """
    try:
        with _one_sentence(repo, revision, "model"):
            _list_files(repo, revision, "model")
    except UserError as error:
        if not isinstance(error, _Unreachable) and not _is_listed(repo, revision):
            raise
        with suppress(LocalEntryNotFoundError):
            return Path(
                huggingface_hub.snapshot_download(
                    repo, revision=revision, allow_patterns=patterns, local_files_only=True
                )
            )
        raise
    with _one_sentence(repo, revision, "model"):
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=patterns))


def hub_names(repo: str, revision: str, repo_type: RepoType) -> list[str]:
    """The names of the files of a repository at the commit `revision`, sorted; none is downloaded.

    They never change, so they are kept beside the repository's files in the local cache, and asked for once; where
    `hf download` has kept them, never.

    Raises:
        UserError: as `hub_file`.
    """
    kept = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=repo_type) / f"names-{revision}.json"
    with suppress(OSError, ValueError):  # there are none, or a loss of power has left an empty file
        return json.loads(kept.read_text("utf-8"))
    with _one_sentence(repo, revision, repo_type, what="the list of the files of "):
        with suppress(CachedRepoTreeNotFoundError):
            cached = huggingface_hub.get_cached_repo_tree(repo, repo_type=repo_type, revision=revision)
            return sorted(file.path for file in cached)
        names = _list_files(repo, revision, repo_type)
    with suppress(OSError):  # a cache that many share may be read-only
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(names), "utf-8")
        partial.rename(kept)
    return names


class _Unreachable(NotServed):
    """No answer from the Hub, or none today."""


def _is_listed(repo: str, revision: str) -> bool:
    """Whether the local cache knows which files the commit has, and so whether it lacks one."""
    with suppress(CachedRepoTreeNotFoundError, HFValidationError):
        huggingface_hub.get_cached_repo_tree(repo, repo_type="model", revision=revision)
        return True
    return False


def _list_files(repo: str, revision: str, repo_type: RepoType) -> list[str]:
    api = huggingface_hub.HfApi()
    read = api.dataset_info if repo_type == "dataset" else api.model_info
    return sorted(sibling.rfilename for sibling in read(repo, revision=revision, timeout=TIMEOUT).siblings or [])


def _place(repo: str, revision: str) -> str:
    return f"{repo} at revision {revision[:8]}"


@contextmanager
def _one_sentence(repo: str, revision: str, repo_type: RepoType, what: str = "") -> Iterator[None]:
    """Turns the errors of huggingface_hub into a `NotServed`; subclasses come before their bases.

    Args:
        what: that is asked for, where it is no file.
    """
    page = f"{constants.ENDPOINT}/{'datasets/' if repo_type == 'dataset' else ''}{repo}"
    try:
        yield
    except GatedRepoError:
        raise NotServed(
            f"{repo} is gated: accept its terms at {page}, then log in with `hf auth login` "
            "(or set HF_TOKEN) and run again."
        ) from None
    except RepositoryNotFoundError:
        raise NotServed(
            f"The Hub shows no {repo_type} {repo}: check the name, or, if it is private or gated, log in "
            "with `hf auth login` (or set HF_TOKEN)."
        ) from None
    except RevisionNotFoundError:
        raise NotServed(f"{repo} has no revision {revision}: copy the commit from {page}/commits/main.") from None
    except HFValidationError:
        raise NotServed(
            f"{repo!r} is no Hub repository name (owner/name); for a local folder set revision to null."
        ) from None
    except OfflineModeIsEnabled:
        raise _Unreachable(
            f"{what}{_place(repo, revision)} is not in the local cache and HF_HUB_OFFLINE forbids the download: "
            "unset it, or set a local folder in params.yaml."
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == TOO_MANY_REQUESTS or status >= OWN_FAULT:
            raise _Unreachable(
                f"{what}{_place(repo, revision)} is not in the local cache and {constants.ENDPOINT} answers with "
                f"status {status}: try again later, or set a local folder in params.yaml."
            ) from None
        raise NotServed(
            f"The Hub refused {what}{_place(repo, revision)} with status {status}; try again later, "
            "or set a local folder in params.yaml."
        ) from None
    except (httpx2.HTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise _Unreachable(
            f"{what}{_place(repo, revision)} is not in the local cache and {constants.ENDPOINT} "
            f"cannot be reached ({type(error).__name__}): check the network, or set a local folder in params.yaml."
        ) from None
    except (ImportError, ValueError) as error:  # of a SOCKS proxy, for which the library lacks a package
        if (fault := fault_of_proxy(constants.ENDPOINT, error)) is None:
            raise
        raise fault from None
