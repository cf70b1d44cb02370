"""`epsilon-dpo card` and `epsilon-dpo push` in one call each."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2  # the HTTP library under huggingface_hub, for the errors that it lets through
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from epsilon_dpo.pipeline.observability.errors import UserError, first_line
from epsilon_dpo.pipeline.stage.ignored import seen_files
from epsilon_dpo.provenance.card.card import card
from epsilon_dpo.provenance.champion.recorded import compared, policy_of

CARD = "README.md"  # as the Hub calls it
KEPT = (".gitattributes",)  # the Hub's own, in each repository
TIMEOUT = 10.0  # seconds, for a licence
CHANGED = 412  # status of a commit on another parent than the newest


def show_card(asked: argparse.Namespace) -> str:
    """The model card of a run's policy.

    Args:
        asked: run, and licence (None: nobody stated one).

    Raises:
        UserError: as compared and policy_of.
    """
    project, summary = compared()
    policy = policy_of(project, summary, asked.run)
    return str(card(project, policy, summary, None, asked.licence, licence_of)).rstrip("\n")


def push(asked: argparse.Namespace) -> str:
    """Make a repository of the Hub hold a run's policy with its card and nothing else, in one commit; returns where.

    An adapter is sent merged: its base is the reference, which is on no Hub.

    Args:
        asked: run, repo (owner/name), licence (None: nobody stated one) and public (whether a repository that is made
            is for everybody).

    Raises:
        UserError: as compared and policy_of; the Hub cannot be reached, or refuses the repository or the card.
    """
    if asked.repo.count("/") != 1:  # the Hub makes a repository of a bare name, and does not find it by that
        raise _no_name(asked.repo)
    from epsilon_dpo.models.policy.folder import merged_policy  # here, because `card` needs no torch

    project, summary = compared()
    policy = policy_of(project, summary, asked.run)
    readme = str(card(project, policy, summary, asked.repo, asked.licence, licence_of))
    api = HfApi(endpoint=constants.ENDPOINT)
    with merged_policy(Path(policy.path)) as folder, _one_sentence(asked.repo):
        files = [file for file in seen_files(folder) if file != folder / CARD]
        api.create_repo(asked.repo, private=not asked.public, exist_ok=True)
        sent = {CARD: readme.encode()} | {str(file.relative_to(folder)): str(file) for file in files}
        about = api.model_info(asked.repo)
        there = [file.rfilename for file in about.siblings or []]
        made = api.create_commit(
            asked.repo,
            # What an earlier push left, an adapter's config say, would be loaded with this model or in its place.
            [CommitOperationDelete(name) for name in there if name not in {*sent, *KEPT}]
            + [CommitOperationAdd(name, content) for name, content in sent.items()],
            commit_message=f"The policy of run {asked.run}, sha256 {policy.sha256}",
            parent_commit=about.sha,  # of which these are the files: weights are sent for hours
        )
    return f"{asked.run} with its card and {len(files)} files: {made.commit_url}"


def licence_of(repo: str, revision: str, kind: str) -> str | None:
    """What the Hub's page of a repository at a commit says; None: nothing, or the Hub cannot be asked."""
    api = HfApi(endpoint=constants.ENDPOINT)
    try:
        asked = api.dataset_info if kind == "dataset" else api.model_info
        stated = asked(repo, revision=revision, timeout=TIMEOUT).card_data
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, httpx2.HTTPError, OSError):
        return None
    licence = stated.get("license") if stated else None
    return ", ".join(licence) if isinstance(licence, list) else licence


def _no_name(repo: str) -> UserError:
    return UserError(f"{repo!r} is no Hub repository name; write owner/name.")


@contextmanager
def _one_sentence(repo: str) -> Iterator[None]:
    """Turns what huggingface_hub raises into a `UserError`; subclasses come before their bases."""
    try:
        yield
    except HFValidationError:
        raise _no_name(repo) from None
    except OfflineModeIsEnabled:
        raise UserError(f"HF_HUB_OFFLINE forbids sending {repo}; unset it.") from None
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise UserError(
                f"The Hub does not let you write {repo}: log in with `hf auth login` and a token that may write "
                "there (or set HF_TOKEN)."
            ) from None
        if error.response.status_code == CHANGED:
            raise UserError(
                f"{repo} got another commit while this one was being sent, and is as that left it; run this again."
            ) from None
        raise UserError(
            f"The Hub refused {repo} with status {error.response.status_code} ({first_line(error)}); nothing of the "
            "model is visible there unless it was before."
        ) from None
    except (httpx2.HTTPError, ConnectionError) as error:
        raise UserError(
            f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}): check the network."
        ) from None
    except (RuntimeError, OSError) as error:  # of a file; the commit comes after all of them
        why = error.__cause__ or error
        raise UserError(
            f"{repo} did not get all files ({first_line(error)}: {type(why).__name__}), and nothing of them is visible "
            "there, as they come in one commit; run this again."
        ) from None
    except ValueError as error:  # of the card's metadata, such as a licence that the Hub does not know
        raise UserError(f"The Hub refuses the card of {repo}: {' '.join(str(error).split())}") from None
